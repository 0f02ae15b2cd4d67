"""Which token, or byte, comes next."""
