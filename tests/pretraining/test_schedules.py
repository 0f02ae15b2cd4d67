"""Schedules against reference numbers, their properties, and PyTorch's and transformers' view of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from tests.golden import golden_json
from tests.tiny.models import llama
from tokenry.core.errors import UserError
from tokenry.pretraining import (
    InfiniteSchedule,
    InfiniteScheduler,
    RewarmSchedule,
    RewarmScheduler,
    ScheduleCallback,
    infinite_lr,
    register_schedules,
    rewarm_lr,
)

GOLDEN = golden_json("31-rewarm", "dev-schedules.json")
PHASES = {
    "rewarm": ("total_steps", "warmup_steps", "max_lr", "min_lr", "decay_end", "start_lr"),
    "infinite": (
        "warmup_steps",
        "cooldown_end",
        "constant_end",
        "end",
        "max_lr",
        "const_lr",
        "min_lr",
        "style",
        "alpha",
    ),
}
REWARM = {"total": 20, "warmup": 4, "max_lr": 0.1}
INFINITE = {
    "warmup": 2,
    "cooldown_end": 6,
    "constant_end": 10,
    "end": 14,
    "max_lr": 0.1,
    "const_lr": 0.05,
    "min_lr": 0.01,
}


def adamw(**options):
    return torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], **({"lr": 0.1} | options))


def rates(scheduler, steps):
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['kind']}-{case.get('style', '')}")
def test_a_schedule_has_the_reference_rates(case):
    function = {"rewarm": rewarm_lr, "infinite": infinite_lr}[case["kind"]]
    phases = [case[name] for name in PHASES[case["kind"]]]
    steps = range(len(case["lr"]))
    assert function(np.arange(len(steps)), *phases) == pytest.approx(case["lr"], rel=1e-12, abs=0)
    assert [function(step, *phases) for step in steps] == pytest.approx(case["lr"], rel=1e-12, abs=0)


def test_the_minimum_is_a_tenth_of_the_maximum_and_the_end_that_of_the_training():
    assert rewarm_lr(20, 20, 4, 0.1) == pytest.approx(0.01)
    assert rewarm_lr(19, 20, 4, 0.1) > rewarm_lr(20, 20, 4, 0.1)
    assert isinstance(rewarm_lr(3, 20, 4, 0.1), float)


def test_without_warm_up_the_first_step_has_the_highest_rate():
    assert rewarm_lr(0, 20, 0, 0.1, start_lr=0.01) == 0.1
    assert rewarm_lr([0, 1], total=20, warmup=20, max_lr=0.1)[0] == 0.0
    assert rewarm_lr(20, 20, 20, 0.1) == pytest.approx(0.01)


@given(
    st.integers(0, 50),
    st.integers(1, 50),
    st.integers(0, 50),
    st.floats(1e-5, 1.0),
    st.floats(0.01, 1.0),
    st.sampled_from(["cosine", "inv_sqrt", "linear"]),
)
@settings(max_examples=40, deadline=None)
def test_schedules_are_continuous_and_stay_within_their_rates(
    warmup, cooldown, constant, highest, share, style
):
    total = warmup + cooldown + constant + 50
    fine = np.linspace(0, total + 5, 40_000)
    const, low = highest * share**0.5, highest * share
    rewarm = RewarmSchedule(total, warmup, highest, low, warmup + cooldown, start_lr=low)
    infinite = InfiniteSchedule(
        warmup,
        warmup + cooldown,
        warmup + cooldown + constant,
        total,
        highest,
        const,
        low,
        style,
    )
    for schedule, least in ((rewarm, low), (infinite, 0.0 if warmup else low)):
        found = schedule(fine)
        assert found.min() >= least - 1e-12
        assert found.max() <= highest * (1 + 1e-12)
        assert np.abs(np.diff(found)).max() < 0.01 * highest
        assert found[-1] == pytest.approx(low)


def test_a_rate_without_an_end_stays():
    forever = InfiniteSchedule(**INFINITE | {"constant_end": None, "end": None})
    assert forever(10**9) == forever(6) == 0.05
    branched = forever.anneal_from(1000, 10)
    assert branched(1000) == 0.05
    assert branched(1010) == branched(5000) == pytest.approx(0.01)
    np.testing.assert_array_equal(branched(np.arange(1000)), forever(np.arange(1000)))


def test_the_proportions_of_the_paper():
    schedule = InfiniteSchedule.over(1000, 10, 3e-4, style="linear")
    assert (schedule.cooldown_end, schedule.constant_end, schedule.end) == (600, 850, 1000)
    assert (schedule.const_lr, schedule.min_lr) == pytest.approx((1.65e-4, 3e-5))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"total": 0}, "total must be at least 1, got 0"),
        ({"warmup": -1}, "warmup must be at least 0, got -1"),
        ({"warmup": 21}, "warmup must be at most total, got 21 and 20"),
        ({"decay_end": 3}, "warmup must be at most decay_end, got 4 and 3"),
        ({"decay_end": 21}, "decay_end must be at most total, got 21 and 20"),
        ({"min_lr": 0.2}, "min_lr must be at most max_lr, got 0.2 and 0.1"),
        ({"min_lr": -0.1}, "min_lr must be at least 0, got -0.1"),
        ({"max_lr": -0.1}, "max_lr must be at least 0, got -0.1"),
        ({"start_lr": -0.1}, "start_lr must be at least 0, got -0.1"),
        ({"start_lr": 0.2}, "start_lr must be at most max_lr, got 0.2 and 0.1"),
        ({"step": -1}, "step must be at least 0, got -1.0"),
        ({"step": np.array([3, -2])}, "step must be at least 0, got -2.0"),
    ],
)
def test_a_bad_re_warming_is_one_sentence(changed, words):
    with pytest.raises(UserError, match=words):
        rewarm_lr(**{"step": 0} | REWARM | changed)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"warmup": -1}, "warmup must be at least 0, got -1"),
        ({"cooldown_end": 2}, "phases must end one after the other, got warmup 2, cooldown_end 2"),
        ({"constant_end": 5}, "cooldown_end 6, constant_end 5, end 14"),
        ({"end": 10}, "constant_end 10, end 10"),
        ({"end": None}, "constant_end and end are given together"),
        ({"max_lr": 0.04}, "const_lr must be at most max_lr, got 0.05 and 0.04"),
        ({"min_lr": 0.06}, "min_lr must be at most const_lr, got 0.06 and 0.05"),
        ({"const_lr": -0.05, "min_lr": 0}, "const_lr must be at least 0, got -0.05"),
        ({"min_lr": 0}, "min_lr must be above 0 where the rate is annealed, got 0"),
        ({"style": "square"}, "style must be one of cosine, inv_sqrt, linear, got 'square'"),
        ({"alpha": 0}, "alpha must be above 0, got 0"),
        ({"step": -1}, "step must be at least 0"),
    ],
)
def test_a_bad_infinite_schedule_is_one_sentence(changed, words):
    with pytest.raises(UserError, match=words):
        infinite_lr(**{"step": 0} | INFINITE | changed)


def test_an_annealing_begins_in_the_constant_phase_and_lasts():
    schedule = InfiniteSchedule(**INFINITE)
    with pytest.raises(
        UserError, match=r"at step 5 the rate is still cooling down: anneal from .* 6 or later"
    ):
        schedule.anneal_from(5, 10)
    with pytest.raises(UserError, match="length must be above 0 steps of annealing, got 0"):
        schedule.anneal_from(8, 0)


def test_a_million_steps_at_once_are_the_steps_one_by_one():
    schedule = RewarmSchedule(10**6, 10**4, 3e-4)
    rates = schedule(np.arange(10**6))
    some = [0, 1, 9_999, 10_000, 10_001, 500_000, 999_999]
    assert rates[some].tolist() == [float(schedule(step)) for step in some]


# --- for PyTorch -----------------------------------------------------------------------------------------------------------------------


def test_a_scheduler_sets_the_schedules_rates_times_the_factor_of_each_group():
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [weights[0]]}, {"params": [weights[1]], "lr": 0.02}], lr=0.01)
    scheduler = RewarmScheduler(optimizer, 20, 4, 0.1)
    assert rates(scheduler, 8) == pytest.approx(list(rewarm_lr(np.arange(8), 20, 4, 0.1)))
    first, second = scheduler.get_last_lr()
    assert second == pytest.approx(2 * first)
    assert [group["lr"] for group in optimizer.param_groups] == [first, second]


def test_a_scheduler_begins_at_any_step_without_the_state_of_the_optimiser():
    expected = rewarm_lr(np.arange(7, 12), 20, 4, 0.1)
    assert rates(RewarmScheduler(adamw(), 20, 4, 0.1, last_epoch=6), 5) == pytest.approx(list(expected))


def test_a_saved_scheduler_goes_on(tmp_path):
    whole = RewarmScheduler(adamw(), **REWARM)
    begun = RewarmScheduler(adamw(), **REWARM)
    rates(begun, 7)
    torch.save(begun.state_dict(), tmp_path / "scheduler.pt")
    resumed = RewarmScheduler(adamw(), **REWARM)
    resumed.load_state_dict(torch.load(tmp_path / "scheduler.pt", weights_only=True))
    assert resumed.optimizer.param_groups[0]["lr"] == pytest.approx(rewarm_lr(7, **REWARM))
    assert rates(resumed, 5) == pytest.approx(rates(whole, 12)[7:])


def test_tokens_are_counted_where_phases_are_in_tokens():
    in_tokens = RewarmScheduler(adamw(), total=2000, warmup=400, max_lr=0.1, tokens_per_step=100)
    assert rates(in_tokens, 20) == pytest.approx(rates(RewarmScheduler(adamw(), **REWARM), 20))
    with pytest.raises(UserError, match="tokens_per_step must be above 0, got 0"):
        RewarmScheduler(adamw(), **REWARM, tokens_per_step=0)


def test_a_step_beyond_the_end_is_warned_of_and_holds_the_minimum():
    with pytest.warns(UserWarning, match=r"step 25 lies beyond the end of the schedule \(20\)"):
        late = RewarmScheduler(adamw(), **REWARM, last_epoch=24)
    assert rates(late, 2) == pytest.approx([0.01, 0.01])
    scheduler = RewarmScheduler(adamw(), **REWARM)
    with pytest.warns(UserWarning, match="step 25 lies beyond the end"):
        scheduler.load_state_dict(late.state_dict() | {"last_epoch": 25})


def test_a_scheduler_is_annealed_at_any_time_and_the_annealing_is_saved():
    phases = INFINITE | {"constant_end": None, "end": None}
    scheduler = InfiniteScheduler(adamw(), **phases)
    assert rates(scheduler, 12)[-1] == 0.05
    scheduler.anneal_from(13, 4)
    state = scheduler.state_dict()
    annealed = infinite_lr(np.arange(12, 20), **phases | {"constant_end": 13, "end": 17})
    assert rates(scheduler, 8) == pytest.approx(list(annealed))
    resumed = InfiniteScheduler(adamw(), **phases)
    resumed.load_state_dict(state)
    assert rates(resumed, 8) == pytest.approx(list(annealed))
    with pytest.raises(UserError, match="the rate is annealed since step 13: branch off a checkpoint"):
        scheduler.anneal_from(30, 4)


def test_an_annealing_does_not_begin_in_the_past():
    scheduler = InfiniteScheduler(adamw(), **INFINITE)
    rates(scheduler, 9)
    with pytest.raises(UserError, match="step 7 lies behind: anneal from 9 or later"):
        scheduler.anneal_from(7, 4)


def test_groups_have_no_factor_to_a_rate_of_nothing():
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.1}]
    with pytest.raises(UserError, match=r"own lr is 0.0, so no parameter group has a factor"):
        RewarmScheduler(torch.optim.SGD(groups, lr=0.0), **REWARM)
    assert rates(RewarmScheduler(adamw(lr=0.0), **REWARM), 5)[4] == pytest.approx(0.1)


# --- for transformers ------------------------------------------------------------------------------------------------------------------


def trainer(folder, steps=6, callbacks=(), **arguments):
    rows = [{"input_ids": list(range(8)), "labels": list(range(8))}] * 4
    given = TrainingArguments(
        str(folder),
        **{
            "max_steps": steps,
            "per_device_train_batch_size": 2,
            "learning_rate": 0.1,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "use_cpu": True,
        }
        | arguments,
    )
    return Trainer(llama(vocab_size=10), given, train_dataset=rows, callbacks=list(callbacks))


def logged(trainer):
    return [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]


def test_a_trainer_knows_the_schedules_by_name(tmp_path):
    register_schedules()
    register_schedules()
    rewarmed = trainer(tmp_path, lr_scheduler_type="rewarm", warmup_steps=2)
    rewarmed.train()
    used = rewarmed.lr_scheduler.schedule
    assert (used.total, used.warmup, used.max_lr) == (6, 2, 0.1)
    tokens = {"cooldown_end": 30, "tokens_per_step": 10, "style": "linear"}
    infinite = trainer(tmp_path, lr_scheduler_type="infinite", warmup_steps=1, lr_scheduler_kwargs=tokens)
    infinite.create_optimizer_and_scheduler(6)
    assert infinite.lr_scheduler.schedule == InfiniteSchedule.over(
        60, 10, 0.1, cooldown_end=30, style="linear"
    )
    assert infinite.lr_scheduler.tokens_per_step == 10


def test_a_schedule_of_the_library_still_has_its_name(tmp_path):
    register_schedules()
    cosine = trainer(tmp_path, lr_scheduler_type="cosine")
    cosine.create_optimizer_and_scheduler(6)
    assert type(cosine.lr_scheduler) is torch.optim.lr_scheduler.LambdaLR


def test_a_trainer_resumes_a_schedule_from_its_checkpoint(tmp_path):
    register_schedules()
    named = {"lr_scheduler_type": "rewarm", "warmup_steps": 2, "save_strategy": "steps", "save_steps": 3}
    whole = trainer(tmp_path, **named)
    whole.train()
    resumed = trainer(tmp_path, **named)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert logged(resumed) == pytest.approx(logged(whole))


def test_the_callback_needs_no_state_of_the_optimiser(tmp_path):
    schedule = RewarmSchedule(6, 2, 0.1)

    def made():
        callback = ScheduleCallback(schedule)
        return trainer(tmp_path, callbacks=[callback], save_strategy="steps", save_steps=2)

    made().train()
    checkpoint = tmp_path / "checkpoint-4"
    for state in ("optimizer.pt", "scheduler.pt"):
        (checkpoint / state).unlink()
    resumed = made()
    used = []
    step = resumed.training_step

    def watched(*args, **kwargs):
        used.append(resumed.optimizer.param_groups[0]["lr"])
        return step(*args, **kwargs)

    resumed.training_step = watched
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert used == pytest.approx(list(schedule(np.arange(4, 6))))
    assert logged(resumed) == pytest.approx(list(schedule(np.arange(6))))
    assert get_last_checkpoint(str(tmp_path)).endswith("checkpoint-6")
