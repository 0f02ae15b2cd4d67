"""Training of models that TRL does not train: one layer on `transformers.Trainer`, with batches that depend on their number alone."""
