"""The model of the reference numbers, with the weights of the authors' code."""

import torch

from tests.golden import golden_arrays
from tokenry.generation import NextXConfig, NextXModel
from tokenry.generation.xar.released_weights import with_released_weights


def released_weights(data):
    """The weights under the authors' names with the tables that their checkpoints hold too; classes that the file does not hold are 0."""
    weights = {name.removeprefix("w/"): value for name, value in data.items() if name.startswith("w/")}
    classes = torch.zeros(1001, int(data["dim"]))
    classes[data["labels"]], classes[1000] = data["class_emb_rows"], data["null_class_emb"]
    tables = {
        "mask": torch.zeros(1, 1, 256, 256),
        "encoder_blocks.0.attn.rope.freqs_cos": torch.ones(256, 12),
    }
    return weights | {"class_emb.weight": classes} | tables


def released_config(data, **options):
    return NextXConfig(
        hidden_size=int(data["dim"]),
        num_attention_heads=int(data["heads"]),
        num_encoder_layers=int(data["enc_depth"]),
        num_decoder_layers=int(data["dec_depth"]),
        dropout=0.0,
        label_dropout=0.0,
        **options,
    )


def released_model():
    data = golden_arrays("34-xar", "dev-train.npz")
    return with_released_weights(NextXModel(released_config(data)), released_weights(data)), data
