import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import SFTTrainer

from tests import tiny
from tests.finetuning.check_weighing import assert_same_weights
from tests.golden import golden_arrays
from tests.tiny.tokenizers import word_tokenizer
from tests.tiny.training import sft_config, token_rows
from tokenry.core.errors import UserError
from tokenry.core.tensors.logit_losses import loss_of_logits
from tokenry.core.tensors.losses import OutputHead, weighted_loss
from tokenry.core.tensors.row_losses import cross_entropy
from tokenry.finetuning import DynamicFineTuning, OneTokenRollout, TokenWeighingTrainer, dft_loss, otr_loss
from tokenry.finetuning.dft import dynamic_cross_entropy
from tokenry.finetuning.one_token_rollout import Rollout

FILES = ["dev-otr", "dev-otr-edge", "dev-otr-peaky", "dev-otr-kappa1"]
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
NAMED = lambda form: getattr(form, "__name__", str(form))  # noqa: E731
ROLLOUTS = [
    Rollout(),
    Rollout(anchor=0.3),
    Rollout(centred=True),
    Rollout(anchor=0.5, centred=True, beta=0.4, temperature=0.7),
]


def arrays(name):
    found = golden_arrays("06-otr", f"{name}.npz")
    return found, {"beta": found["beta"].item(), "temperature": found["kappa"].item()}


def loss_and_gradient(form, logits, *rest, **options):
    logits = logits.clone().requires_grad_()
    found = form(logits, *rest, **options)
    loss = found[0] if isinstance(found, tuple) else found
    return found, loss, torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("exact", [False, True])
def test_golden_rollout(name, exact):
    golden, options = arrays(name)
    key = "otr_exact" if exact else "otr"
    options |= {"exact": exact, "samples": golden["samples"]}
    (_, tokens), loss, gradient = loss_and_gradient(otr_loss, golden["logits"], golden["labels"], **options)
    torch.testing.assert_close(loss, golden[f"{key}_loss_token_mean"], **CLOSE)
    torch.testing.assert_close(gradient, golden[f"{key}_grad_logits"], **CLOSE)
    torch.testing.assert_close(tokens.loss[:, 1:], golden[f"{key}_token_loss"], **CLOSE)
    if not exact:
        assert torch.equal(tokens.hits[:, 1:], golden["match_count"].long())
    by_sequence, _ = otr_loss(golden["logits"], golden["labels"], reduction="sequence", **options)
    torch.testing.assert_close(by_sequence, golden[f"{key}_loss_sequence_mean"], **CLOSE)


@pytest.mark.parametrize("name", FILES)
def test_golden_dynamic_fine_tuning(name):
    golden, _ = arrays(name)
    _, loss, gradient = loss_and_gradient(dft_loss, golden["logits"], golden["labels"])
    torch.testing.assert_close(loss, golden["dft_loss_token_mean"], **CLOSE)
    torch.testing.assert_close(gradient, golden["dft_grad_logits"], **CLOSE)
    plain = loss_of_logits(
        golden["logits"], golden["labels"], lambda rows, targets: cross_entropy(rows, targets, entropy=False)
    )
    torch.testing.assert_close(plain.mean, golden["sft_loss_token_mean"], **CLOSE)


def test_at_temperature_one_the_exact_rollout_is_dynamic_fine_tuning():
    golden, options = arrays("dev-otr-kappa1")
    _, _, rollout = loss_and_gradient(otr_loss, golden["logits"], golden["labels"], exact=True, **options)
    _, _, dynamic = loss_and_gradient(dft_loss, golden["logits"], golden["labels"])
    torch.testing.assert_close(rollout, (1 - options["beta"]) * dynamic, **CLOSE)


def by_autograd(rollout, rows, targets):
    """The expectation written out, with rewards and the flattened policy as constants."""
    log_policy = rows.log_softmax(-1)
    flat = (rows.detach() / rollout.temperature).softmax(-1)
    hit = torch.nn.functional.one_hot(targets, rows.shape[1]).to(rows)
    reward = hit + rollout.beta * (1 - hit)
    if rollout.centred:
        reward = reward - (flat * reward).sum(-1, keepdim=True)
    expected = -(flat * reward * log_policy).sum(-1)
    return (1 - rollout.anchor) * expected - rollout.anchor * (hit * log_policy).sum(-1)


@pytest.mark.parametrize("rollout", ROLLOUTS, ids=str)
def test_the_closed_form_is_that_of_autograd(rollout):
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(7, 31, generator=draw, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(31, (7,), generator=draw)
    expected = by_autograd(rollout, rows, targets)
    gradient = rows.detach().clone()
    found = rollout(gradient, targets)
    torch.testing.assert_close(found.loss, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), rows)[0])
    torch.testing.assert_close(found.entropy, torch.distributions.Categorical(logits=rows.detach()).entropy())


def test_draws_are_unbiased():
    torch.manual_seed(0)
    rows, targets = torch.randn(3, 12, dtype=torch.float64), torch.tensor([0, 5, 11])
    exact, mean = rows.clone(), torch.zeros_like(rows)
    Rollout()(exact, targets)
    for _ in range(400):
        drawn = rows.clone()
        Rollout(samples=64)(drawn, targets)
        mean += drawn / 400
    torch.testing.assert_close(mean, exact, rtol=0, atol=0.01)


@settings(deadline=None, max_examples=25)
@given(st.permutations(range(9)))
def test_permuting_the_vocabulary_permutes_the_gradient(order):
    order = torch.tensor(order)
    rows = torch.randn(4, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    targets = torch.tensor([0, 3, 8, 3])
    one, other = rows.clone(), rows[:, order].clone()
    Rollout()(one, targets)
    Rollout()(other, order.argsort()[targets])
    torch.testing.assert_close(other, one[:, order])


@pytest.mark.parametrize("form", [*ROLLOUTS, Rollout(samples=5), dynamic_cross_entropy], ids=NAMED)
def test_columns_of_padding_give_no_nan(form):
    rows = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    rows[:, 6:] = -torch.inf
    narrow, targets = rows[:, :6].clone(), torch.tensor([0, 1, 5, 3])
    torch.manual_seed(0)
    wide_values = form(rows, targets, entropy=True)
    torch.manual_seed(0)
    narrow_values = form(narrow, targets, entropy=True)
    assert (rows[:, 6:] == 0).all()
    torch.testing.assert_close(rows[:, :6], narrow)
    for wide, small in zip(wide_values, narrow_values, strict=True):
        if isinstance(wide, torch.Tensor):
            torch.testing.assert_close(wide, small)


@pytest.mark.parametrize("form", [Rollout(), dynamic_cross_entropy], ids=NAMED)
@pytest.mark.parametrize("chunk_elements", [1, 100, 1 << 20])
def test_a_fused_head_gives_the_gradients_of_whole_logits(form, chunk_elements):
    draw = torch.Generator().manual_seed(2)
    hidden = torch.randn(2, 5, 8, generator=draw, dtype=torch.float64, requires_grad=True)
    linear = torch.nn.Linear(8, 21, bias=False, dtype=torch.float64)
    labels = torch.randint(21, (2, 5), generator=draw)
    weights = torch.rand(2, 5, generator=draw, dtype=torch.float64)
    weights[:, 0] = 0
    loss = weighted_loss(
        hidden, labels, weights, OutputHead(linear, 21), row_loss=form, chunk_elements=chunk_elements
    )
    ours = torch.autograd.grad(loss.total, [hidden, linear.weight])
    whole = loss_of_logits(linear(hidden), labels, form)
    of_tokens = torch.zeros_like(weights)
    of_tokens[whole.tokens] = whole.rows.loss
    torch.testing.assert_close(loss.total, (weights * of_tokens).sum())
    torch.testing.assert_close(loss.weight[whole.tokens], whole.rows.weight)
    torch.testing.assert_close(
        loss.entropy[whole.tokens], loss_of_logits(linear(hidden), labels, Rollout()).rows.entropy
    )
    rows = linear(hidden)
    gradient = rows.detach()[:, :-1].reshape(-1, 21).clone()
    form(gradient, labels[:, 1:].reshape(-1))
    scaled = gradient * weights[:, 1:].reshape(-1, 1)
    theirs = torch.autograd.grad((rows[:, :-1].reshape(-1, 21) * scaled).sum(), [hidden, linear.weight])
    torch.testing.assert_close(ours, theirs)


def test_no_target_is_no_loss_and_no_nan():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    loss, _ = otr_loss(logits, torch.full((2, 3), -100))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"beta": 1.0}, "beta must be finite and below 1, got 1.0"),
        ({"beta": float("-inf")}, "beta must be finite and below 1, got -inf"),
        ({"anchor": 1.5}, r"anchor must be in \[0, 1\]"),
    ],
)
def test_options_out_of_range(options, words):
    with pytest.raises(UserError, match=words):
        OneTokenRollout(**options)


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (torch.full((1, 3, 4), float("nan")), torch.ones(1, 3).long(), "the logits hold NaN"),
        (torch.full((1, 3, 4), float("inf")), torch.ones(1, 3).long(), r"or \+inf"),
        (torch.zeros(1, 3, 4), torch.full((1, 3), 4), "label 4 is not in the vocabulary of 4 tokens"),
    ],
)
def test_bad_batches(logits, labels, words):
    with pytest.raises(UserError, match=words):
        otr_loss(logits, labels)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (
            torch.zeros(1, 3, 4),
            r"shape \(1, 3, 4\): .* each of the 2 predicting positions of the 1 rows, \(1, 2, draws\)",
        ),
        (torch.zeros(1, 2, 0), "one draw or more"),
        (torch.full((1, 2, 4), 5), "samples must be tokens from 0 to 3, got 5 to 5"),
    ],
)
def test_samples_that_do_not_fit(samples, words):
    with pytest.raises(UserError, match=words):
        otr_loss(torch.zeros(1, 3, 4), torch.ones(1, 3).long(), samples=samples.long())


def test_a_generator_draws_the_same_tokens_again():
    logits, labels = torch.randn(2, 5, 9), torch.randint(9, (2, 5))
    first, second, other = (
        otr_loss(logits, labels, num_samples=8, generator=torch.Generator().manual_seed(seed))[0]
        for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


def test_a_reduction_that_does_not_exist():
    with pytest.raises(UserError, match="reduction must be one of token, sequence"):
        dft_loss(torch.zeros(1, 2, 3), torch.zeros(1, 2).long(), reduction="batch")


def test_they_are_not_plain():
    assert not OneTokenRollout().is_plain
    assert not DynamicFineTuning().is_plain


def test_dynamic_fine_tuning_is_that_of_trl(tmp_path):
    rows = token_rows(multi_turn=True)
    options = {"train_dataset": rows, "processing_class": word_tokenizer()}
    theirs = SFTTrainer(tiny.llama(), args=sft_config(tmp_path / "theirs", loss_type="dft"), **options)
    ours = TokenWeighingTrainer(
        tiny.llama(), args=sft_config(tmp_path / "ours"), weighing=DynamicFineTuning(), **options
    )
    assert_same_weights(theirs, ours)


def test_during_the_warm_up_it_is_plain(tmp_path):
    rows = token_rows(multi_turn=True)
    options = {"train_dataset": rows, "processing_class": word_tokenizer()}
    theirs = SFTTrainer(tiny.llama(), args=sft_config(tmp_path / "theirs"), **options)
    ours = TokenWeighingTrainer(
        tiny.llama(),
        args=sft_config(tmp_path / "ours"),
        weighing=OneTokenRollout(warmup_epochs=5.0),
        **options,
    )
    assert_same_weights(theirs, ours)
