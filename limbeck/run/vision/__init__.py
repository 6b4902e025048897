"""Runs on images: the task, the evaluation and the checks of image classifiers."""
