"""Generate from a prompt that was made shorter, and answer as if it had not been.

    sequences = the prompt as it was given + what was generated

so that what follows the prompt is found where it is looked for, and limits on the length of the whole mean what they say.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig


def generate_from_short(
    generate: Callable[..., Any],
    given: Mapping[str, Any],
    short: Mapping[str, Any],
    configs: Sequence[GenerationConfig | None],
    *args: Any,
) -> Any:
    """Call the model's own `generate` on the short prompt.

    Args:
        generate: the model's own.
        given: the arguments of the call, with the long prompt.
        short: the same with the short one.
        configs: the call's generation config, if it has one, and the model's.
        args: further positional arguments.
    """
    long_ids, short_ids = given["input_ids"], short["input_ids"]
    limits = _length_limits(given, configs, long_ids.shape[1] - short_ids.shape[1])
    output = generate(None, configs[0], *args, **{**short, **limits})
    generated = output if isinstance(output, Tensor) else output.sequences
    prompts = long_ids.repeat_interleave(len(generated) // len(long_ids), dim=0).to(generated.device)
    sequences = torch.cat((prompts, generated[:, short_ids.shape[1] :]), dim=1)
    if isinstance(output, Tensor):
        return sequences
    output.sequences = sequences
    return output


def _length_limits(
    given: Mapping[str, Any], configs: Sequence[GenerationConfig | None], removed: int
) -> dict[str, int]:
    """Limits on the length of the whole sequence count the prompt, so they move with it."""

    def limit(name: str) -> int | None:
        values = (given.get(name), *(getattr(config, name, None) for config in configs))
        return next((value for value in values if value is not None), None)

    limited = ["min_length"] if limit("max_new_tokens") else ["max_length", "min_length"]
    return {name: max(value - removed, 0) for name in limited if (value := limit(name))}
