"""RateProxy: the authors' counts, masks and gradients, and what a proxy must be for any logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_arrays
from tokenry.compression.vision.rate_proxy import RateProxy
from tokenry.core.errors import UserError

GOLDEN = golden_arrays("04-diffrate", "dev-ddp.npz")
CASES = sorted({name.partition("_")[0] for name in GOLDEN})


def proxy_of(logits, num_patches, granularity=1, special_tokens=1):
    proxy = RateProxy(num_patches, granularity, special_tokens).double()
    proxy.logits.data = torch.as_tensor(logits, dtype=torch.float64)
    return proxy


@pytest.fixture(params=CASES)
def golden(request):
    prefix = f"{request.param}_"
    case = {name.removeprefix(prefix): GOLDEN[name].clone() for name in GOLDEN if name.startswith(prefix)}
    num_patches, granularity, class_token, num_alive = case["config"].tolist()
    case["proxy"] = proxy_of(case["logits"], num_patches, granularity, class_token)
    case["num_alive"] = None if num_alive == -1 else num_alive
    return case


def test_candidates_count_and_gradient_are_the_released_ones(golden):
    proxy = golden["proxy"]
    assert proxy.candidates.tolist() == golden["candidates"].tolist()
    kept = proxy.kept()
    assert kept.item() == golden["kept"].item()
    (gradient,) = torch.autograd.grad(kept, proxy.logits)
    torch.testing.assert_close(gradient, golden["kept_grad"], rtol=1e-6, atol=1e-8)


def test_survival_and_mask_with_its_gradient_are_the_released_ones(golden):
    proxy = golden["proxy"]
    torch.testing.assert_close(proxy.survival(), golden["token_prob"], rtol=0, atol=1e-6)
    mask = proxy.mask(golden["num_alive"])
    torch.testing.assert_close(mask, golden["mask"], rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad((mask * golden["mask_w"]).sum(), proxy.logits)
    torch.testing.assert_close(gradient, golden["mask_loss_grad"], rtol=0, atol=1e-5)


LOGITS = st.lists(st.floats(-20, 20), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(LOGITS, st.integers(1, 5), st.integers(0, 3))
def test_survival_falls_from_one_and_the_mask_keeps_exactly_the_count(logits, granularity, special):
    num_patches = granularity * (len(logits) - 1) + 1
    proxy = proxy_of(logits, num_patches, granularity, special)
    survival, mask, kept = (each().detach() for each in (proxy.survival, proxy.mask, proxy.kept))
    torch.testing.assert_close(survival[0], torch.ones_like(survival[0]))
    assert bool((survival.diff() <= 1e-12).all())
    assert float(mask.sum()) == kept.item() == int(kept)
    assert special + 1 <= int(kept) <= num_patches + special


@settings(max_examples=25, deadline=None)
@given(LOGITS)
def test_survival_adds_up_to_the_expected_count(logits):
    proxy = proxy_of(logits, len(logits), special_tokens=1)
    expected = float((proxy.probabilities() * proxy.candidates).sum().detach())
    assert float(proxy.survival().sum().detach()) == pytest.approx(expected + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_logits_of_a_deit_small_keep_101_of_197_tokens(dtype):
    proxy = RateProxy(196, granularity=4).to(dtype)
    assert proxy.kept().item() == 101


def test_who_is_dead_already_is_left_to_the_product_of_masks():
    proxy = proxy_of([0.0] * 8, 8)
    so_far = (torch.arange(9) < 6).double()
    so_far.requires_grad_(True)
    mask = so_far * proxy.mask(num_alive=6)
    assert mask.tolist() == [1, 1, 1, 1, 1, 1, 0, 0, 0]
    (gradient,) = torch.autograd.grad(mask[6:].sum(), proxy.logits)
    assert not gradient.any()


def test_a_granularity_above_all_patches_leaves_one_candidate():
    proxy = RateProxy(9, granularity=10)
    assert (proxy.candidates.tolist(), int(proxy.kept())) == ([9], 10)
    assert proxy.mask().tolist() == [1] * 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0,), "num_patches must be at least 1, got 0"),
        ((9, 0), "granularity must be at least 1, got 0"),
        ((9, 1, -1), "special_tokens must be at least 0, got -1"),
    ],
)
def test_a_proxy_without_candidates_is_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        RateProxy(*arguments)


@pytest.mark.parametrize("question", ["kept", "survival", "mask"])
@pytest.mark.parametrize("logit", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(question, logit):
    with pytest.raises(UserError, match="logits of a RateProxy must be finite, got nan or inf"):
        getattr(proxy_of([0.0, logit], 2), question)()
