"""Preference losses: the sheet's table of multipliers, formulas among the names, and what is refused."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_arrays
from tokenry.alignment import Responses, Structure, margin_multipliers, multipliers, preference_loss
from tokenry.alignment.preference_losses import LOSSES, FormulaLoss, name_of_loss
from tokenry.core.errors import UserError

GOLDEN = golden_arrays("22-entanglement", "dev-entanglement.npz")
INPUTS = [GOLDEN[f"mult/{name}"] for name in ("logp_w", "logp_l", "ref_w", "ref_l", "len_w", "len_l")]
NAMES = ("dpo", "rdpo", "ipo", "simpo", "slic", "rrhf", "cpo", "dpop", "kto", "sppo", "unlikelihood")
CHOSEN, REJECTED = (Responses(*INPUTS[side::2]) for side in (0, 1))
LOG_PROBS = st.floats(-60.0, -0.1)


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("name", NAMES)
def test_golden(name, beta):
    has_beta = any(field.name == "beta" for field in dataclasses.fields(LOSSES[name].options))
    found = multipliers(name, CHOSEN, REJECTED, **({"beta": beta} if has_beta else {}))
    for part, value in zip(("loss", "d_w", "d_l"), found, strict=True):
        torch.testing.assert_close(value, GOLDEN[f"mult/b{beta}/{name}/{part}"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("formula", "name"),
    [
        ("DPO:beta=0.3", "dpo:beta=0.3"),
        ("DPO:link=squared,beta=0.3", "ipo:beta=0.3"),
        ("CPO:beta=0.3", "cpo:beta=0.3,sft_weight=0"),
        ("L -> W | given W or L | also W and L:link=margin,beta=1", "slic:margin=1,sft_weight=0"),
    ],
)
def test_a_formula_has_the_multipliers_of_the_loss_that_it_is(formula, name):
    # A program reads probabilities, which no reference log-probability above 0 is.
    sides = [Responses(side.logp, -side.reference.abs(), side.length) for side in (CHOSEN, REJECTED)]
    for ours, theirs in zip(multipliers(formula, *sides), multipliers(name, *sides), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([name for name in LOSSES if name != "formula"]),
    st.lists(LOG_PROBS, min_size=4, max_size=4),
)
def test_multipliers_are_the_slopes_of_the_loss(name, logps):
    won, lost, ref_won, ref_lost = (torch.tensor([value], dtype=torch.float64) for value in logps)
    length, step = torch.tensor([7.0], dtype=torch.float64), 1e-5
    form = preference_loss(name)

    def loss(up, down):
        return float(form(Responses(won + up, ref_won, length), Responses(lost + down, ref_lost, length)))

    found = multipliers(form, Responses(won, ref_won, length), Responses(lost, ref_lost, length))
    slopes = -(loss(step, 0) - loss(-step, 0)) / (2 * step), (loss(0, step) - loss(0, -step)) / (2 * step)
    kinks = min(abs(float(won - lost) - 1), abs(float(won - ref_won)), abs(float(won - lost)))
    if kinks > 1e-3 and name != "hinge":
        assert found.chosen.item() == pytest.approx(slopes[0], rel=1e-4, abs=1e-6)
        assert found.rejected.item() == pytest.approx(slopes[1], rel=1e-4, abs=1e-6)


def test_an_sft_term_raises_only_what_the_chosen_response_weighs():
    plain, with_term = (multipliers(f"cpo:sft_weight={weight}", CHOSEN, REJECTED) for weight in (0, 1))
    torch.testing.assert_close(with_term.chosen, plain.chosen + 1)
    torch.testing.assert_close(with_term.rejected, plain.rejected)


def test_losses_know_what_they_need_and_what_they_say():
    assert not preference_loss("simpo").uses_reference
    assert preference_loss("DPO").uses_reference
    assert preference_loss("cCPO").uses_length
    assert preference_loss("dpo").structure == Structure.parse(
        "L and Rw -> W and Rl | given L and Rw or W and Rl | also W and L and Rw and Rl"
    )
    assert preference_loss("kto").structure is None
    written = preference_loss("L -> W | given W xor L", beta=0.5)
    assert (written.beta, written.per_token) == (0.5, True)
    assert name_of_loss(written) == "L -> W | given W xor L"
    assert preference_loss(Structure.parse("L -> W")) == FormulaLoss("L -> W")
    assert all(name_of_loss(preference_loss(name)) == name for name in NAMES)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ("dpo:beta=0", "beta must be above 0 and finite, got 0."),
        ("dpo:beta=-1", "beta must be above 0 and finite, got -1."),
        ("L -> W:beta=0", "beta must be above 0 and finite, got 0."),
        ("dpop:penalty=-1", "penalty must be at least 0, got -1."),
        ("dpoo", "there is no preference loss 'dpoo' (did you mean 'dpo'?)"),
        ("dpo:bta=1", "dpo has no option 'bta' (did you mean 'beta'?)"),
        ("L -> Q", "has the unknown variable 'Q'"),
        ("(L -> W", "the ( at character 1 is not closed"),
        ("L -> W:link=log", "link must be one of logistic, squared, margin, got 'log'."),
    ],
)
def test_bad_losses(loss, words):
    with pytest.raises(UserError) as error:
        preference_loss(loss)
    assert words in str(error.value)


def test_a_formula_takes_a_response_that_the_model_is_sure_of():
    sure, other, length = torch.zeros(1), torch.tensor([-3.0]), torch.ones(1)
    found = multipliers("cCPO", Responses(sure, other, length), Responses(other, other, length))
    assert bool(torch.isfinite(torch.cat(found)).all())


def test_bad_numbers():
    good, bad = torch.tensor([-3.0, -4.0]), torch.tensor([-3.0, float("nan")])
    with pytest.raises(UserError, match="log-probability of the rejected response of pair 2 is not finite"):
        margin_multipliers("simpo", good, bad, len_w=good, len_l=good)
    with pytest.raises(UserError, match="the loss dpo compares with a reference: give ref_w and ref_l"):
        margin_multipliers("dpo", good, good)
    with pytest.raises(UserError, match="the loss rrhf depends on lengths: give len_w and len_l"):
        margin_multipliers("rrhf", good, good)


def test_only_a_loss_of_log_ratios_per_token_asks_for_lengths():
    logps = INPUTS[:4]
    assert len(margin_multipliers("ipo", *logps)) == 2
    with pytest.raises(UserError, match="the loss ipo depends on lengths: give len_w and len_l"):
        margin_multipliers("ipo:per_token=true", *logps)


def test_a_rejected_response_that_the_model_is_sure_of_has_a_finite_loss():
    sure = Responses(torch.zeros(2), torch.zeros(2), torch.ones(2))
    for part in multipliers("unlikelihood", sure, sure):
        assert bool(part.isfinite().all())
