"""Tokenizers, measured and improved: what text costs in each language, and other tokenizers for a model."""

ORDER = ("compare", "premiums", "train", "optimal_vocab", "numbers", "transplant", "zett", "equal_info")
