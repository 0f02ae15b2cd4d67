"""A cascade that writes: the small model answers every prompt, the large one those whose score is below the threshold.

    cascade = Cascade(small, large, FittedRule.load("rule.json"))
    cascade.generate(prompts, Sampling(max_new_tokens=64))

The small model always works first, so its work on deferred prompts is wasted; each answer says what both spent. An early rule stops it
after `first` tokens, and what it keeps is written anew from the prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tokenry.core.errors import UserError
from tokenry.decoding.cascades import array, pad_logprobs
from tokenry.decoding.deferral_rules import DEFERRAL_RULES, Examples, Scorer
from tokenry.decoding.fitted_rule import FittedRule, WithoutLogprobs
from tokenry.models.identity import ModelIdentity
from tokenry.models.text_model import GREEDY, Generated, Prompt, Sampling, TextModel


@dataclass(frozen=True)
class CascadeAnswer:
    """An answer, and how it came about.

    Attributes:
        text: the answer; the small model's where the large one failed.
        deferred: whether the large model was asked.
        score: the score of the small model's answer; nan where it came without log-probabilities.
        small: everything that the small model wrote, an early rule's beginning included.
        large: the large model's answer; None where it was not asked.
        failure: the reason why a model gave no answer, in a sentence; empty if none failed.
    """

    text: str
    deferred: bool
    score: float
    small: tuple[Generated, ...]
    large: Generated | None
    failure: str = ""

    @property
    def small_tokens(self) -> int:
        """Number of tokens that the small model wrote."""
        return sum(written.completion_tokens for written in self.small)

    @property
    def large_tokens(self) -> int:
        """Number of tokens that the large model wrote."""
        return self.large.completion_tokens if self.large else 0


class Cascade:
    """Two models and the rule between them.

    Args:
        small: answers every prompt; must give log-probabilities.
        large: answers the deferred ones.
        rule: a fitted rule, which refuses other models than its own; a scorer; or the description of a rule that learns nothing, such as
            `average`.
        threshold: answers that score below it are deferred; by default that of the fitted rule.
        without_logprobs: what becomes of an answer without log-probabilities: an error, deferred, or kept; by default as the fitted rule
            says.
        embed: computes the embeddings of prompts, for a rule that was trained with some (`prompt_embeddings`).

    Raises:
        UserError: the rule was fitted for other models or has to be fitted first, or there is no threshold.
    """

    def __init__(
        self,
        small: TextModel,
        large: TextModel,
        rule: FittedRule | Scorer | str,
        threshold: float | int | None = None,
        *,
        without_logprobs: WithoutLogprobs | None = None,
        embed: Callable[[Sequence[Prompt]], Any] | None = None,
    ) -> None:
        self.small, self.large, self.embed = small, large, embed
        self.first: int | None = None
        self.without_logprobs: WithoutLogprobs = without_logprobs or "refuse"
        if isinstance(rule, FittedRule):
            rule.require_models(ModelIdentity.of(small), ModelIdentity.of(large))
            threshold = rule.threshold if threshold is None else threshold
            self.first = rule.first
            self.without_logprobs = without_logprobs or rule.without_logprobs
        if threshold is None:
            raise UserError(
                "a rule that was not fitted has no threshold: give one, or fit the rule (`tokenry cascade fit`)."
            )
        self.scorer = _without_fitting(rule) if isinstance(rule, str) else rule
        self.threshold = float(threshold)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling = GREEDY) -> list[CascadeAnswer]:
        """Answer each prompt.

        Raises:
            UserError: several samples per prompt, or an answer without log-probabilities where that is refused.
        """
        if sampling.samples != 1:
            raise UserError(f"a cascade decides on one answer per prompt, got samples={sampling.samples}.")
        sampling = replace(sampling, log_probs=True)
        begun = sampling
        if self.first is not None:
            begun = replace(sampling, max_new_tokens=min(self.first, sampling.max_new_tokens))
        drafts = self.small.generate(prompts, begun)
        scores, deferred = self._decide(prompts, drafts)
        cut = [
            place
            for place, draft in enumerate(drafts)
            if not deferred[place] and draft.finish_reason == "length" and begun is not sampling
        ]
        whole = dict(
            zip(
                cut,
                self.small.generate([prompts[place] for place in cut], sampling) if cut else [],
                strict=True,
            )
        )
        asked = np.flatnonzero(deferred).tolist()
        large = dict(
            zip(
                asked,
                self.large.generate([prompts[place] for place in asked], sampling) if asked else [],
                strict=True,
            )
        )
        return [
            _answer(
                (draft, *([whole[place]] if place in whole else [])), large.get(place), float(scores[place])
            )
            for place, draft in enumerate(drafts)
        ]

    def _decide(
        self, prompts: Sequence[Prompt], drafts: Sequence[Generated]
    ) -> tuple[np.ndarray, np.ndarray]:
        scores, deferred = np.full(len(drafts), np.nan), np.zeros(len(drafts), dtype=bool)
        known = [place for place, draft in enumerate(drafts) if draft.log_probs is not None]
        if known:
            outputs = pad_logprobs([drafts[place].log_probs or () for place in known])
            embeddings = self.embed([prompts[place] for place in known]) if self.embed else None
            scores[known] = array(self.scorer.score(*outputs, embeddings))
            deferred[known] = scores[known] < self.threshold
        for place, draft in enumerate(drafts):
            if draft.finish_reason == "failed":
                deferred[place] = True
            elif draft.log_probs is None:
                if self.without_logprobs == "refuse":
                    raise UserError(
                        f"{self.small.name} gave no log-probabilities for prompt {place}, so its answer has no score: use a model that "
                        'gives them, or say what is to become of such answers with without_logprobs="defer" or "keep".'
                    )
                deferred[place] = self.without_logprobs == "defer"
        return scores, deferred


def _without_fitting(description: str) -> Scorer:
    """The scorer of a rule that learns nothing from examples."""
    if DEFERRAL_RULES.parse(description)[0] not in ("sum", "average") and "alpha=" not in description:
        raise UserError(
            f"the rule {description!r} learns from examples: fit it first (`tokenry cascade fit`)."
        )
    nothing = Examples(*pad_logprobs([]), np.empty(0), np.empty(0))
    return DEFERRAL_RULES.make(description).fit(nothing)


def _answer(small: tuple[Generated, ...], large: Generated | None, score: float) -> CascadeAnswer:
    last = small[-1] if large is None or large.finish_reason == "failed" else large
    failures = [written.failure for written in (*small, large) if written is not None and written.failure]
    return CascadeAnswer(last.text, large is not None, score, small, large, " ".join(failures))
