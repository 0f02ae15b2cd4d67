"""Zero-shot tokenizer transfer: a hypernetwork that predicts the embeddings of any vocabulary (ZeTT)."""
