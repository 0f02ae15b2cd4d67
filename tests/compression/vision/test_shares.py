import pytest

from tokenry.compression.flops import LayerCost
from tokenry.compression.reducer import REDUCERS, make_reducer
from tokenry.compression.vision.shares import EncoderShape
from tokenry.compression.vision.zero_tprune import token_trace

SHARES = (0.8, 0.65, 0.5, 0.35)
SMALL = EncoderShape([LayerCost(4 * 384**2, 8 * 384**2, 384)] * 12, 197, 1)


def options_at(method, share, shape):
    return REDUCERS[method].method.at(share, shape)


@pytest.mark.parametrize("method", REDUCERS)
@pytest.mark.parametrize(
    "shape", [SMALL, EncoderShape(SMALL.costs[:4], 17, 1), EncoderShape(SMALL.costs * 2, 256, 0)]
)
def test_every_method_can_be_made_at_every_share(method, shape):
    for share in SHARES:
        assert isinstance(make_reducer(method, **options_at(method, share, shape)), REDUCERS[method].method)


@pytest.mark.parametrize("share", SHARES)
def test_methods_that_thin_out_every_layer_keep_the_same_tokens(share):
    counts = options_at("random", share, SMALL)["counts"]
    r = options_at("tome", share, SMALL)["r"]
    assert [197 - sum(r[: layer + 1]) for layer in range(12)] == counts
    assert options_at("norm", share, SMALL)["counts"] == counts
    assert SMALL.share([197, *counts[:-1]], counts) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("share", SHARES)
def test_schedules_cost_what_they_are_to_cost(share):
    schedule = options_at("diffrate", share, SMALL)["schedule"]
    left = list(schedule.merge_kept)
    assert SMALL.share([197, *left[:-1]], left) == pytest.approx(share, abs=0.01)
    config = make_reducer("zero-tprune", **options_at("zero-tprune", share, SMALL)).config
    entering = token_trace(config, 197, 12, 1)[:-1]
    assert SMALL.share(entering, entering) == pytest.approx(share, abs=0.02)


def test_the_papers_schedule_is_met_at_its_own_share():
    """Zero-TPrune's ablation keeps 3.08 of 4.55 GFLOPs of a DeiT-S: 0.674 of its layers."""
    options = options_at("zero-tprune", 0.674, SMALL)
    assert options["layers"] == (1, 3, 6, 9, 11)
    assert options["keep_rates"] == pytest.approx((1.0, 0.9, 0.8, 0.7, 1.0), abs=0.02)
