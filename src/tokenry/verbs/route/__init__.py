"""Two models that write one text, token by token: a small one for most tokens, a large one where it matters."""

ORDER = ("small", "label", "train", "generate", "curve")
