"""Bandits, small MDPs, and tasks of the learning literature."""
