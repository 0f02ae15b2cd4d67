"""ToMe: the authors' numbers, what merging conserves, and texts that do not notice their padding."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from tests import tiny
from tests.compression.vision.golden_vit import CLOSE, GOLDEN, arrays, cases, golden_vit
from tests.tiny.models import SIZES, made
from tokenry.compression.apply import apply_token_reduction
from tokenry.compression.vision.tome import (
    ToMe,
    bipartite_soft_matching,
    kth_bipartite_matching,
    match_even_odd,
    match_even_odd_padded,
    parse_r,
)
from tokenry.core.errors import UserError

SCHEDULES = json.loads((GOLDEN / "dev-schedules.json").read_text())
TEXT_MODELS = [
    (BertForSequenceClassification, BertConfig(**SIZES, vocab_size=50)),
    (
        DistilBertForSequenceClassification,
        DistilBertConfig(dim=16, n_layers=3, n_heads=2, hidden_dim=32, vocab_size=50),
    ),
]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def one_hot(batch, tokens):
    return torch.eye(tokens, dtype=torch.float64).expand(batch, -1, -1)


def padded_batch(lengths, seed=0, room=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 50, (len(lengths), max(lengths) + room), generator=generator)
    mask = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
    return ids, mask


@pytest.mark.parametrize("case", cases("dev-tome.npz"))
def test_matching_gives_the_released_tokens_sizes_and_sources(case):
    r, class_token, distill_token = case["config"].tolist()
    plan = bipartite_soft_matching(case["metric"], r, bool(class_token), bool(distill_token))
    x, size = plan.merge_weighted(case["x"], case["size"])
    torch.testing.assert_close(x, case["x_out"], **CLOSE)
    torch.testing.assert_close(size, case["size_out"], **CLOSE)
    assert plan.merge_source(one_hot(*case["x"].shape[:2])).equal(case["source"])
    if "unmerged" in case:
        torch.testing.assert_close(plan.unmerge(plan.merge(case["x"])), case["unmerged"], **CLOSE)


@pytest.mark.parametrize("case", cases("dev-tome.npz", "k"))
def test_the_kth_variant_gives_the_released_tokens(case):
    plan = kth_bipartite_matching(case["metric"], int(case["config"]))
    merged = plan.merge(case["x"])
    torch.testing.assert_close(merged, case["x_out"], **CLOSE)
    # The released one forgets the last tokens mod k.
    whole = case["unmerged"].shape[1]
    torch.testing.assert_close(plan.unmerge(merged)[:, :whole], case["unmerged"], **CLOSE)


@pytest.mark.parametrize("case", SCHEDULES["parse_r"])
def test_schedules_are_the_released_ones(case):
    r = tuple(case["r"]) if case["kind"] == "pair" else case["r"]
    assert parse_r(case["num_layers"], r) == case["out"]


@pytest.mark.newer("transformers")
@pytest.mark.parametrize("proportional", [True, False])
def test_a_vit_with_the_reference_weights_gives_the_reference_logits(proportional):
    model, golden = golden_vit()
    with torch.no_grad():
        torch.testing.assert_close(model(golden["x"]).logits, golden["base_logits"], rtol=1e-6, atol=1e-9)
        with apply_token_reduction(
            model, ToMe(r=int(golden["r"])), proportional_attention=proportional
        ) as reduction:
            logits = model(golden["x"]).logits
    expected = f"tome_prop{int(proportional)}_"
    torch.testing.assert_close(logits, golden[expected + "logits"], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(reduction.size, golden[expected + "size"], **CLOSE)
    assert reduction.source_map().double().equal(golden[expected + "source"])


def test_every_golden_array_of_the_model_is_compared_somewhere():
    compared = ("w:", "x", "config", "base_logits", "tome_prop", "pitome_", "r", "ratio")
    assert all(key.startswith(compared) for key in arrays("dev-model.npz"))


@given(st.integers(0, 999), st.integers(1, 20), st.integers(0, 25), st.integers(0, 5), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_sizes_sum_to_the_tokens_the_weighted_mean_stays_and_special_tokens_are_untouched(
    seed, patches, r, special, batch
):
    tokens = patches + special
    metric, x = draw(batch, tokens, 4, seed=seed), draw(batch, tokens, 3, seed=seed + 1).double()
    plan = match_even_odd(metric, r, special)
    merged, size = plan.merge_weighted(x)
    assert merged.shape[1] == tokens - min(r, patches // 2)
    assert size.sum(dim=1).eq(tokens).all()
    torch.testing.assert_close((merged * size).sum(dim=1), x.sum(dim=1))
    assert merged[:, :special].equal(x[:, :special])
    assert size[:, :special].eq(1).all()


@given(
    st.integers(0, 999),
    st.lists(st.integers(2, 12), min_size=1, max_size=4),
    st.integers(0, 7),
    st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_a_padded_text_merges_what_it_merges_alone(seed, lengths, r, room):
    metric = draw(len(lengths), max(lengths) + room, 4, seed=seed)
    mask = torch.arange(metric.shape[1]) < torch.tensor(lengths)[:, None]
    plan = match_even_odd_padded(metric, r, 1, mask)
    x = draw(*metric.shape, seed=seed + 1)
    merged, size = plan.merge_weighted(x)
    seen = plan.merge_mask(mask)
    assert seen.shape[1] == seen.sum(dim=1).max()
    for row, length in enumerate(lengths):
        alone, size_alone = match_even_odd(metric[row : row + 1, :length], r, 1).merge_weighted(
            x[row : row + 1, :length]
        )
        torch.testing.assert_close(merged[row, seen[row]], alone[0])
        assert size[row, seen[row]].equal(size_alone[0])


@pytest.mark.parametrize(("kind", "config"), TEXT_MODELS)
@pytest.mark.parametrize("r", [2, 5])
@pytest.mark.parametrize("room", [0, 4])
def test_a_text_gets_the_same_logits_however_much_it_is_padded(kind, config, r, room):
    model, lengths = made(kind, config), [13, 3, 1, 8]
    ids, mask = padded_batch(lengths, room=room)
    with apply_token_reduction(model, ToMe(r=r)) as reduction, torch.no_grad():
        together = model(ids, attention_mask=mask.long()).logits
        counts = reduction.token_counts
        alone = [model(ids[row : row + 1, :length]).logits[0] for row, length in enumerate(lengths)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-6)
    assert counts[1] == 13 - r


def test_a_batch_without_padding_takes_the_path_of_images():
    metric = draw(2, 9, 4)
    alike = match_even_odd_padded(metric, 3, 1, torch.ones(2, 9, dtype=torch.bool))
    plain = match_even_odd(metric, 3, 1)
    assert alike.place().equal(plain.place())
    assert not plain.ragged


def test_matching_runs_in_float32_for_bfloat16_and_outside_of_autograd():
    metric = draw(1, 11, 4).bfloat16().requires_grad_()
    plan = bipartite_soft_matching(metric, 3, class_token=True)
    assert plan.place().equal(bipartite_soft_matching(metric.detach().float(), 3, class_token=True).place())


@pytest.mark.parametrize("metric", [torch.ones(2, 7, 3), torch.zeros(2, 7, 3)])
def test_equal_tokens_and_zero_keys_merge_like_any_other(metric):
    plan = bipartite_soft_matching(metric, 3, class_token=True)
    merged, size = plan.merge_weighted(draw(2, 7, 3))
    assert merged.isfinite().all()
    assert size.sum(dim=1).eq(7).all()


@pytest.mark.parametrize("tokens", [1, 2])
def test_one_or_two_tokens_are_left_alone_when_one_is_special(tokens):
    assert bipartite_soft_matching(draw(1, tokens, 3), 5, class_token=True).kept.shape[1] == tokens


@pytest.mark.parametrize("class_token", [False, True])
def test_tokens_stay_where_they_are_if_none_is_merged(class_token):
    x, mask = draw(2, 9, 4), torch.ones(2, 9, dtype=torch.bool)
    assert bipartite_soft_matching(x, 0, class_token).merge(x).equal(x)
    mask[1, 2:] = False
    plan = match_even_odd_padded(x, 3, 1, mask)
    assert plan.merge(x)[1, :2].equal(x[1, :2])


def test_order_of_the_patches_matters_to_tome():
    metric = draw(1, 12, 4)
    backwards = torch.arange(11, -1, -1)
    x = draw(1, 12, 3, seed=1)
    merged = match_even_odd(metric, 5, 0).merge(x)
    other = match_even_odd(metric[:, backwards], 5, 0).merge(x[:, backwards])
    assert not torch.allclose(merged.sort(dim=1).values, other.sort(dim=1).values)


@pytest.mark.parametrize(("r", "message"), [
    (-1, "r must not be negative, got -1"),
    ([3, -2], "r must not be negative"),
    ((8, 1.5), r"inflection of r must be in \[-1, 1\], got 1.5"),
    ((8, float("nan")), "inflection of r must be in"),
])  # fmt: skip
def test_numbers_that_cannot_be_merged_are_refused(r, message):
    with pytest.raises(UserError, match=message):
        ToMe(r=r)


def test_more_numbers_than_layers_are_refused():
    with pytest.raises(UserError, match="r lists 4 layers, but the model has 3"):
        apply_token_reduction(tiny.vit(), ToMe(r=[1, 1, 1, 1]))


def test_every_token_cannot_be_the_kept_one():
    with pytest.raises(UserError, match="k must be at least 2, got 1"):
        kth_bipartite_matching(draw(1, 6, 2), 1)
