"""Carry fewer tokens: of a prompt, of code, of a long text, inside a vision encoder, and into a language model."""

ORDER = ("prompt", "code", "long_text", "vision", "plan")
