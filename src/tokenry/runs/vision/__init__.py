"""Reduce the tokens of an image encoder on a user's own images, and measure what that costs and brings."""
