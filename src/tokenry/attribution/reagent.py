"""ReAGent: replace random tokens of the context, and give each the drop of the answer's probability as credit or debit.

    u      = p(answer | context) − p(answer | context with the tokens of a random mask replaced)
    z_i   += 2 artanh(+u)   where token i was replaced;      2 artanh(−u)   where it was not
    importance = softmax(z)

A probe stops when its `keep_top_n` most important tokens alone, all others replaced, still put the answer among the model's `top_k`;
the importance of the probes that stopped is averaged (`stop="answer"`, the paper's rule, for models whose ranks can be read).

The masks do not depend on z, so z is a running sum of independent terms. Hence all masks of many steps are one batch, the terms have a
standard error, and `stop="ranking"` ends once the order of the top tokens is certain: the 95 % interval of the difference between the
weakest of them and the strongest of the rest lies above 0. Scores are then mean terms, in logits per replacement, and only p(answer) is
asked of the model, which may be any function. Masks are stratified: each token is replaced equally often in a batch.

Source: ReAGent (arXiv 2402.00794); standard errors, stratified masks and `stop="ranking"` are ours.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Generator, Tensor, nn

from tokenry.attribution.attribution import (
    ATTRIBUTIONS,
    AttributionMethod,
    Probability,
    Question,
    TargetProbability,
    TokenScores,
    is_causal_lm,
    own_predictions,
    replaceable_tokens,
)
from tokenry.core.errors import UserError, require_at_least, require_one_of, require_share
from tokenry.core.stats import estimate_of_mean, paired_difference, shown

# A drop of exactly 1 would earn infinite credit.
_LARGEST_DROP = 1 - 1e-12
_NEGLIGIBLE = 1e-3

Sampler = Callable[[tuple[int, ...], Generator], Int[Tensor, "*shape seq"]]
"""Draws replacements of the whole context, as often as the shape says."""


class Draws(NamedTuple):
    """What is random in some steps of some probes.

    Attributes:
        mask: the units that are replaced.
        replacements: tokens in their place.
        test_replacements: tokens in the place of all but the most important ones, in the test of the stopping rule.
    """

    mask: Bool[Tensor, "steps probes units"]
    replacements: Int[Tensor, "steps probes seq"]
    test_replacements: Int[Tensor, "steps probes seq"]


Draw = Callable[[int, Int[Tensor, "probes"]], Draws]
"""Draws a number of steps for the probes with these numbers."""


def credits(
    mask: Bool[Tensor, "*probes units"],
    p_original: Float[Tensor, "*#probes"],
    p_replaced: Float[Tensor, "*probes"],
) -> Float[Tensor, "*probes units"]:
    """The terms of z: 2 artanh(u) where a unit was replaced, 2 artanh(−u) elsewhere; in float64."""
    drop = (p_original.double() - p_replaced.double())[..., None]
    return 2 * torch.where(mask, drop, -drop).clamp(-_LARGEST_DROP, _LARGEST_DROP).atanh()


def reagent_update(
    logits: Float[Tensor, "*probes units"],
    mask: Bool[Tensor, "*probes units"],
    p_original: Float[Tensor, "*#probes"],
    p_replaced: Float[Tensor, "*probes"],
) -> Float[Tensor, "*probes units"]:
    """One step of every probe: the importance z (in logits) after its mask was tried."""
    return logits + credits(mask, p_original, p_replaced)


def keep_top(
    scores: Shaped[Tensor, "*probes units"], top_n: int, ratio: float | int = 0.0
) -> Bool[Tensor, "*probes units"]:
    """The `top_n` units with the highest scores, or the share `ratio` of them (rounded up) if `top_n` is 0."""
    units = scores.shape[-1]
    number = min(top_n or math.ceil(ratio * units), units)
    best = scores.argsort(dim=-1, descending=True, stable=True)[..., :number]
    return torch.zeros(scores.shape, dtype=torch.bool, device=scores.device).scatter_(-1, best, True)


def stratified_masks(
    number: int, units: int, replace_ratio: float | int, generator: Generator
) -> Bool[Tensor, "number units"]:
    """Masks in which every unit is replaced with probability `replace_ratio`, and equally often up to one mask.

    Example: of 10 masks with ratio 0.25, each unit is in 2 or 3, either with probability 1/2.
    """
    count = (number * replace_ratio + torch.rand(units, generator=generator)).floor()
    order = torch.rand(number, units, generator=generator).argsort(dim=0)
    return order < count


def uniform_tokens(vocabulary: Int[Tensor, "ids"], length: int) -> Sampler:
    """Replacements drawn uniformly from a vocabulary."""

    def sample(shape: tuple[int, ...], generator: Generator) -> Tensor:
        return vocabulary[torch.randint(len(vocabulary), (*shape, length), generator=generator)]

    return sample


def same_class_tokens(
    vocabulary: Int[Tensor, "ids"], classes: Int[Tensor, "vocabulary"], context: Int[Tensor, "seq"]
) -> Sampler:
    """Replacements drawn uniformly from the tokens of the class of what they replace; a token stays where its class has no other.

    Raises:
        UserError: a token has no class.
    """
    if (largest := int(torch.cat([vocabulary, context]).max())) >= len(classes):
        raise UserError(
            f"classes has {len(classes)} tokens, and token {largest} is none of them: was it made with another tokenizer?"
        )
    ordered = vocabulary[classes[vocabulary].argsort(stable=True)]
    among, wanted = classes[ordered], classes[context]
    first, last = torch.searchsorted(among, wanted), torch.searchsorted(among, wanted, right=True)

    def sample(shape: tuple[int, ...], generator: Generator) -> Tensor:
        uniform = torch.rand(*shape, len(context), generator=generator, dtype=torch.float64)
        place = (first + (uniform * (last - first)).long()).clamp(max=len(ordered) - 1)
        return torch.where(last > first, ordered[place], context)

    return sample


def predicted_tokens(model: nn.Module, context: Int[Tensor, "seq"]) -> Sampler:
    """The model's own most probable token in each place, given the tokens before it; the first token stays."""
    predicted = torch.cat([context[:1].cpu(), own_predictions(model, context)[:-1]])
    return lambda shape, generator: predicted.expand(*shape, -1)


class Probing(NamedTuple):
    """Probes that ran until the answer came from few tokens.

    Attributes:
        log_importance: log softmax(z) of every probe.
        converged: the probes whose most important units alone gave the answer.
        steps: number of steps until all had stopped.
        forwards: number of sequences that the model read.
    """

    log_importance: Float[Tensor, "probes units"]
    converged: Bool[Tensor, "probes"]
    steps: int
    forwards: int

    @property
    def importance(self) -> Float[Tensor, "probes units"]:
        """Importance of the units for the probes that converged, or for all of them if none did."""
        importance = self.log_importance.exp()
        return importance[self.converged] if bool(self.converged.any()) else importance

    def rationale(self, keep: int, overlap: int = 2) -> Int[Tensor, "units"]:
        """The units among the `keep` most important ones of at least `overlap` probes."""
        return (keep_top(self.log_importance, keep).sum(dim=0) >= overlap).nonzero()[:, 0]


@ATTRIBUTIONS.register("reagent")
@dataclass(frozen=True, kw_only=True)
class ReAGent(AttributionMethod):
    """Attribution by replacement, with forward passes alone.

    Args:
        probes: number of parallel copies of the context (3 to 16 in the paper and its ports).
        replace_ratio: share of the tokens that a mask replaces.
        top_k: the answer must be among so many tokens in the test of the stopping rule.
        keep_top_n: number of tokens that must give the answer alone, or whose rank must be certain; 0 for `keep_ratio`.
        keep_ratio: the same as a share of the context.
        max_steps: masks per probe at most.
        stop: `answer`, the paper's rule; `ranking`, when the top tokens are certain; `never`, after `max_steps`.
        sampler: where replacements come from: `uniform` over the vocabulary, `pos`, from the tokens of the same part of speech (the
            released code; see `parts_of_speech`), or `self`, the model's own predictions.
        init: z before the first step: `zeros`, or `uniform` random numbers as in the released code.
        chunk: number of sequences that the model reads at once.
    """

    probes: int = 16
    replace_ratio: float = 0.3
    top_k: int = 3
    keep_top_n: int = 5
    keep_ratio: float = 0.0
    max_steps: int = 3000
    stop: str = "answer"
    sampler: str = "uniform"
    init: str = "zeros"
    chunk: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        require_share(self.replace_ratio, "replace_ratio")
        require_one_of(self.stop, ("answer", "ranking", "never"), "stop")
        require_one_of(self.sampler, ("uniform", "pos", "self"), "sampler")
        require_one_of(self.init, ("zeros", "uniform"), "init")
        require_at_least(1, probes=self.probes, top_k=self.top_k, max_steps=self.max_steps, chunk=self.chunk)
        require_at_least(0, keep_top_n=self.keep_top_n)
        if not self.keep_top_n:
            require_share(self.keep_ratio, "keep_ratio")

    def explain(self, question: Question) -> TokenScores:
        """Score every token of the context.

        Raises:
            UserError: the paper's stopping rule, or the model's own predictions, for a function that only returns p(answer).
        """
        return self.until_answered(question) if self.stop == "answer" else self.until_ranked(question)

    def until_answered(self, question: Question) -> "ReAGentScores":
        """Run the probes until the most important tokens of each give the answer; see `probe`."""
        subject = self._subject(question)
        if not isinstance(subject, TargetProbability):
            raise UserError(
                "a function that returns p(answer) has no ranks to test the answer by: use stop=ranking."
            )
        units, p_original = question.units, self._p_original(subject, question)
        generator, sample = Generator().manual_seed(self.seed), self._sampler(question)
        number = int(units.max()) + 1

        def draw(steps: int, probes: Tensor) -> Draws:
            masks = stratified_masks(steps * len(probes), number, self.replace_ratio, generator)
            shape = (steps, len(probes))
            return Draws(masks.view(*shape, number), sample(shape, generator), sample(shape, generator))

        start = torch.zeros(self.probes, number, dtype=torch.float64)
        if self.init == "uniform":
            start = torch.rand(start.shape, generator=generator, dtype=start.dtype)
        probing = self.probe(subject, question.context.cpu(), units.cpu(), start, p_original, draw)
        notes = _notes(p_original, probing.log_importance)
        if self._kept(number) >= number:
            notes += (
                f"the {self._kept(number)} tokens that must give the answer alone are the whole context, so every probe stopped at "
                "once: lower keep_top_n.",
            )
        if not probing.converged.any():
            notes += (
                f"no probe converged in {probing.steps} steps: the scores are the mean over all probes.",
            )
        scores, errors = _mean(probing.importance)
        return ReAGentScores(
            scores[units.cpu()],
            errors[units.cpu()],
            bool(probing.converged.all()),
            probing.forwards + 1,
            notes,
            probing,
        )

    def until_ranked(self, question: Question) -> TokenScores:
        """Draw masks until the order of the top tokens is certain, or for `max_steps`; scores are mean terms of z."""
        subject, units = self._subject(question), question.units.cpu()
        number, context = int(units.max()) + 1, question.context.cpu()
        p_original = self._p_original(subject, question)
        generator, sample = Generator().manual_seed(self.seed), self._sampler(question)
        parts: list[Tensor] = []
        left, ranked = self.probes * self.max_steps, False
        while left and not ranked:
            masks = stratified_masks(min(self.chunk, left), number, self.replace_ratio, generator)
            left -= len(masks)
            p = subject(torch.where(masks[:, units], sample((len(masks),), generator), context))
            parts.append(credits(masks, p_original, p.cpu()))
            ranked = self.stop == "ranking" and self._is_ranked(torch.cat(parts))
        terms = torch.cat(parts)
        scores, errors = _mean(terms)
        notes = _notes(p_original, terms)
        if self.stop == "ranking" and not ranked:
            notes += (
                f"after {len(terms):,} masks the order of the top {self._kept(number)} is not certain.",
            )
        return TokenScores(
            scores[units], errors[units], ranked or self.stop == "never", len(terms) + 1, notes
        )

    def probe(
        self,
        subject: TargetProbability,
        context: Int[Tensor, "seq"],
        units: Int[Tensor, "seq"],
        start: Float[Tensor, "probes units"],
        p_original: Float[Tensor, "1"],
        draw: Draw,
    ) -> Probing:
        """Run the probes on what `draw` gives, several steps in one batch, and test the stopping rule after every step.

        z after each of the steps is a cumulative sum, so the tests of all steps are one more batch; a probe that stops within them takes
        z of the step at which it did, and steps after it are not counted.
        """
        z, converged = start.clone(), torch.zeros(len(start), dtype=torch.bool)
        kept, steps, forwards = self._kept(start.shape[1]), 0, 0
        while steps < self.max_steps and not converged.all():
            active = (~converged).nonzero()[:, 0]
            wanted = min(max(1, self.chunk // len(active)), self.max_steps - steps)
            mask, replacements, test_replacements = draw(wanted, active)
            p = subject(torch.where(mask[..., units], replacements, context).flatten(0, 1))
            path = z[active] + credits(mask, p_original, p.view(wanted, -1)).cumsum(dim=0)
            tested = torch.where(keep_top(path, kept)[..., units], context, test_replacements)
            answered = subject.in_top(tested.flatten(0, 1), self.top_k).view(wanted, -1)
            last = torch.where(answered.any(dim=0), answered.int().argmax(dim=0), wanted - 1)
            z[active] = path[last, torch.arange(len(active))]
            converged[active] = answered.any(dim=0)
            steps += int(last.max()) + 1
            forwards += 2 * mask[..., 0].numel()
        return Probing(z.log_softmax(dim=-1), converged, steps, forwards)

    def _subject(self, question: Question) -> Probability:
        if not isinstance(question.model, nn.Module):
            return question.model
        if not is_causal_lm(question.model):
            raise UserError(
                f"{type(question.model).__name__} says no next token: give a causal language model, or a function that returns p(class)."
            )
        subject = TargetProbability(question.model, question.target, self.chunk)
        if self.top_k > (vocabulary := subject.vocabulary):
            raise UserError(f"top_k is {self.top_k}, and the vocabulary has {vocabulary} tokens.")
        return subject

    def _p_original(self, subject: Probability, question: Question) -> Float[Tensor, "1"]:
        p = subject(question.context[None]).cpu().double()
        if not bool(((p >= 0) & (p <= 1)).all()):
            raise UserError(f"p(answer) must be in [0, 1], got {p.tolist()[0]} for the context itself.")
        return p

    def _sampler(self, question: Question) -> Sampler:
        if self.sampler == "uniform":
            return uniform_tokens(replaceable_tokens(question).cpu(), len(question.context))
        if self.sampler == "pos":
            if question.classes is None:
                raise UserError(
                    "sampler=pos draws tokens of the same part of speech: give classes=parts_of_speech(tokenizer)."
                )
            vocabulary, context = replaceable_tokens(question).cpu(), question.context.cpu()
            return same_class_tokens(vocabulary, question.classes.cpu(), context)
        if not isinstance(question.model, nn.Module):
            raise UserError("a function predicts no tokens to replace with: use sampler=uniform.")
        return predicted_tokens(question.model, question.context)

    def _kept(self, units: int) -> int:
        return self.keep_top_n or math.ceil(self.keep_ratio * units)

    def _is_ranked(self, terms: Float[Tensor, "masks units"]) -> bool:
        """Whether the weakest of the top units is shown to be above the strongest of the rest."""
        kept = self._kept(terms.shape[1])
        if kept >= terms.shape[1]:
            return True
        order = terms.mean(dim=0).argsort(descending=True, stable=True)
        weakest, strongest = terms[:, order[kept - 1]], terms[:, order[kept]]
        return shown(paired_difference(weakest, strongest)) == "shown"


@dataclass(frozen=True)
class ReAGentScores(TokenScores):
    """Scores by the paper's stopping rule, with what became of each probe."""

    probing: Probing | None = None


def _mean(values: Float[Tensor, "samples units"]) -> tuple[Float[Tensor, "units"], Float[Tensor, "units"]]:
    """Mean and standard error of every unit."""
    found = [estimate_of_mean(column) for column in values.T]
    return values.mean(dim=0), torch.tensor([estimate.standard_error for estimate in found])


def _notes(p_original: Float[Tensor, "1"], credit: Float[Tensor, "*rows units"]) -> tuple[str, ...]:
    """The warning that no replacement moved the answer."""
    if credit.shape[-1] == 1 or float((credit.amax(-1) - credit.amin(-1)).max()) > _NEGLIGIBLE:
        return ()
    return (
        f"replacements hardly move p(answer) = {float(p_original):.3g}, so the scores are nearly uniform: ask about an answer that is "
        "neither certain nor improbable, or replace more tokens at once.",
    )
