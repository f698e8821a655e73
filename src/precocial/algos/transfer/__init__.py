"""Beginning from what was learned elsewhere."""
