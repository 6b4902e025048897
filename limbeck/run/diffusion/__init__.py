"""Runs on samples: the task, the evaluation and the checks of diffusion and flow models."""
