"""Carry fewer tokens: of a prompt, inside a vision encoder, and into a language model."""

ORDER = ("prompt", "vision", "plan")
