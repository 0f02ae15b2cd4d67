"""Does a small model's token send a text another way? Verdicts on mismatches: 1 divergent, 0 neutral, -1 none.

    LogProbGap      log p(written token) − log p(small model's token) under the large model > 1.5 nats: no continuation is needed
    ExactVerifier   the large model goes on from the small model's token to the end; the outcomes of both answers differ
    JudgeVerifier   it goes on to the end of the sentence; a judge reads the common context and both sentences (the paper's)

A judge is any `TextModel`: the large model itself, another local one, or an endpoint. `agreement` compares the verdicts of two verifiers.

Source: R2R (arXiv 2505.21600), section 4.1, with a judge of 72B parameters; the other two are ours.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError, require_at_least
from tokenry.decoding.r2r.features import Response
from tokenry.decoding.r2r.sentence_context import sentence_context, stop_token_ids
from tokenry.models.text_model import Sampling, TextModel

Reach = Literal["token", "sentence", "answer"]
"""How far the large model goes on from a small model's token: not at all, to the end of the sentence, or of the answer."""

_SAID = re.compile(r"\boutput\b\D*?(\d+)", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Divergence:
    """A token that the small model would have written otherwise, and what follows either.

    Attributes:
        text: number of the response.
        position: place of the token among prompt and answer.
        small_token: what the small model would have written.
        small: what the large model writes after that.
        large: what it wrote after its own token, as far.
        gap: log-probability of its own token less that of the small model's, in nats, under the large model.
    """

    text: int
    response: Response
    position: int
    small_token: int
    small: Sequence[int]
    large: Sequence[int]
    gap: float

    @property
    def large_token(self) -> int:
        """What the large model wrote."""
        return self.response.ids[self.position]

    @property
    def small_answer(self) -> list[int]:
        """The answer with the small model's token and what follows it."""
        before = self.response.ids[len(self.response.prompt_ids) : self.position]
        return [*before, self.small_token, *self.small]


class DivergenceVerifier(ABC):
    """Judges divergences.

    Attributes:
        reach: how far the large model must go on before it can.
    """

    reach: ClassVar[Reach]

    @abstractmethod
    def __call__(self, divergences: Sequence[Divergence]) -> list[int]:
        """Judge each of them: 1 divergent, 0 neutral, -1 no verdict."""


@dataclass(frozen=True)
class LogProbGap(DivergenceVerifier):
    """The large model itself finds the small model's token much less likely than its own.

    Attributes:
        threshold: difference of the log-probabilities in nats above which a token is divergent.
    """

    threshold: float | int = 1.5
    reach: ClassVar[Reach] = "token"

    def __post_init__(self) -> None:
        require_at_least(0, threshold=self.threshold)

    def __call__(self, divergences: Sequence[Divergence]) -> list[int]:
        """Compare each gap with the threshold."""
        return [int(divergence.gap > self.threshold) for divergence in divergences]


@dataclass(frozen=True)
class ExactVerifier(DivergenceVerifier):
    """The answer comes to something else.

    Attributes:
        outcome: what an answer comes to, from the number of its response and its tokens: a number, or whether it is right.
    """

    outcome: Callable[[int, Sequence[int]], Any]
    reach: ClassVar[Reach] = "answer"

    def __call__(self, divergences: Sequence[Divergence]) -> list[int]:
        """Compare the outcomes of both answers."""
        return [
            int(
                self.outcome(divergence.text, divergence.small_answer)
                != self.outcome(divergence.text, list(divergence.response.token_ids))
            )
            for divergence in divergences
        ]


class JudgeVerifier(DivergenceVerifier):
    """A language model judges whether two sentences mean the same.

    Args:
        judge: the model that is asked.
        tokenizer: tokenizer of the two models whose tokens are judged.
        stops: further tokens that end a sentence, such as `<think>` and `</think>`.
    """

    reach: ClassVar[Reach] = "sentence"

    def __init__(
        self, judge: TextModel, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str] = ()
    ) -> None:
        self._judge, self._tokenizer = judge, tokenizer
        self._stops = frozenset(stop_token_ids(tokenizer, stops))

    def __call__(self, divergences: Sequence[Divergence]) -> list[int]:
        """Ask about each of them; an answer without a verdict is none."""
        prompts = [[{"role": "user", "content": self.question(divergence)}] for divergence in divergences]
        answers = self._judge.generate(prompts, Sampling(max_new_tokens=16, log_probs=False))
        return [parse_verdict(answer.text) for answer in answers]

    def question(self, divergence: Divergence) -> str:
        """What the judge is asked about a divergence."""
        common, small = self._sentence(divergence, divergence.small_token, divergence.small)
        _, large = self._sentence(divergence, divergence.large_token, divergence.large)
        return _QUESTION.format(common=common, one=small, other=large)

    def _sentence(self, divergence: Divergence, token: int, after: Sequence[int]) -> tuple[str, str]:
        before = divergence.response.ids[: divergence.position]
        # Where a sentence ends twice in a row the token belongs to the end of the last one, and the next one is compared.
        is_next = token in self._stops and before[-1] in self._stops
        texts = [self._tokenizer.decode(list(ids)) for ids in (before, [token], after)]
        return sentence_context(texts[0], f"<<{texts[1]}>>", texts[2], is_next)


_QUESTION = """Two writers share a context and then part at one token, marked << >>. The marks are not part of the text.

Context:
{common}

Sentence A:
{one}

Sentence B:
{other}

Say 1 if the difference changes what is meant, how the reasoning goes on, or what follows from it; also if one sentence brings in something \
new or contradicts the context. Say 0 if only the wording differs.
Answer with "Output: 0" or "Output: 1" and nothing else."""


def parse_verdict(text: str) -> int:
    """The verdict in a judge's answer: the first number after "output", else the first number; -1 if it is not 0 or 1."""
    found = _SAID.search(text)
    number = found.group(1) if found else (_NUMBER.findall(text) or ["-1"])[0]
    return int(number) if int(number) in (0, 1) else -1


@dataclass(frozen=True)
class Agreement:
    """How far two verifiers agree.

    Attributes:
        count: mismatches on which both have a verdict.
        share: share of these on which they agree.
        kappa: Cohen's kappa, agreement beyond chance; nan where a verifier says the same of all.
        divergent: share of divergent verdicts of either.
    """

    count: int
    share: float
    kappa: float
    divergent: tuple[float, float]


def agreement(one: Sequence[int], other: Sequence[int]) -> Agreement:
    """Compare the verdicts of two verifiers on the same mismatches."""
    if len(one) != len(other):
        raise UserError(
            f"{len(one)} verdicts against {len(other)}: give those of both verifiers on the same mismatches."
        )
    pairs = [pair for pair in zip(one, other, strict=True) if min(pair) >= 0]
    if not pairs:
        return Agreement(0, math.nan, math.nan, (math.nan, math.nan))
    share = sum(left == right for left, right in pairs) / len(pairs)
    left, right = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    chance = left * right + (1 - left) * (1 - right)
    return Agreement(
        len(pairs), share, (share - chance) / (1 - chance) if chance < 1 else math.nan, (left, right)
    )
