"""The weights of the released word-pooled code (avi-jit/eTok, `newmodel.py:myGPT`) under the names of `WordPooledLM`.

Its blocks are those of minGPT. In the trunk they become blocks of GPT-2, which holds query, key and value as one matrix, and all matrices
the other way round.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

_OF_MODEL = {
    "in_emb.weight": "embedding.weight",
    "in_pe": "slots.weight",
    "word_pe": "trunk.wpe.weight",
    "ln_f.weight": "trunk.ln_f.weight",
    "ln_f.bias": "trunk.ln_f.bias",
    "head.weight": "head.weight",
}
_OF_POOLING = {
    "self_attn.in_proj_": "attention.projected.",
    "self_attn.out_proj": "attention.output",
    "linear1": "up",
    "linear2": "down",
}


def released_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of the released code (`myGPT`) to those of `WordPooledLM`."""
    found: dict[str, Tensor] = {}
    for name, weight in state.items():
        part, _, rest = name.partition(".")
        if part in ("blocks", "decoder_blocks"):
            continue
        if part == "wordenc":
            _, layer, inner = rest.split(".", 2)
            for old, new in _OF_POOLING.items():
                inner = inner.replace(old, new)
            found[f"pooling.{layer}.{inner}"] = weight
        else:
            value = weight[0] if part in ("in_pe", "word_pe") else weight
            found[_OF_MODEL[name]] = value
    for kind in ("blocks", "decoder_blocks"):
        numbers = sorted({int(name.split(".")[1]) for name in state if name.startswith(f"{kind}.")})
        for number in numbers:
            prefix = f"{kind}.{number}."
            block = {
                name.removeprefix(prefix): weight for name, weight in state.items() if name.startswith(prefix)
            }
            found |= _of_block(block, number, trunk=kind == "blocks")
    return found


def _of_block(block: Mapping[str, Tensor], number: int, trunk: bool) -> dict[str, Tensor]:
    """One block of minGPT: that of GPT-2, whose matrices are the other way round, or one that spells."""
    names = (
        ("trunk.h", "ln_1", "ln_2", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        if trunk
        else ("spelling", "norm1", "norm2", "attention.projected", "attention.output", "up", "down")
    )
    found: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        projected = torch.cat([block[f"attn.{part}.{kind}"] for part in ("query", "key", "value")])
        matrices = (projected, block[f"attn.proj.{kind}"], block[f"mlp.0.{kind}"], block[f"mlp.2.{kind}"])
        turned = [matrix.T.contiguous() if trunk and kind == "weight" else matrix for matrix in matrices]
        parts = (block[f"ln1.{kind}"], block[f"ln2.{kind}"], *turned)
        found |= {
            f"{names[0]}.{number}.{name}.{kind}": part for name, part in zip(names[1:], parts, strict=True)
        }
    return found
