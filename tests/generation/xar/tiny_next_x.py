"""A small `NextXModel` whose blocks do something from the start, and rows to train it on."""

import torch

from tokenry.generation import NextXConfig, NextXModel


def next_x(partitions=("cell:2",), side=4, seed=0, **options):
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1}
    config = NextXConfig(channels=3, height=side, width=side, partitions=partitions, classes=5, **(sizes | {"dropout": 0.0} | options))  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = NextXModel(config)
        for layer in model.layers:
            torch.nn.init.normal_(layer.modulation.linear.weight, std=0.5)
            torch.nn.init.normal_(layer.modulation.linear.bias, std=0.5)
    return model.eval()


def rows(number=6, side=4):
    generator = torch.Generator().manual_seed(0)
    return [
        {"latents": torch.randn(3, side, side, generator=generator), "class_labels": torch.tensor(row % 5)}
        for row in range(number)
    ]
