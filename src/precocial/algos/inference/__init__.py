"""Task inference off-policy."""
