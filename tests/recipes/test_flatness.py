"""The recipe of flatness: verdicts that follow the measurements in both directions, and the networks behind them."""

import pytest
import torch

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tokenry.pretraining import hessian_trace
from tokenry.recipes.flatness import FlatnessSizes, MeasuredNetworks, claims, relative
from tokenry.recipes.testbeds.hidden_classes import ClassLanguages, ContextRuns

SMALL = FlatnessSizes(runs=2, contexts=8, vocabulary=5, embedding=4, width=6, checkpoints=(2, 4), tol=0.5)


def measured(loss=2.0, trace=3.0, probe=0.9, fisher=None, step=9):
    """Eight runs around these values."""
    spread = [1 + 0.001 * number for number in range(8)]
    fisher = trace if fisher is None else fisher
    return MeasuredNetworks(
        step, *([value * one for one in spread] for value in (loss, trace, fisher, probe))
    )


SHOWN = {
    "early": measured(2.01, 7.0, 0.6, step=3),
    "late": measured(),
    "without_noise": measured(2.0, 6.0, 0.7),
    "wide": measured(2.0, 2.0),
    "enlarged": measured(2.0, 4.0),
}


def verdicts(**changed):
    return [claim.verdict for claim in claims(**(SHOWN | changed))]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        verdicts,
        [
            ({}, set()),
            ({"early": measured(2.2, 7.0, 0.6)}, {0}),
            ({"early": measured(2.01, 4.0, 0.6)}, {0}),
            ({"early": measured(2.01, 7.0, 0.8)}, {0}),
            ({"without_noise": measured(2.0, 2.0, 0.7)}, {1}),
            ({"without_noise": measured(2.0, 6.0, 0.95)}, {2}),
            ({"wide": measured(2.1, 2.0)}, {3}),
            ({"wide": measured(2.0, 5.0)}, {3}),
            ({"late": measured(fisher=3.6)}, {4}),
        ],
    )


def test_an_enlarged_network_computes_the_same():
    languages = ClassLanguages.drawn(2, 8, 2, 5, seed=0)
    small, other = ContextRuns(languages, 4, 6, seed=0).networks()
    contexts = torch.arange(8)
    torch.testing.assert_close(small.enlarge(3)(contexts).logits, small(contexts).logits)
    assert small.enlarge(3).features(contexts).shape == (8, 18)
    assert not torch.equal(small(contexts).logits, other(contexts).logits)


def test_runs_are_trained_apart_and_towards_the_entropy():
    languages = ClassLanguages.drawn(2, 8, 2, 5, seed=0)
    runs = ContextRuns(languages, 4, 6, seed=0)
    runs.train_without_noise(60, 0.5, lambda share: None)
    alone = ContextRuns(languages, 4, 6, seed=0)
    with torch.no_grad():
        alone.weights["embedding"][1] += 1.0
    alone.train_without_noise(60, 0.5, lambda share: None)
    contexts = torch.arange(8)[None]
    torch.testing.assert_close(runs.networks()[0](contexts).logits, alone.networks()[0](contexts).logits)
    for network, conditionals, entropy in zip(
        runs.networks(), languages.conditionals, languages.entropy, strict=True
    ):
        loss = network(contexts, conditionals=conditionals[None]).loss
        assert entropy < loss < 1.05 * entropy
        assert "output_bias" not in hessian_trace(network, {"input_ids": contexts, "conditionals": conditionals[None]}, 1, per_group=True).per_group  # fmt: skip


def test_relative_differences_are_of_each_run():
    assert relative([2.0, 3.0], [1.0, 4.0]) == pytest.approx([1.0, -0.25])


def test_it_runs_small(tmp_path):
    result = check_recipe("flatness", SMALL, tmp_path)
    assert len(result.settings["measured"]) == 2
