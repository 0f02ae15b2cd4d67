"""Give a model any tokenizer: train a hypernetwork once, then transfer in one pass."""

ORDER = ("train", "transfer")
