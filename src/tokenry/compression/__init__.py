"""Carry fewer tokens: through a vision transformer, into a vision-language model, in a text."""
