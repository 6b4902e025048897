"""Runs whose data stay with clients."""
