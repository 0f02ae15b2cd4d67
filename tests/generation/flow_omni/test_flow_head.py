"""The flow head: reference velocities, losses and samples; what masks, draws and precomputed modulations never change; bad input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_arrays
from tokenry.core.errors import UserError
from tokenry.generation import FlowDraws, FlowHead, conditional_flow_loss, sample_flow
from tokenry.generation.flow_omni.flow_head import released_weights

SLUG = "30-flow-omni"
PRECISIONS = [(torch.float64, 1e-9), (torch.float32, 2e-3)]


def golden_head(dtype=torch.float64):
    found = golden_arrays(SLUG, "dev-head.npz")
    sizes = [int(found[name]) for name in ("channels", "cond", "width", "blocks")]
    head = FlowHead(*sizes).to(dtype)
    weights = {name[2:]: value for name, value in found.items() if name.startswith("w/")}
    head.load_state_dict(released_weights(weights))
    return head, found


def trained_head(channels=3, condition=5, seed=0):
    """A head whose output and modulations are no longer 0."""
    torch.manual_seed(seed)
    head = FlowHead(channels, condition, width=8, depth=2)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return head


@pytest.mark.parametrize(("dtype", "nearness"), PRECISIONS)
def test_velocities_are_those_of_the_released_head(dtype, nearness):
    head, found = golden_head(dtype)
    velocity = head(found["x"].to(dtype), found["t"].to(dtype), found["cond_vec"].to(dtype))
    torch.testing.assert_close(velocity.double(), found["velocity"], rtol=nearness, atol=nearness)


@pytest.mark.parametrize(("dtype", "nearness"), PRECISIONS)
@pytest.mark.parametrize(("tag", "sigma"), [("ot0", 0.0), ("ot1e4", 1e-4), ("ot01", 0.1)])
def test_the_loss_is_the_reference(tag, sigma, dtype, nearness):
    head, _ = golden_head(dtype)
    found = {name: value.to(dtype) for name, value in golden_arrays(SLUG, "dev-cfm-loss.npz").items()}
    real = found["mask"].bool()
    draws = FlowDraws(found["noise"][real][None], found["t"][real][None])
    loss = conditional_flow_loss(head, found["mel"], found["hidden"], found["mask"], sigma, draws)
    torch.testing.assert_close(loss.detach(), found[f"{tag}/loss"], rtol=nearness, atol=nearness)


@pytest.mark.parametrize(("dtype", "nearness"), [(torch.float64, 1e-9), (torch.float32, 5e-3)])
@pytest.mark.parametrize("solver", ["euler", "midpoint"])
@pytest.mark.parametrize("steps", [1, 4, 10])
@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_samples_are_the_reference(solver, steps, guidance, dtype, nearness):
    head, _ = golden_head(dtype)
    found = {name: value.to(dtype) for name, value in golden_arrays(SLUG, "dev-ode.npz").items()}
    sampled = sample_flow(
        head, found["cond"], steps, solver, 1.0, guidance, found["null_cond"], found["noise"]
    )
    expected = found[f"{solver}_n{steps}_g{guidance}"]
    torch.testing.assert_close(sampled, expected, rtol=nearness, atol=nearness)


def test_a_lower_temperature_is_the_reference():
    head, _ = golden_head()
    found = golden_arrays(SLUG, "dev-ode.npz")
    sampled = sample_flow(
        head, found["cond"], int(found["temperature_steps"]), temperature=0.5, noise=found["noise"]
    )
    torch.testing.assert_close(sampled, found["temperature_0.5_euler"], rtol=1e-9, atol=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.sampled_from(["euler", "midpoint"]), st.integers(0, 99))
def test_known_modulations_give_what_a_plain_loop_gives(rows, steps, solver, seed):
    head, draw = trained_head(), torch.Generator().manual_seed(seed)
    hidden, noise = torch.randn(rows, 5, generator=draw), torch.randn(rows, 3, generator=draw)
    x, dt = noise, 1 / steps
    with torch.no_grad():
        for step in range(steps):
            t = torch.full((rows,), step / steps)
            v = head(x, t, hidden)
            x = x + dt * (v if solver == "euler" else head(x + dt / 2 * v, t + dt / 2, hidden))
    torch.testing.assert_close(sample_flow(head, hidden, steps, solver, noise=noise), x, rtol=1e-4, atol=1e-4)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 99))
def test_padding_never_changes_the_loss(batch, longest, seed):
    head, draw = trained_head(), torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (batch,), generator=draw)
    real = torch.arange(longest) < lengths[:, None]
    tokens, hidden = (
        torch.randn(batch, longest, 3, generator=draw),
        torch.randn(batch, longest, 5, generator=draw),
    )
    draws = FlowDraws.of(tokens[real], 2, draw)
    loss = conditional_flow_loss(head, tokens, hidden, real, draws=draws)
    tokens[~real], hidden[~real] = torch.nan, torch.nan
    assert torch.equal(conditional_flow_loss(head, tokens, hidden, real, draws=draws), loss)
    alone = conditional_flow_loss(head, tokens[real], hidden[real], draws=draws)
    torch.testing.assert_close(alone, loss)


def test_padding_inside_a_token_never_changes_the_loss():
    head, draw = trained_head(channels=4), torch.Generator().manual_seed(0)
    tokens, hidden = torch.randn(3, 4, generator=draw), torch.randn(3, 5, generator=draw)
    elements = torch.ones(3, 4)
    elements[2, 2:] = 0
    t, noise = torch.rand(1, 3, generator=draw), torch.randn(1, 3, 4, generator=draw)
    loss = conditional_flow_loss(head, tokens, hidden, draws=FlowDraws(noise, t), element_mask=elements)
    x_t = (1 - (1 - 1e-4) * t[0, :, None]) * noise[0] + t[0, :, None] * tokens
    errors = (head(x_t, t[0], hidden) - (tokens - (1 - 1e-4) * noise[0])).square()
    torch.testing.assert_close(loss, (errors * elements).sum() / elements.sum())


def test_a_sample_depends_neither_on_its_batch_nor_on_how_much_fits_into_memory(monkeypatch):
    head, hidden, noise = trained_head(), torch.randn(5, 5), torch.randn(5, 3)
    whole = sample_flow(head, hidden, noise=noise)
    torch.testing.assert_close(sample_flow(head, hidden[2:3], noise=noise[2:3]), whole[2:3])
    monkeypatch.setattr("tokenry.generation.flow_omni.flow_head._MOST_MODULATIONS", 1000)
    torch.testing.assert_close(sample_flow(head, hidden, noise=noise), whole)


def test_without_guidance_the_null_vector_is_not_read():
    head, hidden, noise = trained_head(), torch.randn(2, 5), torch.randn(2, 3)
    found = sample_flow(head, hidden, guidance=0.0, null_hidden=torch.full((5,), torch.nan), noise=noise)
    assert torch.equal(found, sample_flow(head, hidden, noise=noise))


def test_a_new_head_says_nothing_and_leaves_the_noise_as_it_is():
    head, noise = FlowHead(3, 5, 8, 2), torch.randn(4, 3)
    assert torch.equal(sample_flow(head, torch.randn(4, 5), noise=noise), noise)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_hidden_states_of_lower_precision_meet_a_head_in_float32(dtype):
    head, tokens, hidden = trained_head(), torch.randn(4, 3), torch.randn(4, 5).to(dtype)
    draws = FlowDraws.of(tokens, 4)
    loss = conditional_flow_loss(head, tokens, hidden, draws=draws)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, conditional_flow_loss(head, tokens, hidden.float(), draws=draws))
    assert sample_flow(head, hidden, noise=tokens).dtype == torch.float32


def test_a_head_learns_two_tokens_that_a_mean_would_lie_between():
    torch.manual_seed(0)
    head = FlowHead(1, 2, 32, 2)
    optimiser = torch.optim.AdamW(head.parameters(), 1e-2)
    hidden = torch.ones(256, 2)
    for _ in range(150):
        tokens = torch.where(torch.rand(256, 1) < 0.5, 1.0, -1.0)
        optimiser.zero_grad()
        conditional_flow_loss(head, tokens, hidden, draws=1).backward()
        optimiser.step()
    sampled = sample_flow(head, hidden, steps=20)
    assert float((sampled.abs() - 1).abs().mean()) < 0.2
    assert 0.3 < float((sampled > 0).float().mean()) < 0.7


def test_a_head_in_half_precision_learns_at_as_many_times():
    head, tokens, hidden = trained_head().bfloat16(), torch.randn(2000, 3), torch.randn(2000, 5)
    times = []
    head.time.register_forward_pre_hook(lambda module, inputs: times.extend(inputs[0].tolist()))
    conditional_flow_loss(head, tokens.bfloat16(), hidden.bfloat16(), draws=1).backward()
    assert len(set(times)) > 1990


def refused(head=None, tokens=None, hidden=None, **options):
    head = trained_head() if head is None else head
    return conditional_flow_loss(
        head,
        torch.zeros(2, 3) if tokens is None else tokens,
        torch.zeros(2, 5) if hidden is None else hidden,
        **options,
    )


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (
            lambda: refused(tokens=torch.zeros(2, 4)),
            "the tokens have 4 channels and the head has 3: group frames as",
        ),
        (
            lambda: refused(hidden=torch.zeros(3, 5)),
            "do not belong together: give the hidden state before each token",
        ),
        (lambda: refused(mask=torch.zeros(2)), "the mask keeps nothing, so there is no loss"),
        (
            lambda: refused(mask=torch.ones(3)),
            r"the mask has the shape \(3,\), and the tokens need one of \(2,\)",
        ),
        (lambda: refused(tokens=torch.full((2, 3), torch.nan)), "the tokens hold nan or inf"),
        (lambda: refused(draws=0), "repeats must be at least 1, got 0"),
        (lambda: refused(sigma_min=-0.1), r"sigma_min must be in \[0, 1\], got -0.1"),
        (
            lambda: refused(draws=FlowDraws(torch.zeros(1, 2, 3), torch.full((1, 2), 1.5))),
            r"a time must be in \[0, 1\], from noise to data, got 1.5",
        ),
        (
            lambda: trained_head()(torch.zeros(2, 3), torch.zeros(1), torch.zeros(2, 5)),
            "2 tokens, 1 times and 2 hidden",
        ),
        (lambda: sample_flow(trained_head(), torch.zeros(2, 5), steps=0), "steps must be at least 1, got 0"),
        (
            lambda: sample_flow(trained_head(), torch.zeros(2, 5), solver="heun"),
            "solver must be one of euler, midpoint",
        ),
        (
            lambda: sample_flow(trained_head(), torch.zeros(2, 5), temperature=-1),
            "temperature must be at least 0",
        ),
        (
            lambda: sample_flow(trained_head(), torch.zeros(2, 5), guidance=1.0),
            "guidance of 1 needs the vector",
        ),
        (
            lambda: sample_flow(trained_head(), torch.zeros(2, 5), noise=torch.zeros(3, 3)),
            r"noise must have the shape \(2, 3\), got \(3, 3\)",
        ),
        (lambda: FlowHead(0, 5), "channels must be at least 1, got 0"),
    ],
)
def test_what_is_no_flow_is_refused(do, words):
    with pytest.raises(UserError, match=words):
        do()
