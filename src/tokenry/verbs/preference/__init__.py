"""Preference losses: what they say, which way they move a model, and training with any of them."""

ORDER = ("explain", "lattice", "diagnose", "train")
