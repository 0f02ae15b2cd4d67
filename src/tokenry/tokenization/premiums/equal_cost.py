"""A vocabulary for each language, so that the same text costs the same everywhere: from texts to tokenizers.

    measure    the count of each language at a few sizes, from one BPE training
    fit        a curve through the counts
    solve      the size at which each curve meets one target, or the sizes that share one budget best
    train      a tokenizer of that size, and count again

Source: Explaining and Mitigating Crosslingual Tokenizer Inequities (arXiv 2510.21909), optimal vocabulary; the shared budget is ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Int
from numpy import ndarray
from tokenizers import Tokenizer

from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress
from tokenry.core.text.round_trip import RoundTrip, round_trip
from tokenry.core.text.token_counts import (
    Estimate,
    Segments,
    dispersion_intervals,
    require_parallel,
    segment_token_counts,
)
from tokenry.tokenization.premiums.many_sizes import segment_counts_by_size
from tokenry.tokenization.premiums.vocabulary_choice import (
    allocate_budget,
    optimal_vocab_sizes,
    require_budget,
    require_limits,
    require_target,
)
from tokenry.tokenization.premiums.vocabulary_curve import Number, PowerLaw, fit_vocab_curve, require_points
from tokenry.tokenization.training.byte_level_training import PATTERN, require_vocab_size, train_bpe


@dataclass(frozen=True)
class EqualCost:
    """A vocabulary for each language: curves, sizes and counts.

    Attributes:
        curves: fitted curve of each language.
        target: tokens that the text should cost in all languages; the common level where a budget was shared.
        base_size: vocabulary size for all languages that the result is compared with.
        sizes: chosen size of each language; None where the target is out of reach.
        trained: true vocabulary of each tokenizer; the largest measured size where the target is out of reach.
        fixed: tokens per segment with `base_size` for all.
        measured: tokens per segment with the chosen vocabularies.
        tokenizers: tokenizers with the chosen vocabularies.
        text_back: whether the tokenizers give the texts back.
    """

    curves: Mapping[str, PowerLaw]
    target: float
    base_size: int
    sizes: Mapping[str, int | None]
    trained: Mapping[str, int]
    fixed: Mapping[str, Int[ndarray, "segments"]]
    measured: Mapping[str, Int[ndarray, "segments"]]
    tokenizers: Mapping[str, Tokenizer]
    text_back: Mapping[str, RoundTrip | None] = field(default_factory=dict)

    @property
    def out_of_reach(self) -> list[str]:
        """Languages that no vocabulary brings to the target."""
        return [language for language, size in self.sizes.items() if size is None]

    def spread(self) -> dict[str, dict[str, Estimate]]:
        """Spread of the counts over the languages, with one size for all and with their own."""
        return {"fixed": dispersion_intervals(self.fixed), "own": dispersion_intervals(self.measured)}

    def as_json(self) -> dict[str, Any]:
        """Plain numbers and names."""
        return {
            "target": self.target,
            "base_vocab_size": self.base_size,
            "languages": {
                language: {
                    "vocab_size": self.sizes[language],
                    "trained_vocab_size": self.trained[language],
                    "tokens_fixed": int(self.fixed[language].sum()),
                    "tokens": int(self.measured[language].sum()),
                    "text_back": None if (back := self.text_back.get(language)) is None else back.as_json(),
                    "curve": {
                        name: getattr(curve, name) for name in ("a", "b", "c", "v0", "r2", "sizes", "counts")
                    },
                }
                for language, curve in self.curves.items()
            },
            "spread": {
                when: {name: [figure.value, figure.low, figure.high] for name, figure in figures.items()}
                for when, figures in self.spread().items()
            },
        }


def equal_cost(
    train: Mapping[str, Sequence[str]],
    evaluation: Mapping[str, Segments],
    sizes: Sequence[int],
    target: Number | None = None,
    budget: int | None = None,
    base_size: int | None = None,
    largest: int | None = None,
    pattern: str = PATTERN,
    special_tokens: Sequence[str] = (),
    progress: Progress | None = None,
) -> EqualCost:
    """Find, train and measure a vocabulary for each language.

    Args:
        train: training texts by language.
        evaluation: parallel segments of the same languages.
        sizes: vocabulary sizes to measure; at least four, increasing.
        target: tokens of the whole text; by default the median over the languages at `base_size`.
        budget: sum of vocabularies that is shared instead of aiming at a target.
        base_size: one of `sizes`; by default the one in the middle.
        largest: largest vocabulary of one language.
        pattern: regular expression that cuts a text into pieces.
        progress: function that is told the current step and the share that is done.
    """
    if target is not None and budget is not None:
        raise UserError("give a target or a budget, not both: a budget has its own level.")
    require_points(sizes)
    require_vocab_size(sizes[0], special_tokens)
    smallest = 256 + len(special_tokens)
    if budget is not None:
        require_budget(budget, len(evaluation), smallest, budget if largest is None else largest)
    else:
        require_limits(smallest, largest)
    if target is not None:
        require_target(target)
    base = sizes[len(sizes) // 2] if base_size is None else base_size
    if base not in sizes:
        raise UserError(f"the base size must be one of {', '.join(map(str, sizes))}, got {base}.")
    require_parallel({language: len(segments) for language, segments in evaluation.items()})
    report = progress or (lambda what, share: None)
    counts = {}
    for number, (language, segments) in enumerate(evaluation.items()):
        report(f"measuring {language}", 0.7 * number / len(evaluation))
        tokenizer = train_bpe(train[language], sizes[-1], pattern, special_tokens)
        counts[language] = segment_counts_by_size(tokenizer, segments, sizes)
    curves = {
        language: fit_vocab_curve(sizes, [int(by_size[size].sum()) for size in sizes])
        for language, by_size in counts.items()
    }
    chosen, level = _chosen(curves, target, budget, base, largest, smallest)
    tokenizers = {}
    for number, (language, size) in enumerate(chosen.items()):
        report(f"training {language}", 0.7 + 0.3 * number / len(chosen))
        tokenizers[language] = train_bpe(train[language], size or sizes[-1], pattern, special_tokens)
    return EqualCost(
        curves=curves,
        target=level,
        base_size=base,
        sizes=chosen,
        trained={language: tokenizer.get_vocab_size() for language, tokenizer in tokenizers.items()},
        fixed={language: by_size[base] for language, by_size in counts.items()},
        measured={
            language: segment_token_counts(tokenizer, evaluation[language])
            for language, tokenizer in tokenizers.items()
        },
        tokenizers=tokenizers,
        text_back={
            language: round_trip(tokenizer, (text for segment in evaluation[language] for text in segment))
            for language, tokenizer in tokenizers.items()
        },
    )


def _chosen(
    curves: Mapping[str, PowerLaw],
    target: Number | None,
    budget: int | None,
    base: int,
    largest: int | None,
    smallest: int,
) -> tuple[dict[str, int | None], float]:
    if budget is not None:
        shared = allocate_budget(curves, budget, smallest, largest)
        return dict(shared.sizes), shared.level
    goal: Number | Literal["median"] = "median" if target is None else target
    found = optimal_vocab_sizes(curves, goal, base, smallest, largest)
    return {language: size.vocab_size for language, size in found.items()}, next(iter(found.values())).target
