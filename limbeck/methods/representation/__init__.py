"""Distilling encoders: features rather than decisions."""
