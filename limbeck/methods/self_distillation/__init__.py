"""A network that learns from itself: earlier epochs, earlier generations."""
