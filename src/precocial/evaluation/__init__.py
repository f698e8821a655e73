"""One protocol for every method."""
