"""Distilling classifiers. Import a method from its own file: ``from limbeck.methods.classification.kd import KD``."""
