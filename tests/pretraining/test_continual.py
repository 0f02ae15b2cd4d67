"""Continued pretraining: measures against reference numbers, both sides evaluated on the way, resumed from any step."""

import copy
import math

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

from tests.golden import golden_json
from tests.tiny.models import gpt2, llama
from tokenry.core.errors import UserError
from tokenry.pretraining import (
    ContinualCallback,
    ContinualConfig,
    ContinualReport,
    InfiniteSchedule,
    RewarmSchedule,
    TokenBlocks,
    block_losses,
    compare_schedules,
    continue_pretraining,
)

GOLDEN = golden_json("31-rewarm", "dev-measures.json")["measures"]
SIDES = ("upstream", "downstream")
CONFIG = {"batch_size": 2, "evaluate_every": 2, "save_every": 2}
SCHEDULE = RewarmSchedule(6, 1, 0.01)


def blocks(seed, number=12, length=10):
    """Each next token is this one and a little more, which differs between the sides."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(64, (number, 1), generator=generator)
    return (first + (seed + 1) * torch.arange(length)) % 64


OLD, NEW = (TokenBlocks(blocks(seed), blocks(seed, 5)) for seed in (0, 4))


def trained(
    model=None, old=OLD, new=NEW, schedule=SCHEDULE, folder=None, resume=False, progress=None, **changed
):
    model = model or llama()
    told = {} if progress is None else {"progress": progress}
    config = ContinualConfig(**CONFIG | changed)
    return model, continue_pretraining(model, old, new, schedule, config, folder, resume, **told)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(case["final_window"]))
def test_measures_are_those_of_the_reference(case):
    report = ContinualReport(
        {side: case[f"{side}_before"] for side in SIDES},
        {side: case[f"{side}_loss"] for side in SIDES},
        case["final_window"],
    )
    for name in (
        "upstream_final",
        "downstream_final",
        "forgetting",
        "adaptation",
        "average_final",
        "max_forgetting",
        "max_forgetting_step",
        "upstream_perplexity_final",
    ):
        assert getattr(report, name) == pytest.approx(case[name], rel=1e-12), name


def test_errors_are_those_of_blocks_paired_with_themselves():
    before = {side: np.array([1.0, 5.0, 9.0]) for side in SIDES}
    curves = {side: np.array([[2.0, 6.0, 10.0], [3.0, 6.5, 11.0]]) for side in SIDES}
    report = ContinualReport(before, curves, final_window=1)
    change = report.change("upstream")
    assert (report.forgetting, change.samples) == (pytest.approx(11 / 6), 3)
    assert change.standard_error == pytest.approx(np.std([2, 1.5, 2], ddof=1) / math.sqrt(3))
    assert report.curve("upstream").tolist() == pytest.approx([6.0, 41 / 6])


def test_a_side_that_was_not_measured_is_not_a_number():
    report = ContinualReport({"downstream": 2.0}, {"downstream": [1.5]})
    assert math.isnan(report.forgetting)
    assert math.isnan(report.max_forgetting)
    assert report.adaptation == 0.5


@pytest.mark.parametrize(
    ("before", "curves", "window", "words"),
    [
        ({"upstream": 1.0}, {"downstream": [1.0]}, 1, r"got \['upstream'\] and \['downstream'\]"),
        ({"old": 1.0}, {"old": [1.0]}, 1, "a report is about upstream and downstream"),
        ({"upstream": 1.0}, {"upstream": []}, 1, "a curve has no points"),
        ({"upstream": 1.0}, {"upstream": [1.0]}, 0, "final_window must be at least 1, got 0"),
    ],
)
def test_a_report_of_something_else_is_refused(before, curves, window, words):
    with pytest.raises(UserError, match=words):
        ContinualReport(before, curves, window)


@pytest.mark.parametrize("make", [llama, gpt2])
def test_block_losses_are_those_of_the_model(make):
    model = make().train()
    ids = blocks(1, 5)
    expected = [model.eval()(input_ids=row[None], labels=row[None]).loss.item() for row in ids]
    model.train()
    assert block_losses(model, ids, batch_size=2) == pytest.approx(expected, rel=1e-5)
    assert model.training
    assert block_losses(model, ids, bfloat16=True) == pytest.approx(expected, rel=0.02)


def test_a_model_learns_the_new_text_and_both_sides_are_evaluated_on_the_way():
    model = llama()
    before = {side: block_losses(model, part.held_out) for side, part in zip(SIDES, (OLD, NEW), strict=True)}
    _, report = trained(model, schedule=RewarmSchedule(20, 2, 0.01), steps=20, evaluate_every=8)
    assert list(report.steps) == [8, 16, 20]
    for side in SIDES:
        assert report.before[side] == pytest.approx(before[side])
        assert report.final_by_block(side) == pytest.approx(
            block_losses(model, (OLD if side == "upstream" else NEW).held_out), rel=1e-5
        )
    assert report.adaptation > 0.3
    assert not model.training


def test_replayed_text_is_learned_too():
    schedule = RewarmSchedule(30, 2, 0.01)
    without, half = (trained(schedule=schedule, steps=30, replay=share)[1] for share in (0.0, 0.5))
    assert half.upstream_final < without.upstream_final - 0.1


def stopped(what, share):
    if share > 0.7:
        raise KeyboardInterrupt


def same(one, other):
    return all(torch.equal(weight, other.state_dict()[name]) for name, weight in one.state_dict().items())


def test_a_resumed_training_has_the_same_curves_and_weights(tmp_path):
    whole, expected = trained()
    with pytest.raises(KeyboardInterrupt):
        trained(folder=tmp_path, progress=stopped)
    resumed, report = trained(folder=tmp_path, resume=True)
    assert same(whole, resumed)
    assert report.steps == expected.steps
    for side in SIDES:
        np.testing.assert_array_equal(report.curves[side], expected.curves[side])
        np.testing.assert_array_equal(report.before[side], expected.before[side])
    with pytest.raises(UserError, match="belongs to a training with another model"):
        trained(folder=tmp_path, resume=True, replay=0.5)


def test_a_comparison_trains_the_same_model_on_the_same_batches():
    made = llama()
    grid = {"low": RewarmSchedule(6, 0, 0.001), "high": RewarmSchedule(6, 0, 0.02)}
    told = []
    reports = compare_schedules(
        lambda: copy.deepcopy(made),
        OLD,
        NEW,
        grid,
        ContinualConfig(**CONFIG),
        progress=lambda *say: told.append(say),
    )
    assert list(reports) == ["low", "high"]
    assert reports["high"].adaptation > reports["low"].adaptation
    alone = trained(copy.deepcopy(made), schedule=grid["high"])[1]
    np.testing.assert_array_equal(reports["high"].curves["upstream"], alone.curves["upstream"])
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert {name for name, _ in told} == {"low", "high"}


def test_the_callback_evaluates_in_any_trainer(tmp_path):
    callback = ContinualCallback(OLD.held_out, NEW.held_out, every=2)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=3, learning_rate=0.01, per_device_train_batch_size=2, save_strategy="no",
        report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    rows = [{"input_ids": row, "labels": row} for row in NEW.train]
    Trainer(llama(), arguments, train_dataset=rows, callbacks=[callback]).train()
    report = callback.report()
    assert list(report.steps) == [2, 3]
    assert report.adaptation > 0


def test_accumulated_batches_are_one_larger_batch():
    options = {"schedule": RewarmSchedule(3, 0, 0.01), "evaluate_every": 1}
    one, two = (trained(batch_size=size, batches_per_step=4 // size, **options)[1] for size in (4, 2))
    np.testing.assert_allclose(one.curves["downstream"], two.curves["downstream"], rtol=1e-4)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"old": None, "replay": 0.05}, "0.05 of every batch is to be replayed, but there is no old text"),
        ({"replay": 1.5}, r"replay must be in \[0, 1\], got 1.5"),
        ({"batch_size": 20}, "the text is too short for one step of 20 blocks"),
        ({"batch_size": 10, "batches_per_step": 2}, "the text is too short for one step of 20 blocks"),
        ({"schedule": RewarmSchedule(7, 1, 0.1)}, "ends at step 7, but the data last for 6 steps"),
        ({"schedule": InfiniteSchedule.over(8, 1, 0.1)}, "ends at step 8, but the data last for 6 steps"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"evaluate_every": 0}, "evaluate_every must be at least 1, got 0"),
        ({"new": TokenBlocks(blocks(0) + 60, blocks(0))}, "the text: token id .* is not among the 64 rows"),
        ({"model": gpt2(n_positions=8)}, "the text: a sample takes 10 positions and .* has 8"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_begins(changed, words):
    model = changed.get("model") or llama()
    kept = copy.deepcopy(model)
    with pytest.raises(UserError, match=words):
        trained(**{"model": model} | changed)
    assert same(model, kept)


def test_a_schedule_without_an_end_fits_any_data():
    forever = InfiniteSchedule(1, 3, None, None, 0.01, 0.005, 0.001)
    assert trained(schedule=forever)[1].adaptation > 0


def test_without_the_state_of_the_optimiser_the_rate_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(folder=tmp_path, progress=stopped)
    for state in ("optimizer.pt", "scheduler.pt"):
        (tmp_path / "checkpoint-4" / state).unlink()
    _, report = trained(folder=tmp_path, resume=True, schedule=SCHEDULE)
    assert list(report.steps) == [2, 4, 6]
