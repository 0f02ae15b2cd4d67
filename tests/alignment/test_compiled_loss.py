import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tests.alignment.test_preference_logic import CORE_ROWS, GOLDEN, golden_structure
from tokenry.alignment import NAMED_LOSSES, CompiledLoss, Structure, compile_loss, lattice
from tokenry.alignment.compiled_loss import log1mexp
from tokenry.core.errors import UserError

CASES = [
    (case, evaluation) for case in [*GOLDEN["named"], *GOLDEN["random"]] for evaluation in case["evaluations"]
]
CORE = lattice(fixed_rows=CORE_ROWS)
COMPILED = [CompiledLoss(structure, beta=1.0) for structure in CORE.structures]
LOG_PROBS = st.floats(-30.0, -1e-3)


def log_probs(names, seed=0, rows=1000):
    draw = torch.Generator().manual_seed(seed)
    return {name: -torch.rand(rows, generator=draw, dtype=torch.float64) * 3 - 0.01 for name in names}


@pytest.mark.parametrize(
    ("case", "evaluation"), CASES, ids=lambda part: part.get("name", "") if isinstance(part, dict) else ""
)
def test_golden(case, evaluation):
    structure = golden_structure(case)
    logps = {
        name: torch.tensor([math.log(p)], dtype=torch.float64, requires_grad=True)
        for name, p in zip(case["variables"], evaluation["p"], strict=True)
    }
    compiled = CompiledLoss(structure, beta=evaluation["beta"])
    rho = compiled.rho(logps)
    torch.testing.assert_close(rho.item(), evaluation["rho"], rtol=1e-9, atol=1e-12)
    gradients = torch.autograd.grad(rho.sum(), list(logps.values()), allow_unused=True)
    found = [0.0 if gradient is None else gradient.item() for gradient in gradients]
    torch.testing.assert_close(found, evaluation["drho_dlogp"], rtol=1e-9, atol=1e-12)
    for link in ("logistic", "squared", "margin"):
        loss = CompiledLoss(structure, link, evaluation["beta"])(logps)
        torch.testing.assert_close(loss.item(), evaluation[f"loss_{link}"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "link", "beta", "by_hand"),
    [
        (
            "DPO",
            "logistic",
            0.1,
            lambda won, lost, ref_won, ref_lost: (
                -functional.logsigmoid(0.1 * (won - lost - ref_won + ref_lost))
            ),
        ),
        (
            "DPO",
            "squared",
            0.1,
            lambda won, lost, ref_won, ref_lost: (won - lost - ref_won + ref_lost - 5.0) ** 2,
        ),
        (
            "DPO",
            "margin",
            1.0,
            lambda won, lost, ref_won, ref_lost: functional.relu(1.0 - (won - lost - ref_won + ref_lost)),
        ),
        ("CPO", "logistic", 0.1, lambda won, lost: -functional.logsigmoid(0.1 * (won - lost))),
        (
            "ORPO",
            "logistic",
            1.0,
            lambda won, lost: -functional.logsigmoid(won - lost - (log1mexp(won) - log1mexp(lost))),
        ),
    ],
)
def test_a_compiled_loss_is_the_one_written_by_hand(text, link, beta, by_hand):
    structure = Structure.parse(NAMED_LOSSES[text])
    logps = {name: values.requires_grad_() for name, values in log_probs(structure.variables).items()}
    compiled, expected = compile_loss(structure, link, beta)(logps), by_hand(*logps.values())
    torch.testing.assert_close(compiled, expected, rtol=0, atol=1e-9)
    ours, theirs = (torch.autograd.grad(loss.sum(), list(logps.values())) for loss in (compiled, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(LOG_PROBS, LOG_PROBS)
def test_an_entailing_loss_is_never_lower(chosen, rejected):
    logps = {
        name: torch.tensor([value], dtype=torch.float64) for name, value in (("W", chosen), ("L", rejected))
    }
    losses = [compiled(logps).item() for compiled in COMPILED]
    for lower, higher in CORE.entailments():
        assert losses[lower] >= losses[higher] - 1e-9 * abs(losses[higher])


def test_lengths_are_used_where_a_variable_is_negated():
    lengths = {"W": torch.tensor([100]), "L": torch.tensor([50])}
    logps = {"W": torch.tensor([-100.0]), "L": torch.tensor([-75.0])}
    per_token = {"W": torch.tensor([-1.0]), "L": torch.tensor([-1.5])}
    orpo, cpo = compile_loss(NAMED_LOSSES["ORPO"]), compile_loss(NAMED_LOSSES["CPO"])
    assert orpo.per_token
    assert torch.equal(orpo(logps, lengths), orpo(per_token))
    assert not cpo.per_token
    assert torch.equal(cpo(logps, lengths), cpo(logps))


def test_gradients_are_finite_at_both_ends():
    logps = {
        name: torch.tensor([-1e-9, -1e-5, -0.7, -88.0, -500.0], requires_grad=True) for name in ("W", "L")
    }
    compile_loss(NAMED_LOSSES["unCPO"])(logps).sum().backward()
    assert all(values.grad.isfinite().all() for values in logps.values())


def test_half_precision_is_widened():
    logps = {name: values.to(torch.bfloat16) for name, values in log_probs(["W", "L"], rows=8).items()}
    assert compile_loss(NAMED_LOSSES["CPO"])(logps).dtype == torch.float32


def test_beyond_tables_a_loss_stands_on_diagrams():
    pytest.importorskip("dd", reason="decision diagrams are an extra")
    names = [f"v{number}" for number in range(24)]
    compiled = CompiledLoss(Structure(names, " and ".join(names), " or ".join(names)), beta=1.0)
    logps = {name: torch.tensor([math.log(0.5)], dtype=torch.float64) for name in names}
    all_true = 0.5**24
    torch.testing.assert_close(
        compiled.rho(logps).item(), math.log(all_true) - math.log(1 - 2 * all_true), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: compile_loss("W and not W"), "can never hold, so ρ would be infinite"),
        (lambda: compile_loss("W", link="cubic"), "link must be one of logistic, squared, margin"),
        (lambda: compile_loss("W", beta=0.0), "beta must be above 0"),
        (lambda: compile_loss("W")({"L": torch.tensor([-1.0])}), "needs log-probabilities of W: given are L"),
        (
            lambda: compile_loss("W")({"W": torch.tensor([0.3])}),
            "must be finite and below 0: give log p in nats, not p",
        ),
        (lambda: compile_loss("W")({"W": torch.tensor([float("nan")])}), "must be finite and below 0"),
    ],
)
def test_bad_input(make, words):
    with pytest.raises(UserError, match=words):
        make()


@pytest.mark.parametrize("text", ["true | also true", "L -> W | given W and not W or L | also W or L"])
def test_a_loss_with_equal_sides_is_the_same_for_every_pair_and_says_so(text):
    structure = Structure.parse(text)
    with pytest.warns(UserWarning, match="are equal: ρ is 0 and nothing is learned"):
        compiled = CompiledLoss(structure)
    torch.testing.assert_close(
        compiled(log_probs("WL", rows=3)), torch.full((3,), math.log(2), dtype=torch.float64)
    )
