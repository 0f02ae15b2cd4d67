"""tokenry: the craft of tokens."""

__version__ = "0.1.0"
