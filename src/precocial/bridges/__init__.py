"""Networks that were trained elsewhere, read from what other libraries save."""
