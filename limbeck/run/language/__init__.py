"""Runs on text: the task, the evaluation and the checks of causal language models."""
