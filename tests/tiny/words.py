"""Tiny models of words, with weights large enough that what they say depends on what they read, and windows of random words."""

import torch

from tokenry.architectures import FlatConfig, FlatLM, WordPooledConfig, WordPooledLM

UNITS, LONGEST = 12, 5


def word_pooled(seed: int = 0, **settings: object) -> WordPooledLM:
    """Two vectors a word, two layers, words of at most five of twelve units."""
    default = {
        "vocab_size": UNITS,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_prefix": 2,
        "n_word_layer": 2,
        "n_word_head": 2,
    }
    more = {"max_words": 20, "max_word_len": LONGEST, "feed_forward": 24, "dropout": 0.0}
    torch.manual_seed(seed)
    return _loud(WordPooledLM(WordPooledConfig(**(default | more | settings))))


def flat_lm(seed: int = 0, **settings: object) -> FlatLM:
    """Two layers over at most a hundred units."""
    default = {"vocab_size": UNITS, "n_embd": 16, "n_layer": 2, "n_head": 2, "max_units": 100, "dropout": 0.0}
    torch.manual_seed(seed)
    return _loud(FlatLM(FlatConfig.of_sizes(**(default | settings))))


def windows(
    seed: int = 0, lengths: tuple[int, ...] = (6, 2, 4), longest: int = LONGEST
) -> list[list[tuple[int, ...]]]:
    """Random words, some of which are as long as words can be."""
    draw = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=draw))

    return [
        [tuple(number(1, UNITS - 1) for _ in range(number(1, longest))) for _ in range(length)]
        for length in lengths
    ]


def _loud(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()
