"""Training and distilling without bringing the data together."""
