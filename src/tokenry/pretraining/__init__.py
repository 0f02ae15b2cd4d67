"""How a model is pretrained: its objective, its schedule, its size, and how flat its minimum is."""

__all__: list[str] = []
