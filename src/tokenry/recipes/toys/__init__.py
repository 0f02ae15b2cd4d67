"""The small models and data on which recipes try a claim."""
