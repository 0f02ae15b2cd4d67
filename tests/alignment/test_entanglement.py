"""Gradient entanglement: golden numbers of vectors and of the bigram model, and what no layout of a batch may change."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from tests import tiny
from tests.alignment.bigram import Bigram
from tests.golden import golden_arrays
from tokenry.alignment import (
    PairGradients,
    PreferencePair,
    collate_pairs,
    pair_gradients,
    predict_step,
    token_gradient_cosine,
    token_gradient_products,
)
from tokenry.alignment.entanglement import adam_preconditioner, response_logp
from tokenry.alignment.token_gradients import culprits, head_products, read_head
from tokenry.core.errors import UserError
from tokenry.core.tensors.losses import OutputHead

GOLDEN = golden_arrays("22-entanglement", "dev-entanglement.npz")
ONE = torch.ones(1, dtype=torch.float64)
PAIR = PreferencePair((3, 4, 5), (6, 7, 8, 9), (6, 7, 10))
OTHER = PreferencePair((11, 12), (13,), (14, 15, 16, 17, 18))
FIELDS = ("logp_w", "logp_l", "inner", "norm_w", "norm_l")


def bigram_case(number):
    ids_w, ids_l, prompt = (GOLDEN[f"bigram/{number}/{name}"] for name in ("ids_w", "ids_l", "prompt_len"))
    prompt = int(prompt)
    return PreferencePair.from_whole(ids_w[:prompt].tolist(), ids_w.tolist(), ids_l.tolist())


def assert_equal(ours, theirs, **tolerance):
    for name in FIELDS:
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), **tolerance)


def test_golden_vectors():
    vectors = PairGradients.of_vectors(GOLDEN["vec/g_w"], GOLDEN["vec/g_l"])
    step = predict_step(vectors, GOLDEN["vec/d_w"], GOLDEN["vec/d_l"])
    normalised = predict_step(vectors, 1 / vectors.norm_w, 1 / vectors.norm_l)
    found = {
        "inner": vectors.inner,
        "cos": vectors.cosine,
        "norm_w": vectors.norm_w,
        "norm_l": vectors.norm_l,
        "condition_ratio": vectors.condition_ratio,
        "delta_w_per_eta": step.chosen,
        "delta_l_per_eta": step.rejected,
        "normalised_delta_w_per_eta": normalised.chosen,
        "normalised_delta_l_per_eta": normalised.rejected,
    }
    for name, value in found.items():
        torch.testing.assert_close(value, GOLDEN[f"vec/{name}"], rtol=1e-9, atol=1e-12)
    tested = torch.arange(12) != 5  # both gradients of row 5 are equal up to rounding
    assert torch.equal(step.case[tested], GOLDEN["vec/case"][tested])


@pytest.mark.parametrize("number", range(4))
def test_golden_bigram(number):
    model, pair = Bigram(GOLDEN["bigram/W"]), bigram_case(number)
    golden = {
        name.split("/")[2]: value for name, value in GOLDEN.items() if name.startswith(f"bigram/{number}/")
    }
    found = pair_gradients(model, [pair])
    for side, logp in (("w", found.logp_w), ("l", found.logp_l)):
        torch.testing.assert_close(logp[0], golden[f"logp_{side}"], rtol=1e-9, atol=1e-12)
        response = pair.chosen if side == "w" else pair.rejected
        (gradient,) = torch.autograd.grad(response_logp(model, pair.prompt, response), [model.lm_head.weight])
        torch.testing.assert_close(gradient.T, golden[f"grad_{side}_f64"], rtol=1e-9, atol=1e-12)
    products = torch.cat([found.inner, found.norm_w**2, found.norm_l**2])
    torch.testing.assert_close(products, golden["inner_normw2_norml2"], rtol=1e-9, atol=1e-12)
    for scope in ("head", "full"):
        cosine = token_gradient_cosine(model, golden["ids_w"], golden["ids_l"], len(pair.prompt), scope)
        torch.testing.assert_close(cosine, golden["token_cosine"], rtol=0, atol=1e-5)
    step = predict_step(found, 0.05 * ONE, 0.05 * ONE, 1e-3)
    torch.testing.assert_close(
        torch.cat([step.chosen, step.rejected]), golden["first_order_dpo_step"], rtol=1e-9, atol=1e-12
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 5))
def test_what_is_predicted_happens_to_first_order(seed, chosen, rejected):
    draw = torch.Generator().manual_seed(seed)
    model = Bigram(torch.randn(7, 7, generator=draw, dtype=torch.float64))
    ids = [tuple(torch.randint(7, (length,), generator=draw).tolist()) for length in (2, chosen, rejected)]
    pair, rate = PreferencePair(*ids), 1e-4
    found = pair_gradients(model, [pair])
    step = predict_step(found, ONE, ONE, rate)
    weight = model.lm_head.weight
    won, lost = (
        torch.autograd.grad(response_logp(model, pair.prompt, response), weight)[0]
        for response in (pair.chosen, pair.rejected)
    )
    with torch.no_grad():
        weight += rate * (won - lost)
        after = torch.stack(
            [response_logp(model, pair.prompt, side) for side in (pair.chosen, pair.rejected)]
        )
    realised = after - torch.cat([found.logp_w, found.logp_l])
    torch.testing.assert_close(realised, torch.cat([step.chosen, step.rejected]), rtol=0.02, atol=1e-6)


@pytest.mark.parametrize("left", [False, True])
def test_padding_and_neighbours_change_nothing(left):
    model = tiny.llama()
    alone = [pair_gradients(model, [pair]) for pair in (PAIR, OTHER)]
    batch = collate_pairs([PAIR, OTHER], left=left)
    together = pair_gradients(model, batch)
    for name in FIELDS:
        expected = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(together, name), expected, rtol=1e-6, atol=1e-6)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_tied_weights_count_once():
    tied = tiny.llama(tie_word_embeddings=True).double()
    untied = tiny.llama().double()
    untied.load_state_dict(tied.state_dict())
    assert not untied.config.tie_word_embeddings
    embeddings = untied.model.embed_tokens.weight, untied.lm_head.weight
    others = [one for one in untied.parameters() if all(one is not embedding for embedding in embeddings)]
    rest = pair_gradients(untied, [PAIR], others)
    sums = []
    for response in (PAIR.chosen, PAIR.rejected):
        parts = torch.autograd.grad(response_logp(untied, PAIR.prompt, response), embeddings)
        sums.append(sum(parts).flatten())
    expected = rest.inner + sums[0] @ sums[1]
    torch.testing.assert_close(pair_gradients(tied, [PAIR]).inner, expected, rtol=1e-9, atol=1e-9)


def test_an_adapter_is_all_that_counts_where_it_is_all_that_trains():
    model = get_peft_model(tiny.llama(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    names = {name: one for name, one in model.named_parameters() if "lora" in name}
    assert_equal(pair_gradients(model, [PAIR]), pair_gradients(model, [PAIR], names.values()))
    assert float(pair_gradients(model, [PAIR]).norm_w) > 0


def test_token_products_add_up_to_those_of_the_responses():
    model, chosen = tiny.llama().double(), len(PAIR.chosen)
    for scope, trained in (("full", None), ("head", [model.lm_head.weight])):
        products, gradients = (
            token_gradient_products(model, PAIR, scope),
            pair_gradients(model, [PAIR], trained),
        )
        torch.testing.assert_close(products[:chosen, chosen:].sum(), gradients.inner[0])
        torch.testing.assert_close(products[:chosen, :chosen].sum().sqrt(), gradients.norm_w[0])
        torch.testing.assert_close(products[chosen:, chosen:].sum().sqrt(), gradients.norm_l[0])


@pytest.mark.parametrize("bias", [False, True])
def test_the_closed_form_knows_every_kind_of_head(bias):
    torch.manual_seed(0)
    linear = torch.nn.Linear(8, 30, bias=bias).double()
    head = OutputHead(linear, 30, scale=2.0, softcap=3.0, temperature=1.5)
    rows, targets = torch.randn(5, 8, dtype=torch.float64), torch.tensor([0, 3, 3, 29, 17])
    logps = head.logits(rows).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    gradients = [torch.autograd.grad(logp, linear.weight, retain_graph=True)[0].flatten() for logp in logps]
    expected = torch.stack(gradients) @ torch.stack(gradients).T
    torch.testing.assert_close(
        head_products(rows, targets, head, -logps.detach(), chunk_elements=35), expected
    )


def test_one_forward_reads_the_gradients_of_the_head():
    model = tiny.llama().double()
    assert_equal(read_head(model, PAIR).gradients, pair_gradients(model, [PAIR], [model.lm_head.weight]))


def test_the_tokens_that_entangle_are_the_shared_ones():
    found = culprits(token_gradient_products(tiny.llama(), PAIR), len(PAIR.chosen), most=2)
    assert {(one.chosen, one.rejected) for one in found} == {(0, 0), (1, 1)}


def test_equal_responses_have_a_cosine_of_one_and_do_not_move():
    found = pair_gradients(tiny.llama(), [PreferencePair((3,), (4, 5), (4, 5))])
    assert float(found.cosine) == pytest.approx(1)
    step = predict_step(found, ONE, ONE)
    assert float(step.chosen) == pytest.approx(0, abs=1e-4)


def test_adam_is_predicted_by_its_preconditioner():
    model = tiny.llama().double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, betas=(0.0, 0.999))
    for _ in range(3):
        for response in (PAIR.chosen, PAIR.rejected):
            (-response_logp(model, PAIR.prompt, response)).backward()
        optimizer.step()
        optimizer.zero_grad()
    factors = adam_preconditioner(optimizer)
    found = pair_gradients(model, [PAIR], preconditioner=factors)
    predicted = predict_step(found, ONE, ONE, 1e-5)
    gradients = [
        torch.autograd.grad(response_logp(model, PAIR.prompt, side), list(model.parameters()))
        for side in (PAIR.chosen, PAIR.rejected)
    ]
    with torch.no_grad():
        for parameter, won, lost in zip(model.parameters(), *gradients, strict=True):
            parameter += 1e-5 * factors[parameter] * (won - lost)
        after = [response_logp(model, PAIR.prompt, side) for side in (PAIR.chosen, PAIR.rejected)]
    assert float(after[0] - found.logp_w) == pytest.approx(float(predicted.chosen), rel=0.05)
    assert float(after[1] - found.logp_l) == pytest.approx(float(predicted.rejected), rel=0.05)


def test_bad_input():
    model = tiny.llama()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(UserError, match="the model has no trainable parameter"):
        pair_gradients(model, [PAIR])
    with pytest.raises(UserError, match="there is no pair: give at least one"):
        pair_gradients(tiny.llama(), [])
    broken = tiny.llama()
    broken.model.norm.weight.data[0] = torch.nan
    with pytest.raises(UserError, match="a log-probability of pair 1 is not finite"):
        pair_gradients(broken, [PAIR])
    with pytest.raises(UserError, match="scope must be one of head, full, got 'lora'"):
        token_gradient_products(tiny.llama(), PAIR, "lora")
    with pytest.raises(UserError, match="SGD holds no second moments"):
        adam_preconditioner(torch.optim.SGD(tiny.llama().parameters(), lr=1))
    adapted = get_peft_model(tiny.llama(), LoraConfig(r=2, target_modules=["lm_head"]))
    with pytest.raises(UserError, match=r"the output head is no plain matrix .* take scope='full'"):
        token_gradient_products(adapted, PAIR)


def test_products_of_a_model_in_half_precision_are_summed_in_single():
    model = tiny.llama().bfloat16()
    found = pair_gradients(model, [PAIR])
    trained = list(model.parameters())
    sides = [
        torch.autograd.grad(response_logp(model, PAIR.prompt, response), trained)
        for response in (PAIR.chosen, PAIR.rejected)
    ]
    won, lost = (torch.cat([one.flatten().double() for one in side]) for side in sides)
    torch.testing.assert_close(found.inner, won.dot(lost)[None], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.norm_w, won.norm()[None], rtol=1e-5, atol=1e-6)
