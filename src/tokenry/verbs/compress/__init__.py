"""Carry fewer tokens: of a prompt, of a long text, inside a vision encoder, and into a language model."""

ORDER = ("prompt", "long_text", "vision", "plan")
