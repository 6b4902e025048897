"""Language models that learn from other language models."""
