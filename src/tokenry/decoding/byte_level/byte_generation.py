"""Sampling bytes: temperature and nucleus on next-byte distributions, prompts that fill in the middle.

    tempered = (p + 1e-7)^(1 / temperature), normalised; the most probable byte below a temperature of 0.1
    nucleus  = most probable first, drop what has more than `top_p` before it, normalise

Source: Exact Byte-Level Probabilities from Tokenized Language Models (arXiv 2410.09303), section 5 and its released defaults.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError, require_one_of

Why = Literal["end", "stop", "length"]

_FLOOR = 1e-7
_GREEDY_BELOW = 0.1


@dataclass(frozen=True)
class GeneratedBytes:
    """Bytes that were sampled after a prompt.

    Attributes:
        text: without the prompt, and without the stop string.
        log_prob: of all sampled bytes (the end and a stop string with them) under the model, in nats.
        why: why it ended: the end of the text, a stop string, or the length.
    """

    text: bytes
    log_prob: float
    why: Why


def tempered(
    probabilities: Float[np.ndarray, "outcomes"], temperature: float | int
) -> Float[np.ndarray, "outcomes"]:
    """Sharpen (below 1) or flatten a distribution.

    Raises:
        UserError: a negative temperature.
    """
    require_temperature(temperature)
    if temperature < _GREEDY_BELOW:
        return np.eye(len(probabilities))[int(probabilities.argmax())]
    powers = np.log(probabilities + _FLOOR) / temperature
    raised = np.exp(powers - powers.max())
    return raised / raised.sum()


def nucleus(
    probabilities: Float[np.ndarray, "outcomes"], top_p: float | int
) -> Float[np.ndarray, "outcomes"]:
    """Keep the most probable outcomes until more than `top_p` comes before the next one; equal ones in their order.

    Raises:
        UserError: `top_p` is not in (0, 1].
    """
    require_top_p(top_p)
    order = np.argsort(-probabilities, kind="stable")
    before = np.cumsum(probabilities[order]) - probabilities[order]
    kept = np.zeros_like(probabilities)
    kept[order] = np.where(before > top_p, 0.0, probabilities[order])
    return kept / kept.sum()


def require_temperature(temperature: float | int) -> None:
    """Raise `UserError` unless bytes can be sampled at this temperature."""
    if not temperature >= 0:
        raise UserError(
            f"temperature must not be negative, got {temperature}: use 0 for the most probable byte."
        )


def require_top_p(top_p: float | int) -> None:
    """Raise `UserError` unless `top_p` is a share of the probability to sample from."""
    if not 0.0 < top_p <= 1.0:
        raise UserError(f"top_p must be in (0, 1], got {top_p}: 1 samples from all bytes.")


def draw(
    logprobs: Float[np.ndarray, "257"],
    temperature: float | int,
    top_p: float | int,
    random: np.random.Generator,
) -> int:
    """Draw the next byte, or 256 for the end of the text."""
    probabilities = np.exp(logprobs)
    sampled = nucleus(tempered(probabilities, temperature), top_p)
    # The floor of the temperature must not make possible what is not.
    sampled = np.where(probabilities > 0, sampled, 0.0)
    return int(random.choice(len(sampled), p=sampled / sampled.sum()))


def fill_in_middle(
    tokenizer: PreTrainedTokenizerBase,
    prefix: bytes,
    suffix: str,
    sentinels: tuple[str, str, str] = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    order: str = "suffix-prefix-middle",
) -> tuple[list[int], bytes]:
    """Lay out a prompt that asks for what stands between two texts, exactly from the cursor on.

    With the suffix first the prefix comes last, and may end inside a token or a character; it becomes the bytes that the middle goes on
    from. With the prefix first the middle begins after a sentinel, and the prefix must be whole characters.

    Args:
        tokenizer: of a model that was trained for it.
        prefix: before the cursor.
        suffix: after it.
        sentinels: its special tokens for the beginning of prefix, suffix and middle.
        order: `suffix-prefix-middle` or `prefix-suffix-middle`, as the model was trained.

    Returns:
        `context_ids` and the prompt for `generate`.

    Raises:
        UserError: a sentinel is no token, or the prefix ends inside a character where it must not.
    """
    require_one_of(order, ("suffix-prefix-middle", "prefix-suffix-middle"), "order")
    vocabulary = tokenizer.get_vocab()
    missing = [sentinel for sentinel in sentinels if sentinel not in vocabulary]
    if missing:
        raise UserError(
            f"the tokenizer has no token {missing[0]!r}: name its sentinels for prefix, suffix and middle."
        )
    before, after, middle = (vocabulary[sentinel] for sentinel in sentinels)
    after_ids = tokenizer(suffix, add_special_tokens=False)["input_ids"]
    if order == "suffix-prefix-middle":
        return [before, after, *after_ids, middle], prefix
    try:
        prefix_ids = tokenizer(prefix.decode(), add_special_tokens=False)["input_ids"]
    except UnicodeDecodeError as error:
        raise UserError(
            "the prefix ends inside a character, which tokens before a sentinel cannot: use order='suffix-prefix-middle'."
        ) from error
    return [before, *prefix_ids, after, *after_ids, middle], b""
