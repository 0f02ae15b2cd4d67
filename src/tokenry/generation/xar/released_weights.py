"""xAR's released weights: under their own names, with positions in the order of the entities instead of the grid's."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tokenry.core.errors import UserError
from tokenry.generation.xar.next_x import NextXModel
from tokenry.generation.xar.next_x_config import NextXConfig


def load_released_next_x(path: str | Path, config: NextXConfig) -> NextXModel:
    """A model with the weights that the authors released, under the names they have there.

    Args:
        path: a safetensors file (of a .pth: `save_file(torch.load(path, weights_only=True)["model_ema"], "xar.safetensors")`).
        config: such as `NextXConfig.of_size("B")`.

    Raises:
        UserError: a file that cannot be read, or weights of another model.
    """
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} is no safetensors file ({error}): convert the released .pth first, see load_released_next_x."
        ) from error
    model = NextXModel(config)
    return with_released_weights(model, weights)


def with_released_weights(model: NextXModel, weights: dict[str, Tensor]) -> NextXModel:
    """Give a model the weights of the authors' code, whose positions are in the order of the entities.

    Raises:
        UserError: weights of another model.
    """
    config, order = model.config, model.partitions[0].order
    found = {}
    for name, weight in weights.items():
        if name.endswith("pos_embed_learned"):
            in_grid = torch.empty_like(weight[0])
            if len(order) != len(in_grid):
                raise UserError(
                    f"the released positions are {len(in_grid)}, and the grid has {len(order)} tokens."
                )
            in_grid[order] = weight[0]
            weight = in_grid
        found[_renamed(name, config.num_encoder_layers)] = weight
    try:
        model.load_state_dict(found)
    except RuntimeError as error:
        raise UserError(f"the released weights do not fit the configuration: {error}.") from error
    return model


_RELEASED = {
    "encoder_pos_embed_learned": "encoder_positions",
    "decoder_pos_embed_learned": "decoder_positions",
    "class_emb.": "class_embedding.",
    "time_embed.": "time_embedding.",
    "z_proj_ln.weight": "input_norm",
    "z_proj.": "input.",
    "encoder_norm.weight": "encoder_norm",
    "decoder_norm.weight": "decoder_norm",
    "decoder_embed.": "decoder_input.",
    "pred.": "head.",
    ".attn.qkv.": ".qkv.",
    ".attn.proj.": ".projection.",
    ".mlp.fc1_g.": ".gate.",
    ".mlp.fc1_x.": ".up.",
    ".mlp.fc2.": ".down.",
    ".ada_lin.1.": ".modulation.linear.",
}


def _renamed(name: str, encoder_layers: int) -> str:
    for theirs, ours in _RELEASED.items():
        name = name.replace(theirs, ours)
    for theirs, first in (("encoder_blocks.", 0), ("decoder_blocks.", encoder_layers)):
        if name.startswith(theirs):
            number, rest = name.removeprefix(theirs).split(".", 1)
            name = f"layers.{first + int(number)}.{rest}"
    return name
