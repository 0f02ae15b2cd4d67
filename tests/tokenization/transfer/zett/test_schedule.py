"""The two-stage learning rate against the reference numbers."""

import pytest

from tests.tokenization.transfer.zett.golden import content
from tokenry.core.errors import UserError
from tokenry.tokenization.transfer.zett.schedule import two_stage_schedule


@pytest.mark.parametrize("case", content("schedule"), ids=lambda case: str(case["config"]["warmup_steps"]))
def test_the_learning_rate_is_the_reference(case):
    config = case["config"]
    found = [
        two_stage_schedule(
            step,
            config["warmup_steps"],
            config["learning_rate"],
            config["steps"],
            config["learning_rate_alpha"],
        )
        for step in case["steps"]
    ]
    assert found == pytest.approx(case["lr"], rel=1e-3, abs=1e-12)


def test_the_defaults_are_the_papers():
    assert [two_stage_schedule(step) for step in (0, 5_000, 10_000, 15_000, 20_000)] == pytest.approx(
        [0, 1.5e-4, 0, 3e-5, 6e-5]
    )
    assert two_stage_schedule(200_000) == pytest.approx(6e-6) == two_stage_schedule(300_000)


def test_an_empty_first_stage_is_skipped():
    assert two_stage_schedule(5, (0, 10), (3e-4, 1e-3), 100) == pytest.approx(5e-4)


def test_stages_that_do_not_fit_into_the_steps_are_refused():
    with pytest.raises(UserError, match="within the 100 steps, got 50, 200"):
        two_stage_schedule(0, (50, 200), (1e-3, 1e-4), 100)
    with pytest.raises(UserError, match="got 2 and 1"):
        two_stage_schedule(0, (50, 60), (1e-3,), 100)
    with pytest.raises(UserError, match=r"alpha must be in \[0, 1\], got 2.0"):
        two_stage_schedule(0, alpha=2.0)
