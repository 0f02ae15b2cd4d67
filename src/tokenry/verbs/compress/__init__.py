"""Carry fewer tokens: inside a vision encoder, and into a language model."""

ORDER = ("vision", "plan")
