"""How far SIFT goes with a question, and what it may spend."""

from dataclasses import dataclass

from tokenry.core.errors import UserError, require_at_least, require_one_of

CONSISTENCIES = ("none", "sticker", "prediction", "sift")


@dataclass(frozen=True)
class SIFTConfig:
    """How far a question goes, and what may be spent.

    Attributes:
        max_stage: last stage before the plain answer: 1, 2 or 3.
        repeats: attempts at stage 2 and at stage 3.
        typed: whether a sticker that lacks a number of its question is corrected at once, without predictions from it.
        consistency: what is sampled several times and voted on: `sticker`, `prediction`, the whole of `sift`, or `none`.
        samples: number of samples that are voted on.
        max_calls: number of texts after which nothing more is asked; what is finished is kept.
        max_tokens: number of tokens, prompts included, that is not passed; a text counts with the maximum number of its tokens before it
            is written, its prompt after that.
    """

    max_stage: int = 3
    repeats: tuple[int, ...] = (1, 1)
    typed: bool = False
    consistency: str = "none"
    samples: int = 10
    max_calls: int | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_stage not in (1, 2, 3):
            raise UserError(f"max_stage must be 1, 2 or 3, got {self.max_stage}.")
        if len(self.repeats) != 2 or min(self.repeats) < 1:
            raise UserError(
                f"repeats must be two numbers of at least 1, for stage 2 and stage 3, got {self.repeats}."
            )
        require_one_of(self.consistency, CONSISTENCIES, "consistency")
        require_at_least(1, samples=self.samples, max_calls=self.max_calls, max_tokens=self.max_tokens)
