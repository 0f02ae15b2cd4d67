"""A cascade of two models: who answers what, what it costs, and which models and answers it refuses."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from tests import tiny
from tests.decoding.test_deferral_rules import examples
from tests.tiny.tokenizers import character_tokenizer, word_tokenizer
from tokenry.core.errors import UserError
from tokenry.decoding import Cascade, ModelIdentity, Target, chow_score, fit_rule, pad_logprobs
from tokenry.models.text_model import Generated, LocalText, Sampling

PROMPTS = [f"w{number} w{number + 1}" for number in range(1, 9)]
SIX = Sampling(max_new_tokens=6)


@dataclass
class Scripted:
    """Answers each prompt with its own log-probabilities, as many as it may."""

    name: str
    log_probs: dict[str, tuple[float, ...] | None]
    failing: tuple[str, ...] = ()
    asked: list[list[str]] = field(default_factory=list)

    def generate(self, prompts, sampling):
        self.asked.append(list(prompts))
        return [self._answer(prompt, sampling.max_new_tokens) for prompt in prompts]

    def _answer(self, prompt, most):
        if prompt in self.failing:
            return Generated("", None, 1, 0, "failed", f"{self.name} was not asked: the cap is reached.")
        known = self.log_probs[prompt]
        written = known[:most] if known else known
        cut = bool(known) and len(known) > most
        return Generated(
            f"{self.name}: {prompt}", written, 1, len(written or ()), "length" if cut else "stop"
        )


def scripted(**small):
    return Scripted("small", small), Scripted("large", dict.fromkeys(small, (-0.1,)))


def test_what_scores_below_the_threshold_is_answered_by_the_large_model():
    small, large = scripted(sure=(-0.1, -0.2), unsure=(-3.0, -0.1))
    answers = Cascade(small, large, "average", threshold=-1.0).generate(["sure", "unsure"])
    assert [answer.text for answer in answers] == ["small: sure", "large: unsure"]
    assert [answer.deferred for answer in answers] == [False, True]
    assert [answer.score for answer in answers] == pytest.approx([-0.15, -1.55])
    assert [(answer.small_tokens, answer.large_tokens) for answer in answers] == [(2, 0), (2, 1)]
    assert large.asked == [["unsure"]]


@pytest.mark.parametrize(("threshold", "texts"), [(-math.inf, "small"), (math.inf, "large")])
def test_at_the_extremes_one_model_answers_everything(threshold, texts):
    models = [LocalText(tiny.llama(seed=seed), word_tokenizer(), name=f"m{seed}") for seed in range(2)]
    answers = Cascade(*models, "sum", threshold).generate(PROMPTS, SIX)
    alone = models[texts == "large"].generate(PROMPTS, SIX)
    assert [answer.text for answer in answers] == [answer.text for answer in alone]


def test_a_fitted_rule_decides_as_its_scores_say():
    models = [LocalText(tiny.llama(seed=seed), word_tokenizer(), name=f"m{seed}") for seed in range(2)]
    drafts = models[0].generate(PROMPTS, SIX)
    scores = chow_score(*pad_logprobs([draft.log_probs for draft in drafts]), "average")
    identities = [ModelIdentity.of(model) for model in models]
    fitted = fit_rule("average", examples(80), Target(budget=0.5), *identities, draws=20)
    cascade = Cascade(*models, fitted, threshold=float(scores.median()))
    answers = cascade.generate(PROMPTS, SIX)
    assert [answer.deferred for answer in answers] == (scores < scores.median()).tolist()
    with pytest.raises(UserError, match="the large model m0 has other weights than m1"):
        Cascade(models[0], models[0], fitted)
    other = LocalText(tiny.llama(), character_tokenizer(), name="m0")
    with pytest.raises(UserError, match="the tokenizer of the small model m0 is not the one"):
        Cascade(other, models[1], fitted)


def test_an_early_rule_stops_the_small_model_and_rewrites_what_it_keeps():
    small, large = scripted(sure=(-0.1,) * 5, unsure=(-3.0,) * 5, short=(-0.1,))
    identities = [ModelIdentity("small"), ModelIdentity("large")]
    fitted = fit_rule("average", examples(80), Target(budget=0.5), *identities, first=2, draws=20)
    answers = Cascade(small, large, fitted, threshold=-1.0).generate(["sure", "unsure", "short"], SIX)
    assert [answer.small_tokens for answer in answers] == [2 + 5, 2, 1]
    assert [answer.deferred for answer in answers] == [False, True, False]
    assert small.asked == [["sure", "unsure", "short"], ["sure"]]


def test_answers_without_log_probabilities_are_refused_deferred_or_kept():
    small, large = scripted(plain=None)
    with pytest.raises(UserError, match="small gave no log-probabilities for prompt 0"):
        Cascade(small, large, "sum", -1.0).generate(["plain"])
    for choice, text in (("defer", "large: plain"), ("keep", "small: plain")):
        (answer,) = Cascade(small, large, "sum", -1.0, without_logprobs=choice).generate(["plain"])
        assert answer.text == text
        assert math.isnan(answer.score)


def test_what_is_finished_is_kept_when_a_model_fails_in_the_middle():
    small, large = scripted(a=(-5.0,), b=(-5.0,), c=(-0.1,), d=(-0.1,))
    large.failing, small.failing = ("b",), ("d",)
    answers = Cascade(small, large, "sum", -1.0).generate(["a", "b", "c", "d"])
    assert [answer.text for answer in answers] == ["large: a", "small: b", "small: c", "large: d"]
    assert [bool(answer.failure) for answer in answers] == [False, True, False, True]


def test_embeddings_of_the_prompts_reach_a_rule_that_was_trained_with_them():
    small, large = scripted(good=(-1.0,), bad=(-1.0,))

    class ByEmbedding:
        def score(self, logprobs, mask, embeddings=None):
            return torch.as_tensor(embeddings)[:, 0]

    cascade = Cascade(
        small,
        large,
        ByEmbedding(),
        0.0,
        embed=lambda prompts: np.array([[1.0 if p == "good" else -1.0] for p in prompts]),
    )
    assert [answer.deferred for answer in cascade.generate(["good", "bad"])] == [False, True]


@pytest.mark.parametrize(("rule", "threshold", "words"), [
    ("sum", None, "has no threshold: give one"),
    ("quantile", -1.0, "'quantile' learns from examples: fit it first"),
    ("post-hoc", -1.0, "'post-hoc' learns from examples"),
    ("bogus", -1.0, "there is no deferral rule 'bogus'"),
])  # fmt: skip
def test_a_rule_that_is_not_fitted_is_refused(rule, threshold, words):
    with pytest.raises(UserError, match=words):
        Cascade(*scripted(a=(-1.0,)), rule, threshold)


def test_a_cascade_decides_on_one_answer_per_prompt():
    with pytest.raises(UserError, match="one answer per prompt, got samples=2"):
        Cascade(*scripted(a=(-1.0,)), "sum", -1.0).generate(["a"], Sampling(samples=2, temperature=1.0))
