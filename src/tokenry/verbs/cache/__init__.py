"""The cache: converted models, and losses computed before training."""
