"""Cheap dynamics written as tensors."""
