"""What every family shares, and nothing else; imports no family."""
