"""Environments of one's own."""
