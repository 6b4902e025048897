"""One file per published method, in one folder per family."""
