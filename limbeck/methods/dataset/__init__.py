"""Small sets of data that stand for large ones."""
