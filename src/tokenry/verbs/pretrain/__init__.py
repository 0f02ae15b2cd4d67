"""Pretrain a model, or continue."""
