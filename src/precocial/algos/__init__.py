"""Algorithms, one file per paper."""
