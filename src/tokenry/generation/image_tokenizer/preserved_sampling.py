"""Sampling that keeps a share of the real tokens: images between a reconstruction and a sample, for post-training a decoder.

    keep_i   = u_i < sigma                         one draw for every token, before sampling
    w_s      = 1 + (G − 1) · (1 − cos(π (s / T)^p)) / 2
    logits   = uncond + w_s (cond − uncond), divided by the temperature
    token_i  = real token where kept, else the sample, and it is fed back            (the first index whose cumulative p ≥ u)

sigma = 1 gives the reconstruction, sigma = 0 a free sample.

Source: Image Tokenizer Needs Post-Training (RobusTok), arXiv 2509.12474, section 4; guidance of RAR, arXiv 2411.00776.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from transformers import DynamicCache, PreTrainedModel

from tokenry.core.errors import UserError, require_at_least, require_fraction
from tokenry.generation.image_tokenizer.vector_quantizer import require_codes

NextLogits: TypeAlias = Callable[
    [Int[Tensor, "images seen"]],
    tuple[Float[Tensor, "images codes"], Float[Tensor, "images codes"] | None],
]
"""Answers the tokens so far (none at first) with the logits of the next one, with the class and without (None: no guidance)."""


@dataclass(frozen=True)
class PreservedSampling:
    """How tokens are sampled.

    Attributes:
        sigma: share of the real tokens that is kept.
        temperature: what logits are divided by.
        guidance: strength of the guidance at the last token, G; 1 for none.
        guidance_power: exponent of its rise, p.
    """

    sigma: float | int = 0.7
    temperature: float | int = 1.0
    guidance: float | int = 1.0
    guidance_power: float | int = 1.0

    def __post_init__(self) -> None:
        require_fraction(self.sigma, "sigma")
        require_at_least(0, guidance=self.guidance)
        for name in ("temperature", "guidance_power"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}.")

    def weight(self, step: int, length: int) -> float:
        """Strength of the guidance at a step of `length`."""
        risen = (1 - math.cos(math.pi * (step / length) ** self.guidance_power)) / 2
        return 1 + (self.guidance - 1) * risen


@torch.no_grad()
def preserved_generate(
    next_logits: NextLogits,
    tokens: Int[Tensor, "images length"],
    sampling: PreservedSampling,
    generator: Generator | None = None,
    u_keep: Float[Tensor, "images length"] | None = None,
    u_sample: Float[Tensor, "images length"] | None = None,
) -> Int[Tensor, "images length"]:
    """Sample token sequences that keep a share of the real ones.

    Args:
        next_logits: the generator, conditioned on the class of each image.
        tokens: the real tokens.
        generator: of the random numbers, on the CPU.
        u_keep: uniform numbers in the place of drawn ones: a token is kept below sigma.
        u_sample: uniform numbers that samples are drawn by.

    Raises:
        UserError: guidance from a generator that has no logits without the class, or logits for fewer codes than the tokens have.
    """
    length = tokens.shape[1]
    if u_keep is None:
        u_keep = torch.rand(tokens.shape, generator=generator)
    if u_sample is None:
        u_sample = torch.rand(tokens.shape, generator=generator)
    kept = (u_keep < sampling.sigma).to(tokens.device)
    mixed = tokens.clone()
    if bool(kept.all()):
        return mixed
    for step in range(length):
        conditional, unconditional = next_logits(mixed[:, :step])
        if step == 0:
            require_codes(tokens, conditional.shape[-1])
        logits = conditional
        if sampling.guidance != 1:
            if unconditional is None:
                raise UserError(
                    f"guidance {sampling.guidance} needs a generator that was trained without the class too: use guidance=1."
                )
            logits = unconditional + sampling.weight(step, length) * (conditional - unconditional)
        drawn = inverse_cdf(logits / sampling.temperature, u_sample[:, step].to(logits.device))
        mixed[:, step] = torch.where(kept[:, step], tokens[:, step], drawn)
    return mixed


def inverse_cdf(logits: Float[Tensor, "rows codes"], u: Float[Tensor, "rows"]) -> Int[Tensor, "rows"]:
    """The first index whose cumulative probability reaches `u`; sums are in float64."""
    cumulative = logits.double().softmax(-1).cumsum(-1)
    return (cumulative < u[:, None].double()).sum(-1).clamp(max=logits.shape[-1] - 1)


class ClassConditionalLM:
    """Any causal language model of transformers as a generator of image tokens, with a cache.

    The vocabulary holds the codes, then the classes, then perhaps one token for no class; a sequence is the token of the class and the
    image's tokens row by row.

    Args:
        model: the language model.
        codes: number of codes.
        classes: class of each image that is to be sampled.
        guided: make logits without the class as well, by the last token of the vocabulary.

    Raises:
        UserError: a class that the vocabulary does not hold.
    """

    def __init__(
        self, model: PreTrainedModel, codes: int, classes: Int[Tensor, "images"], guided: bool = False
    ) -> None:
        size = model.get_input_embeddings().weight.shape[0]
        there = size - codes - guided
        if there < 1 or not (int(classes.min()) >= 0 and int(classes.max()) < there):
            raise UserError(
                f"the generator's vocabulary of {size} holds {codes} codes{', the token for no class' * guided} and {max(there, 0)} classes, but class "
                f"{int(classes.max())} is asked for: give the generator of this tokenizer, and labels from 0 on."
            )
        self._model, self._codes = model, codes
        starts = [codes + classes.to(model.device)]
        if guided:
            starts.append(torch.full_like(starts[0], size - 1))
        self._starts, self._cache = torch.cat(starts), DynamicCache(config=model.config)

    def __call__(self, seen: Int[Tensor, "images seen"]) -> tuple[Tensor, Tensor | None]:
        """The next logits; tokens must come one by one."""
        sides = len(self._starts) // len(seen)
        given = self._starts[:, None] if seen.shape[1] == 0 else seen[:, -1:].repeat(sides, 1)
        output: Any = self._model(input_ids=given, past_key_values=self._cache, use_cache=True)
        logits = output.logits[:, -1, : self._codes].float().chunk(sides)
        return logits[0], logits[1] if sides == 2 else None
