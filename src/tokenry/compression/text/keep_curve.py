"""Does a scorer beat random words here? What prompts are worth to their reader, by the share of the words that is kept.

    quality(keep)    of the prompts shortened by the scorer, by random scores, and by the scorer upside down
    difference       scorer − random at equal keep: over prompts, or over draws of the random words where prompts are few
    area             mean quality over the shares, by trapezoids up to the whole prompt

Quality is any judge's: log-probability of a known answer (`AnswerLikelihood`), or whether a label stays (`LabelKept`). With a tokenizer of the
target model, random and bottom words get as many of its tokens as the scorer's; without one, as many words.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import nn
from transformers import PreTrainedTokenizerBase

from tokenry.compression.text.frugal_prompt import Compressed, PromptCompressor
from tokenry.compression.text.scorers import ScoredText, bottom_scores, random_scores
from tokenry.core.errors import UserError, require_at_least, require_share
from tokenry.core.io.progress import Progress
from tokenry.core.stats import FEWEST_ITEMS, Estimate, Verdict, estimate_of_mean, shown
from tokenry.core.tensors.generation import answer_log_probs
from tokenry.core.tensors.output_head import causal_lm
from tokenry.models.text_classifier import Targets, TextClassifier

Judge = Callable[[Sequence[int], Sequence[str]], Float[ndarray, "texts"]]
"""What texts are worth, higher = better, given the number of the prompt that each was made from."""

SHARES = (0.8, 0.6, 0.5, 0.3)
ARMS = ("scorer", "random", "bottom")


@dataclass(frozen=True)
class KeepCurve:
    """The quality of shortened prompts.

    Attributes:
        shares: shares of the words that were kept.
        full: quality of every whole prompt.
        scorer: of every prompt shortened by the scorer, by share.
        random: likewise at random, by share and draw.
        bottom: likewise by the scorer upside down.
        tokens: mean tokens of the prompts shortened by the scorer, by share; words without a tokenizer.
    """

    shares: tuple[float, ...]
    full: Float[ndarray, "prompts"]
    scorer: Float[ndarray, "shares prompts"]
    random: Float[ndarray, "shares draws prompts"]
    bottom: Float[ndarray, "shares prompts"]
    tokens: Float[ndarray, "shares"]

    def quality(self, arm: str) -> Float[ndarray, "shares prompts"]:
        """Of `scorer`, `random` (mean over the draws) or `bottom`."""
        found: ndarray = self.random.mean(axis=1) if arm == "random" else getattr(self, arm)
        return found

    def difference(self, share: float) -> Estimate:
        """Estimate scorer − random at one share."""
        number = self.shares.index(share)
        return self._over_units(self.scorer[number] - self.random[number])

    @property
    def area(self) -> Estimate:
        """Estimate the difference of the areas, scorer − random."""
        return self._over_units(self._area(self.scorer[:, None] - self.random))

    @property
    def verdict(self) -> Verdict:
        """Whether the scorer is shown to beat random words."""
        return shown(self.area)

    def _area(self, gain: Float[ndarray, "shares draws prompts"]) -> Float[ndarray, "draws prompts"]:
        # All arms meet in the whole prompt, where the difference is 0.
        order = np.argsort(self.shares)
        at = np.append(np.array(self.shares)[order], 1.0)
        values = np.concatenate([gain[order], np.zeros_like(gain[:1])])
        width = at[-1] - at[0]
        mean: ndarray = np.trapezoid(values, at, axis=0) / width if width else values.mean(axis=0)
        return mean

    def _over_units(self, gain: Float[ndarray, "draws prompts"]) -> Estimate:
        return estimate_of_mean(gain.mean(axis=0 if gain.shape[1] >= FEWEST_ITEMS else 1))


def keep_curve(
    texts: Sequence[str],
    compressor: PromptCompressor,
    judge: Judge,
    shares: Sequence[float] = SHARES,
    draws: int = 8,
    seed: int = 0,
    progress: Progress = lambda what, share: None,
) -> KeepCurve:
    """Shorten prompts to several shares, at random and from the bottom too, and judge all of them.

    Where more must stay than a share, what must stay is kept.

    Args:
        compressor: how they are shortened; its own share or number of tokens is not read.
        judge: says what a text is worth.
        shares: shares of the words that are kept.
        draws: random choices of words per prompt and share.
        seed: random seed; the draws have the next ones.
        progress: called for each share.
    """
    require_at_least(1, draws=draws)
    for share in shares:
        require_share(share, "shares")
    if not texts or not shares:
        raise UserError("a curve needs at least one prompt and one share to keep.")
    scored = compressor.scorer.score(list(texts))
    numbers = range(len(texts))
    full = judge(numbers, [text.text for text in scored])
    found: dict[str, list[ndarray]] = {arm: [] for arm in ARMS}
    tokens = []
    for place, share in enumerate(shares):
        progress(f"judging {share:.0%}", place / len(shares))
        ours = [_kept_share(compressor, text, share) for text in scored]
        tokens.append([cut.tokens if cut.tokens is not None else int(cut.kept.sum()) for cut in ours])
        found["scorer"].append(judge(numbers, [cut.text for cut in ours]))
        alike = [_as_many(compressor, cut, bottom_scores(cut.scored)) for cut in ours]
        found["bottom"].append(judge(numbers, alike))
        drawn = [
            judge(
                numbers,
                [_as_many(compressor, cut, random_scores(cut.scored, seed + 1 + draw)) for cut in ours],
            )
            for draw in range(draws)
        ]
        found["random"].append(np.stack(drawn))
    scorer, random, bottom = (np.stack(found[arm]) for arm in ARMS)
    return KeepCurve(tuple(shares), full, scorer, random, bottom, np.mean(tokens, axis=1))


def _kept_share(compressor: PromptCompressor, scored: ScoredText, share: float) -> Compressed:
    """A prompt at a share, or at that of its protected words if they are more."""
    whole = replace(compressor, keep=1.0, tokens=None).cut(scored)
    least = float(whole.protected.double().mean()) if len(scored) else 0.0
    return replace(compressor, keep=max(share, least), tokens=None).cut(scored)


def _as_many(compressor: PromptCompressor, cut: Compressed, scored: ScoredText) -> str:
    """The same prompt by other scores, at as many tokens of the target, or as many words."""
    if cut.tokens is None or not cut.tokens:
        return replace(compressor, keep=cut.ratio or 1.0, tokens=None).cut(scored).text if len(scored) else ""
    budget = max(cut.tokens, 1)
    return replace(compressor, keep=None, tokens=budget, per="text", min_keep=0).cut(scored).text


class AnswerLikelihood:
    """Judges prompts by a known answer: mean log-probability of its tokens after the prompt, in nats.

    Args:
        model: causal language model, best the one that the prompts are for.
        answers: the answer to every prompt.
        endings: what follows every prompt and stays whole, such as the question; None for nothing.
        batch_size: texts that are read at once.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        answers: Sequence[str],
        endings: Sequence[str] | None = None,
        batch_size: int = 8,
    ) -> None:
        self.model, self.tokenizer, self.batch_size = causal_lm(model), tokenizer, batch_size
        self.answers = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
        empty = next((number for number, answer in enumerate(self.answers) if not answer), None)
        if empty is not None:
            raise UserError(f"answer {empty} has no tokens: give the text that should follow the prompt.")
        self.endings = endings

    def __call__(self, numbers: Sequence[int], texts: Sequence[str]) -> Float[ndarray, "texts"]:
        """Judge texts by the answers to the prompts that they were made from."""
        prompts = [self._prompt(number, text) for number, text in zip(numbers, texts, strict=True)]
        answers = [self.answers[number] for number in numbers]
        return np.array(
            [np.mean(row) for row in answer_log_probs(self.model, prompts, answers, self.batch_size)]
        )

    def _prompt(self, number: int, text: str) -> list[int]:
        ending = self.endings[number] if self.endings is not None else ""
        prompt = self.tokenizer(text + ending)["input_ids"]
        if not prompt:  # an answer to nothing begins a text
            begin = self.tokenizer.bos_token_id
            prompt = [self.tokenizer.eos_token_id if begin is None else begin]
        return list(prompt)


class LabelKept:
    """Judges prompts by a classifier: 1 where it gives the expected label, 0 elsewhere.

    Args:
        classifier: the classifier, best another one than that of the scorer.
        labels: the expected label of every prompt, by number.
        batch_size: texts that are read at once.
    """

    def __init__(self, classifier: TextClassifier, labels: Targets, batch_size: int = 64) -> None:
        self.classifier, self.labels, self.batch_size = classifier, np.asarray(labels), batch_size

    def __call__(self, numbers: Sequence[int], texts: Sequence[str]) -> Float[ndarray, "texts"]:
        """Judge texts by the labels of the prompts that they were made from."""
        logits = self.classifier.logits_of(self.classifier.encode(texts), self.batch_size)
        right: ndarray = (logits.argmax(axis=1) == self.labels[list(numbers)]).astype(float)
        return right
