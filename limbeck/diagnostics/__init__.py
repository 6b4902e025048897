"""Analysis papers as tools: pure functions of a model's predictions."""
