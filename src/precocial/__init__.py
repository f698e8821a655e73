"""Precocial: agents that adapt."""
