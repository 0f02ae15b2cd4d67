"""Exact byte probabilities of a language model, whatever its tokenizer, for prompts that end anywhere."""

ORDER = ("next_", "score", "generate", "self_test")
