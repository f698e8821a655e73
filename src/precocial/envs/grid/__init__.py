"""Grids with something hidden."""
