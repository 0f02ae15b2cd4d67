"""Carry fewer tokens: inside a vision encoder, into a language model, and of a long text."""

ORDER = ("vision", "plan", "long_text")
