"""Give a model another vocabulary: `transplant` composes its rows without training, `zett` predicts them."""
