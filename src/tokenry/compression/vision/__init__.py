"""Carry fewer visual tokens: reduction inside vision encoders, and between a vision encoder and a language model."""
