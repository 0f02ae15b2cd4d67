"""Give a model shorter prompts than its caller does, and return what the caller expects of the whole prompt.

    forward      runs on the short prompt; its output has the short length
    sequences  = the prompt as it was given + the generated tokens

so that the answer begins after the given prompt, and limits on the length of the whole sequence keep their meaning.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from tokenry.core.tensors.handles import Handle, replaced


class ShortPrompts(Handle):
    """A model whose `forward` and `generate` get shorter prompts; a subclass says how a prompt that brings images is shortened."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._generate = self._model.generate
        self._arguments = tuple(inspect.signature(self._model.forward).parameters)
        self._generating = False
        self._on_removal(
            replaced(self._model, "generate", self._generate_from_short),
            self._model.register_forward_pre_hook(self._before_forward, with_kwargs=True).remove,
        )

    def _shortened(self, inputs: dict[str, Any], generating: bool) -> dict[str, Any] | None:
        """The arguments with the short prompt; None where no image is to be encoded."""
        raise NotImplementedError

    def _before_forward(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._generating:
            return None
        short = self._shortened(dict(zip(self._arguments, args, strict=False)) | kwargs, generating=False)
        return None if short is None else ((), short)

    def _generate_from_short(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        given = kwargs if inputs is None else {**kwargs, "input_ids": inputs}
        short = self._shortened(given, generating=True)
        if short is None:
            return self._generate(inputs, generation_config, *args, **kwargs)
        configs = (generation_config, self._model.generation_config)
        self._generating = True
        try:
            return generate_from_short(self._generate, given, short, configs, *args)
        finally:
            self._generating = False


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
        short: the same arguments with the short prompt.
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
