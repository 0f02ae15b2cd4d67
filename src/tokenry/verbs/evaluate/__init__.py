"""Measure a model: on held-out data (the default), encoders side by side, on additions, on characters inside words."""

DEFAULT = "held-out"
ORDER = ("held_out", "encoders", "arithmetic", "charbench")
