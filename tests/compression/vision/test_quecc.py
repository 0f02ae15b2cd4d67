"""QueCC and TokenPacker: the authors' numbers, the properties, and what is refused."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_arrays
from tokenry.compression.vision.quecc import CompressorConfig, QueCC, TokenPackerCompressor
from tokenry.core.errors import UserError

GOLDEN = golden_arrays("20-one-visual-token", "dev-quecc.npz")
CLOSE = {"rtol": 1e-7, "atol": 1e-9}
SMALL = CompressorConfig(
    hidden_size=16, text_hidden_size=6, grid_size=4, kernel_size=2, num_levels=2, num_attention_heads=4
)


def golden_case(number):
    prefix = f"c{number}_"
    return {
        key.removeprefix(prefix): value.clone() for key, value in GOLDEN.items() if key.startswith(prefix)
    }


def inputs(config, batch=2, seed=0):
    draw = torch.Generator().manual_seed(seed)
    tokens = config.grid_size**2
    return (
        torch.randn(batch, tokens, config.hidden_size, generator=draw),
        torch.randn(batch, tokens, config.num_levels * config.hidden_size, generator=draw),
        torch.randn(batch, 1, config.text_hidden_size, generator=draw),
    )


def made(kind, config=SMALL, seed=0):
    torch.manual_seed(seed)
    return kind(config)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_released_weights_load_and_give_the_released_outputs_and_gradients(number):
    case = golden_case(number)
    _, tokens, width, text_width, kernel, stride, levels, heads = case["config"].tolist()
    compressor = QueCC(
        CompressorConfig(
            hidden_size=width,
            text_hidden_size=text_width,
            grid_size=int(tokens**0.5),
            kernel_size=kernel,
            stride=stride,
            num_levels=levels,
            num_attention_heads=heads,
        )
    ).double()
    compressor.load_state_dict({key[2:]: value for key, value in case.items() if key.startswith("w:")})
    features, text = case["features"].requires_grad_(), case["text"].requires_grad_()
    out = compressor(features, case["features_multi"], text)
    torch.testing.assert_close(out, case["out"], **CLOSE)
    (out * case["gw"]).sum().backward()
    torch.testing.assert_close(features.grad, case["grad_features"], **CLOSE)
    torch.testing.assert_close(text.grad, case["grad_text"], **CLOSE)


@pytest.mark.parametrize(("kernel", "tokens"), [(4, 36), (6, 16), (12, 4), (24, 1)])
def test_the_papers_kernels_leave_the_papers_numbers_of_tokens(kernel, tokens):
    assert CompressorConfig(kernel_size=kernel).num_tokens == tokens


@pytest.mark.parametrize("kind", [QueCC, TokenPackerCompressor])
@pytest.mark.parametrize(("kernel", "stride", "kept"), [(1, 1, 16), (2, 2, 4), (4, 4, 1), (3, 1, 4)])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_kernel_that_tiles_gives_its_number_of_tokens(kind, kernel, stride, kept, batch):
    config = dataclasses.replace(SMALL, kernel_size=kernel, stride=stride)
    assert made(kind, config)(*inputs(config, batch)).shape == (batch, kept, 16)


@pytest.mark.parametrize("kind", [QueCC, TokenPackerCompressor])
def test_without_compression_each_query_sees_its_own_token_only(kind):
    config = dataclasses.replace(SMALL, kernel_size=1)
    compressor, (features, multi, text) = made(kind, config), inputs(config)
    changed = multi.clone()
    changed[:, 5] += 1
    moved = (compressor(features, multi, text) - compressor(features, changed, text)).abs().amax((0, 2)) > 0
    assert moved.nonzero().flatten().tolist() == [5]


@pytest.mark.parametrize("kind", [QueCC, TokenPackerCompressor])
def test_a_cell_attends_to_its_own_window_only(kind):
    compressor, (features, multi, text) = made(kind), inputs(SMALL)
    changed = multi.clone()
    changed[:, 2 * 4 + 1] += 1  # row 2, column 1: the lower left window
    moved = (compressor(features, multi, text) - compressor(features, changed, text)).abs().amax((0, 2)) > 0
    assert moved.nonzero().flatten().tolist() == [2]


def test_the_question_changes_what_quecc_carries_and_not_what_tokenpacker_does():
    features, multi, text = inputs(SMALL)
    asked, blind = made(QueCC), made(TokenPackerCompressor)
    assert not torch.allclose(asked(features, multi, text), asked(features, multi, -text))
    assert torch.equal(blind(features, multi, text), blind(features, multi))


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(4)), seed=st.integers(0, 2**31))
def test_the_order_of_the_batch_does_not_matter(order, seed):
    compressor, given_ = made(QueCC), inputs(SMALL, batch=4, seed=seed)
    out = compressor(*given_)
    shuffled = compressor(*(each[list(order)] for each in given_))
    torch.testing.assert_close(shuffled, out[list(order)], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [QueCC, TokenPackerCompressor])
def test_bfloat16_gives_nearly_what_float32_gives(kind):
    compressor, given_ = made(kind), inputs(SMALL)
    exact = compressor(*given_)
    half = compressor.bfloat16()(*(each.bfloat16() for each in given_))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("kind", [QueCC, TokenPackerCompressor])
def test_every_parameter_learns(kind):
    compressor = made(kind)
    compressor(*inputs(SMALL)).square().sum().backward()
    assert [name for name, each in compressor.named_parameters() if each.grad is None] == []


def test_tokens_that_are_no_square_are_refused():
    features, multi, text = inputs(SMALL)
    with pytest.raises(UserError, match="15 visual tokens are not a square grid: drop the class token"):
        made(QueCC)(features[:, 1:], multi[:, 1:], text)


def test_another_grid_than_the_configured_one_is_refused():
    features, multi, text = inputs(dataclasses.replace(SMALL, grid_size=6))
    with pytest.raises(UserError, match="36 visual tokens are a grid of 6, but the compressor is made for 4"):
        made(QueCC)(features, multi, text)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(UserError, match="hidden_size 16 is not divisible by num_attention_heads 3"):
        dataclasses.replace(SMALL, num_attention_heads=3)


@pytest.mark.parametrize(("kernel", "stride", "words"), [
    (3, None, "the windows of kernel_size 3 and stride 3 do not tile a grid of 4: choose both equal to a divisor of 4"),
    (2, 1, "the windows of kernel_size 2 and stride 1 do not tile a grid of 4"),
    (5, None, "kernel_size 5 is larger than the grid of 4"),
])  # fmt: skip
def test_windows_that_do_not_tile_are_refused(kernel, stride, words):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(SMALL, kernel_size=kernel, stride=stride)


def test_a_missing_question_is_refused():
    features, multi, _ = inputs(SMALL)
    with pytest.raises(UserError, match=r"needs the embedding of the question \(text\), got none"):
        made(QueCC)(features, multi)


def test_features_of_another_number_of_layers_are_refused():
    features, multi, text = inputs(SMALL)
    with pytest.raises(UserError, match="features_multi must have the width 32, got 16"):
        made(QueCC)(features, multi[..., :16], text)


def test_sizes_below_one_are_refused():
    with pytest.raises(UserError, match="at least 1"):
        dataclasses.replace(SMALL, stride=0)
