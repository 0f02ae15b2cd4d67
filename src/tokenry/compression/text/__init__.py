"""Carry fewer tokens of a text: of a prompt, of code, of a long document."""

__all__: list[str] = []
