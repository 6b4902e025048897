"""Typed batches, the images they are cut from, and where those come from."""
