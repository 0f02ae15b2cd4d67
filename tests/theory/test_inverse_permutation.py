"""Inverse permutation: reference outputs and weights, what a mask forbids bit by bit, closed forms, and what is no task."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_arrays
from tokenry.core.errors import UserError
from tokenry.theory import (
    DisentangledTransformer,
    InversePermutationTask,
    PermutationTraining,
    best_causal_accuracy,
    best_causal_mse,
    best_scratch_mse,
    solve_inverse_permutation,
    train_inverse_permutation,
)

FILES = ("dev-inverse-perm.npz", "dev-inverse-perm-multihead.npz")
TAGS = ("full", "causal", "full_scratch", "causal_scratch")
CONSTRUCTIONS = {"full": ("none", False), "scratch": ("suffix", True), "scratch_both": ("both", True)}


@pytest.fixture(params=FILES)
def golden(request):
    return golden_arrays("26-inverse-permutation", request.param)


@pytest.mark.parametrize("tag", TAGS)
def test_outputs_and_states_are_the_reference(golden, tag):
    x, n = golden[f"rand_{tag}_x"], golden["P"].shape[1]
    weights = [golden[f"rand_{tag}_{name}"] for name in ("A1", "A2", "W")]
    model = DisentangledTransformer(
        x.shape[1], n, [len(weights[0]), len(weights[1])], "causal" in tag
    ).double()
    with torch.no_grad():
        for parameter, weight in zip([*model.attention, model.readout], weights, strict=True):
            parameter.copy_(weight)
    rows = slice(3 * n, 4 * n) if tag == "causal_scratch" else slice(0, n)
    close = {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(model(x, rows), golden[f"rand_{tag}_out"], **close)
    states = model.residual(x)
    torch.testing.assert_close(states[-1][:, -1], golden[f"rand_{tag}_resid_last_row"], **close)
    torch.testing.assert_close(states[-1][:, rows] @ model.readout, model(x, rows), **close)
    torch.testing.assert_close(
        states[0], torch.cat([x, torch.eye(x.shape[1]).double().expand(len(x), -1, -1)], 2)
    )


@pytest.mark.parametrize("tag", CONSTRUCTIONS)
def test_constructions_are_the_reference_and_give_the_list_back(golden, tag):
    n, (scratch, causal) = golden["P"].shape[1], CONSTRUCTIONS[tag]
    task, model = (
        InversePermutationTask(n, scratch),
        solve_inverse_permutation(n, scratch, causal, float(golden["beta"])),
    )
    for parameter, name in zip([*model.attention, model.readout], ("A1", "A2", "W"), strict=True):
        assert torch.equal(parameter, golden[f"con_{tag}_{name}"])
    for kind in ("binary", "real"):
        values = golden[f"Y_{kind}"]
        found = model(task.arrange(golden["P"], values), task.rows)
        torch.testing.assert_close(found, golden[f"con_{tag}_{kind}_out"], rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(found, values, rtol=1e-10, atol=1e-10)


def test_the_best_losses_are_the_reference(golden):
    n = golden["P"].shape[1]
    assert best_causal_mse(n, "Y") == float(golden["opt_causal_mse_y_rows"])
    assert best_causal_mse(n, "P") == float(golden["opt_causal_mse_p_rows"])


def test_only_the_changed_row_and_later_ones_change(golden):
    n = golden["P"].shape[1]
    torch.manual_seed(0)
    model = DisentangledTransformer(2 * n, n, init_scale=1.0).double()
    x = InversePermutationTask(n, "none").arrange(golden["P"], golden["Y_binary"])
    changed = x.clone()
    changed[:, -1] += 1
    differs = (model.residual(x)[-1] != model.residual(changed)[-1]).any(dim=2)
    assert torch.equal(differs, golden["inv_rows_changed"])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.sampled_from(["suffix", "both"]), st.integers(0, 99), st.floats(1, 1e6))
def test_two_layers_give_any_list_back_whatever_its_values(n, scratch, seed, size):
    draw = torch.Generator().manual_seed(seed)
    order = torch.rand(2, n, generator=draw).argsort(dim=1)
    permutation = torch.nn.functional.one_hot(order, n).double()
    values = size * torch.randn(2, n, n, generator=draw, dtype=torch.double)
    task = InversePermutationTask(n, scratch)
    found = solve_inverse_permutation(n, scratch)(task.arrange(permutation, values), task.rows)
    torch.testing.assert_close(found, values, rtol=1e-9, atol=1e-9 * size)


@pytest.mark.parametrize(
    ("dtype", "beta", "nearness"), [(torch.float32, 20, 1e-5), (torch.bfloat16, 10, 0.02)]
)
def test_constructions_hold_in_lower_precision(dtype, beta, nearness):
    task = InversePermutationTask(4)
    x, y = task.sample(8, torch.Generator().manual_seed(0))
    found = solve_inverse_permutation(4, beta=beta, dtype=dtype)(x.to(dtype), task.rows)
    torch.testing.assert_close(found.float(), y, rtol=0, atol=nearness)


@pytest.mark.parametrize("n", [2, 4])
def test_the_best_causal_model_reaches_the_closed_forms(n):
    task = InversePermutationTask(n, "none", "Y")
    x, y = task.sample(20_000, torch.Generator().manual_seed(0))
    # Row j of the answer stands in row n + i with P_i = e_j: the best model says it if i <= j, and one half otherwise.
    stands = x[:, :n].argmax(dim=1)
    seen = (stands <= torch.arange(n)).unsqueeze(2)
    best = torch.where(seen, y, torch.full_like(y, 0.5))
    assert float((best - y).square().sum(2).mean()) == pytest.approx(best_causal_mse(n), rel=0.03)
    right = torch.where(seen, 1.0, 0.5).expand_as(y).mean()
    assert float(right) == pytest.approx(best_causal_accuracy(n), rel=0.02)
    for rows in range(n + 1):
        late = (~seen.expand_as(y))[:, rows:].float().sum(2).sum(1).mean() / (4 * n)
        assert float(late) == pytest.approx(best_scratch_mse(n, rows), rel=0.05, abs=1e-6)


def test_rows_are_read_where_the_task_says():
    assert InversePermutationTask(2, "none").rows == [0, 1]
    assert InversePermutationTask(2, "none", "Y").rows == [2, 3]
    assert InversePermutationTask(2, "suffix").rows == [4, 5]
    assert InversePermutationTask(2, "both").rows == [6, 7]
    partial = InversePermutationTask(3, scratch_rows=1)
    assert (partial.rows, partial.seq_len) == ([6, 4, 5], 7)
    assert partial.sample(2)[0].shape == (2, 7, 3)


def test_a_training_learns_and_goes_on_where_it_was(tmp_path):
    config = PermutationTraining(InversePermutationTask(2), steps=60, batch_size=32, test_size=64)
    whole = train_inverse_permutation(config)
    assert whole.history[-1] < whole.history[0]
    assert whole.loss.shape == (64,)

    def stop(what, share):
        if share >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_inverse_permutation(config, folder=tmp_path, progress=stop)
    again = train_inverse_permutation(config, folder=tmp_path, resume=True)
    assert torch.equal(again.loss, whole.loss)


def permutation(n=2):
    return torch.eye(n).expand(1, n, n)


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (
            lambda: InversePermutationTask(2).arrange(torch.ones(1, 2, 2), torch.zeros(1, 2, 2)),
            "P must hold permutation matrices",
        ),
        (
            lambda: InversePermutationTask(2).arrange(0.5 * torch.ones(1, 2, 2), torch.zeros(1, 2, 2)),
            "P must hold permutation",
        ),
        (
            lambda: InversePermutationTask(2).arrange(permutation(), torch.full((1, 2, 2), torch.nan)),
            "Y must be finite",
        ),
        (lambda: InversePermutationTask(0), "n must be at least 1, got 0"),
        (
            lambda: InversePermutationTask(2, "front"),
            "scratch must be one of none, suffix, both, got 'front'",
        ),
        (lambda: InversePermutationTask(2, "none", "scratch"), "read='scratch' needs scratch rows"),
        (lambda: InversePermutationTask(2, scratch_rows=3), "scratch_rows must be from 0 to 2"),
        (lambda: InversePermutationTask(2, "none", scratch_rows=1), "goes with scratch='suffix' alone"),
        (lambda: solve_inverse_permutation(2, "none"), "no causal transformer, however deep"),
        (lambda: solve_inverse_permutation(2, beta=0), "beta must be above 0 and finite, got 0"),
        (lambda: solve_inverse_permutation(2, beta=float("inf")), "beta must be above 0 and finite, got inf"),
        (
            lambda: InversePermutationTask(3).arrange(torch.eye(2)[None], torch.ones(1, 2, 2)),
            "this task has lists of 3 rows, and P has 2",
        ),
        (lambda: PermutationTraining(InversePermutationTask(1)), "train with n of 2 or more"),
        (lambda: DisentangledTransformer(4, 2, ()), "heads lists the heads of each layer"),
        (lambda: DisentangledTransformer(4, 2)(torch.zeros(1, 4, 2), [4]), "rows must be among the 4 tokens"),
        (
            lambda: DisentangledTransformer(4, 2)(torch.zeros(1, 5, 2), [0]),
            "the model reads 4 tokens of 2 features, got",
        ),
        (lambda: best_scratch_mse(2, 3), "scratch_rows must be from 0 to 2, got 3"),
        (lambda: best_causal_mse(2, "X"), "read must be one of P, Y, got 'X'"),
    ],
)
def test_what_is_no_task_is_refused(do, words):
    with pytest.raises(UserError, match=re.escape(words)):
        do()


@pytest.mark.parametrize("n", [1, 2])
def test_a_single_row_and_the_identity_are_solved(n):
    task, values = InversePermutationTask(n), torch.randn(1, n, n, dtype=torch.double)
    found = solve_inverse_permutation(n)(task.arrange(permutation(n).double(), values), task.rows)
    torch.testing.assert_close(found, values)
