"""Deferral rules: what each learns, the file of a fitted rule, and whose models it takes."""

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.tiny.tokenizers import character_tokenizer, word_tokenizer
from tokenry.core.errors import UserError
from tokenry.decoding.cascades import auc_df, chow_score, pad_logprobs
from tokenry.decoding.deferral_rules import DEFERRAL_RULES, Examples
from tokenry.decoding.fitted_rule import FittedRule, Target, fit_rule, meets
from tokenry.decoding.post_hoc_deferral import PostHocDeferral, prompt_embeddings
from tokenry.models.identity import ModelIdentity

RULES = ("sum", "average", "quantile", "quantile:alpha=0.2", "debiased", "debiased:of=average,curve=isotonic")
POST_HOC = "post-hoc:epochs=30,patience=10,hidden=[16]"
SMALL, LARGE = ModelIdentity("small", "a1", "t"), ModelIdentity("large", "b2", "t")


def examples(count=240, seed=0, embeddings=None):
    """Answers with one surprising token each, which says nothing; wrong ones are a little less sure of all the others."""
    generator = np.random.default_rng(seed)
    outputs, wrong = [], generator.random(count) < 0.4
    for is_wrong in wrong:
        tokens = -generator.exponential(0.3, generator.integers(4, 30)) - 0.3 * is_wrong
        tokens[0] -= generator.uniform(0, 20)
        outputs.append(generator.permutation(tokens).tolist())
    large = np.where(generator.random(count) < 0.9, 1.0, 0.0)
    return Examples(*pad_logprobs(outputs), 1.0 - wrong, large, embeddings)


@pytest.mark.parametrize("rule", [*RULES, POST_HOC])
def test_a_rule_never_looks_at_padding(rule):
    data = examples(60)
    scorer = DEFERRAL_RULES.make(rule).fit(data)
    wide = torch.nn.functional.pad(torch.where(data.mask, data.logprobs, torch.nan), (0, 5), value=torch.nan)
    wide_mask = torch.nn.functional.pad(data.mask, (0, 5))
    np.testing.assert_allclose(scorer.score(wide, wide_mask), scorer.score(data.logprobs, data.mask))


@pytest.mark.parametrize("rule", [*RULES, POST_HOC])
def test_an_output_without_tokens_is_deferred_by_every_rule(rule):
    scorer = DEFERRAL_RULES.make(rule).fit(examples(60))
    scores = scorer.score(*pad_logprobs([[], [-math.inf, -1.0], [-0.1]]))
    assert scores[0] == -math.inf
    assert not scores.isnan().any()


def test_the_learned_rule_beats_sum_and_average_on_answers_it_has_not_seen():
    fresh = examples(600, seed=9)

    def area(rule):
        score = DEFERRAL_RULES.make(rule).fit(examples(600)).score(fresh.logprobs, fresh.mask)
        return auc_df(score, fresh.q_small, fresh.q_large).auc

    assert area("post-hoc") > max(area("sum"), area("average")) + 0.02


@pytest.mark.parametrize("objective", ["small-wrong", "regress"])
def test_every_objective_scores_the_worse_answers_lower(objective):
    data, fresh = examples(400), examples(400, seed=5)
    scorer = PostHocDeferral(objective=objective, epochs=60).fit(data)
    score = scorer.score(fresh.logprobs, fresh.mask).numpy()
    assert score[fresh.q_small == 0].mean() < score[fresh.q_small == 1].mean()


def test_a_learned_rule_reads_embeddings_where_it_was_given_some():
    plain = examples(400)
    told = 2.0 * plain.q_small[:, None] - 1
    noise = pad_logprobs([[-1.0]] * 400)
    scorer = PostHocDeferral(epochs=60).fit(Examples(*noise, plain.q_small, plain.q_large, told))
    assert auc_df(scorer.score(*noise, told), plain.q_small, plain.q_large).gain_percent > 5
    with pytest.raises(UserError, match="trained with embeddings of width 1, got 0"):
        scorer.score(*noise)


@pytest.mark.parametrize("curve", ["linear", "isotonic"])
def test_a_debiased_sum_does_not_know_the_length(curve):
    generator = np.random.default_rng(0)
    outputs = pad_logprobs(
        [(-generator.exponential(size=size)).tolist() for size in generator.integers(1, 30, 400)]
    )
    data = Examples(*outputs, np.zeros(400), np.ones(400))
    scorer = DEFERRAL_RULES.make(f"debiased:curve={curve}").fit(data)
    raw = chow_score(data.logprobs, data.mask)
    debiased = scorer.score(data.logprobs, data.mask)
    assert np.corrcoef(raw, data.lengths)[0, 1] < -0.5
    assert abs(np.corrcoef(debiased, data.lengths)[0, 1]) < 0.05


@pytest.mark.parametrize("rule", [*RULES, POST_HOC])
def test_a_rule_file_scores_as_the_rule_did(rule, tmp_path):
    data = examples(120)
    fitted = fit_rule(rule, data, Target(budget=0.3), SMALL, LARGE, first=12, draws=20)
    fitted.save(tmp_path / "rule.json")
    read = FittedRule.load(tmp_path / "rule.json")
    assert read == fitted
    assert (read.defers(data.logprobs, data.mask) == fitted.defers(data.logprobs, data.mask)).all()


@pytest.mark.parametrize("budget", [0.0, 0.25, 1.0])
def test_a_budget_holds_on_the_half_on_which_it_was_set_and_nearly_on_new_data(budget, tmp_path):
    fitted = fit_rule("quantile:alpha=0.2", examples(600), Target(budget=budget), SMALL, LARGE, draws=20)
    assert fitted.deferred == pytest.approx(budget, abs=1 / 300)
    fitted.save(tmp_path / "rule.json")
    found = meets(FittedRule.load(tmp_path / "rule.json"), examples(600, seed=3))
    assert found["deferred"] == pytest.approx(budget, abs=0.07)
    assert found["low"] <= found["deferred"] <= found["high"]


def test_a_risk_bounds_what_is_kept_and_wrong():
    fitted = fit_rule("average", examples(600), Target(risk=0.1), SMALL, LARGE, draws=20)
    assert fitted.kept_wrong.share <= fitted.kept_wrong.conformal <= 0.1
    assert fitted.kept_wrong.exact > fitted.kept_wrong.share
    fresh = examples(2000, seed=4)
    kept = ~fitted.defers(fresh.logprobs, fresh.mask)
    assert (kept & (fresh.q_small == 0)).mean() < 0.13


def test_an_early_rule_sees_the_first_tokens_only():
    data = examples(120)
    fitted = fit_rule("sum", data, Target(budget=0.5), SMALL, LARGE, first=3, draws=20)
    other = torch.where(torch.arange(data.mask.shape[1]) < 3, data.logprobs, -9.0)
    assert (fitted.score(data.logprobs, data.mask) == fitted.score(other, data.mask)).all()
    assert fitted.lengths.lengths[0] > 3, "the diagnosis is of whole answers"


def test_real_qualities_have_no_right_answers_unless_that_is_said():
    data = replace(examples(80), q_small=np.linspace(0, 1, 80))
    assert fit_rule("sum", data, Target(budget=0.5), SMALL, LARGE, draws=20).kept_wrong is None
    with pytest.raises(UserError, match="a risk needs right_from"):
        fit_rule("sum", data, Target(risk=0.1), SMALL, LARGE, draws=20)
    target = Target(risk=0.1, right_from=0.5)
    assert fit_rule("sum", data, target, SMALL, LARGE, draws=20).kept_wrong.conformal <= 0.1


# --- whose models ------------------------------------------------------------------------------------------------------


@dataclass
class Wrapped:
    model: Any
    tokenizer: Any
    name: str = "m"


def test_a_rule_knows_its_models_by_their_weights_and_tokenizers():
    own = ModelIdentity.of(Wrapped(tiny.llama(), word_tokenizer()))
    own.require(ModelIdentity.of(Wrapped(tiny.llama(), word_tokenizer(), "another name")), "the small model")
    with pytest.raises(UserError, match="the small model m has other weights than m"):
        own.require(ModelIdentity.of(Wrapped(tiny.llama(seed=1), word_tokenizer())), "the small model")
    with pytest.raises(UserError, match="the tokenizer of the small model m is not the one"):
        own.require(ModelIdentity.of(Wrapped(tiny.llama(), character_tokenizer())), "the small model")


def test_an_endpoint_is_known_by_its_name():
    @dataclass
    class Named:
        name: str

    own = ModelIdentity.of(Named("gpt"))
    own.require(ModelIdentity.of(Named("gpt")), "the large model")
    with pytest.raises(UserError, match="the large model is other, but the rule was fitted for gpt"):
        own.require(ModelIdentity.of(Named("other")), "the large model")


def test_a_tokenizer_is_the_same_after_it_has_padded_and_cut():
    tokenizer = word_tokenizer()
    before = ModelIdentity.of(Wrapped(None, tokenizer))
    tokenizer(["w1", "w1 w2"], padding=True, truncation=True, max_length=1)
    assert ModelIdentity.of(Wrapped(None, tokenizer)) == before


# --- embeddings --------------------------------------------------------------------------------------------------------


def test_embeddings_are_means_of_the_last_layer_and_of_the_large_models_first():
    small, large = tiny.llama(), tiny.llama(seed=1, num_hidden_layers=3)
    ids = torch.tensor([[5, 6, 7], [0, 8, 9]])
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
    hooks = [len(layer._forward_hooks) for layer in large.modules()]
    found = prompt_embeddings(small, large, ids, mask)
    assert hooks == [len(layer._forward_hooks) for layer in large.modules()]
    assert found.shape == (2, 64)
    with torch.no_grad():
        states = large.model(input_ids=ids[:1], output_hidden_states=True).hidden_states[1]
        last = small.model(input_ids=ids[:1]).last_hidden_state
    torch.testing.assert_close(found[0], torch.cat([last.mean(1), states.mean(1)], dim=1)[0])
    assert prompt_embeddings(small, None, ids, mask).shape == (2, 32)
    torch.testing.assert_close(found[1:], prompt_embeddings(small, large, ids[1:, 1:], mask[1:, 1:]))


def test_the_large_model_runs_its_first_layer_only():
    small, large, ran = tiny.llama(), tiny.llama(seed=1), []
    large.model.layers[1].register_forward_hook(lambda *_: ran.append("second"))
    prompt_embeddings(small, large, torch.tensor([[5, 6]]), torch.ones(1, 2, dtype=torch.int64))
    assert ran == []


# --- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changed", "words"), [
    ({"count": 4}, "examples must be at least 8, got 4"),
    ({"rule": "sums"}, "there is no deferral rule 'sums'"),
    ({"rule": "quantile:alpha=2"}, r"alpha must be in \[0, 1\], got 2"),
    ({"rule": "post-hoc", "count": 24}, "examples must be at least 16, got 12"),
    ({"first": 0}, "first must be at least 1, got 0"),
])  # fmt: skip
def test_what_cannot_be_fitted_is_refused(changed, words):
    given = {"rule": "sum", "count": 40, "first": None} | changed
    with pytest.raises(UserError, match=words):
        fit_rule(
            given["rule"], examples(given["count"]), Target(budget=0.3), SMALL, LARGE, first=given["first"]
        )


def test_nothing_is_learned_from_examples_of_one_kind():
    data = examples(80)
    same = replace(data, q_large=data.q_small)
    with pytest.raises(UserError, match="the large model is better in 0 of 80 examples"):
        PostHocDeferral().fit(same)
    with pytest.raises(UserError, match="the small model is wrong in 0 of 80 examples"):
        PostHocDeferral(objective="small-wrong").fit(replace(data, q_small=np.ones(80)))
    with pytest.raises(UserError, match="validation must be between 0 and 1, got 1"):
        PostHocDeferral(validation=1.0)
    with pytest.raises(UserError, match="no answer has a finite score"):
        DEFERRAL_RULES.make("debiased").fit(replace(data, logprobs=torch.full_like(data.logprobs, -math.inf)))


@pytest.mark.parametrize(("target", "words"), [
    ({}, "give one of them"),
    ({"budget": 0.2, "risk": 0.1}, "give one of them"),
    ({"budget": 1.2}, r"budget must be in \[0, 1\], got 1.2"),
    ({"risk": -1.0}, r"risk must be in \[0, 1\], got -1.0"),
])  # fmt: skip
def test_a_target_is_a_budget_or_a_risk(target, words):
    with pytest.raises(UserError, match=words):
        Target(**target)


@pytest.mark.parametrize(("change", "words"), [
    ({"kind": "score"}, "holds no deferral rule"),
    ({"threshold": "low"}, "is no whole deferral rule: threshold"),
    ({"scorer": {"kind": "magic"}}, "is no whole deferral rule: scorer"),
    ({"small": {}}, "is no whole deferral rule: small.name: field required"),
])  # fmt: skip
def test_a_file_that_holds_no_rule_is_refused(change, words, tmp_path):
    fitted = fit_rule("sum", examples(40), Target(budget=0.3), SMALL, LARGE, draws=20)
    (tmp_path / "rule.json").write_text(json.dumps(fitted.as_json() | change))
    with pytest.raises(UserError, match=words):
        FittedRule.load(tmp_path / "rule.json")
