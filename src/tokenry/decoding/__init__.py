"""What a model says next, and which one says it."""
