"""What is kept for later runs: models made ready, losses computed before training."""
