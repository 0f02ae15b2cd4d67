"""A drafter inside a language model, which lets it write several tokens per step: training, writing and measuring."""

ORDER = ("train", "generate", "bench")
