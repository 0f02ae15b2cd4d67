"""Measure a model: on held-out data (the default), on additions, on characters inside words."""

DEFAULT = "held-out"
ORDER = ("held_out", "arithmetic", "charbench")
