"""PiToMe: the authors' numbers, what its merging leaves alone, and texts that do not notice their padding."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    CLIPVisionConfig,
    CLIPVisionModel,
    DeiTConfig,
    DeiTModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from tests import tiny
from tests.compression.vision.golden_vit import CLOSE, GOLDEN, cases, golden_vit
from tests.tiny.models import PIXELS, SIZES, made
from tokenry.compression.apply import apply_token_reduction
from tokenry.compression.flops import LayerCost, encoder_flops
from tokenry.compression.plan import MergePlan
from tokenry.compression.vision.pitome import (
    PiToMe,
    energy_score,
    margin_schedule,
    pitome_matching,
    pitome_text_matching,
    ratio_schedule,
    removed_tokens,
)
from tokenry.compression.vision.tome import ToMe
from tokenry.core.errors import UserError
from tokenry.core.tensors.patching import find_encoder

FOUR = SIZES | {"num_hidden_layers": 4}
SCHEDULES = json.loads((GOLDEN / "dev-schedules.json").read_text())
CASES = cases("dev-pitome.npz")
BERT = (BertForSequenceClassification, BertConfig(**FOUR, vocab_size=50))
DISTILBERT = (
    DistilBertForSequenceClassification,
    DistilBertConfig(dim=16, n_layers=4, n_heads=2, hidden_dim=32, vocab_size=50),
)
IMAGE_MODELS = [
    (ViTModel, ViTConfig(**FOUR, **PIXELS), 1),
    (DeiTModel, DeiTConfig(**FOUR, **PIXELS), 2),
    (Dinov2WithRegistersModel, Dinov2WithRegistersConfig(**FOUR, **PIXELS, num_register_tokens=4), 5),
    (CLIPVisionModel, CLIPVisionConfig(**FOUR, **PIXELS), 1),
    (SiglipVisionModel, SiglipVisionConfig(**FOUR, **PIXELS), 0),
]
RATIOS = st.sampled_from([0.5, 0.6, 0.75, 0.9, 1.0])


def vit():
    return tiny.vit(num_hidden_layers=4)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reducers_of(model, reducer):
    return reducer.layer_reducers(find_encoder(model))


def matched(case, variant):
    class_token, ratio, margin, alpha = case["config"].tolist()
    if variant == "text":
        return pitome_text_matching(case["metric"], ratio, margin, bool(class_token))
    return pitome_matching(case["metric"], ratio, margin, alpha, variant, bool(class_token))


# --- the authors' numbers ---


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("kind", "name"), [("code", "energy"), ("paper", "energy_paper_eq"), ("gaussian", "energy_gauss")]
)
def test_energies_are_the_reference(case, kind, name):
    class_token, _, margin, alpha = case["config"].tolist()
    energy = energy_score(case["metric"][:, int(class_token) :], margin, alpha, kind)
    torch.testing.assert_close(energy, case[name], **CLOSE)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("variant", "name"),
    [("core", "pitome"), ("bsm", "pitome_bsm"), ("even_odd", "plain_bsm"), ("text", "text")],
)
def test_matching_gives_the_released_tokens_in_the_released_order(case, variant, name):
    plan = matched(case, variant)
    x, size = plan.merge_weighted(case["x"], case["size"])
    torch.testing.assert_close(x, case[f"{name}_x"], **CLOSE)
    torch.testing.assert_close(size, case[f"{name}_size"], **CLOSE)
    torch.testing.assert_close(plan.merge(case["x"]), case[f"{name}_mean"], **CLOSE)
    one_hot = torch.eye(plan.tokens, dtype=torch.float64).expand(len(x), -1, -1)
    assert plan.merge_source(one_hot).equal(case[f"{name}_source"])


@pytest.mark.parametrize("case", CASES)
def test_so_many_tokens_go_and_what_is_left_can_also_stay_unmerged(case):
    plan = matched(case, "core")
    assert plan.merged.shape[1] == int(case["r"])
    assert MergePlan.keep(plan.kept, plan.tokens).merge(case["x"]).equal(case["pitome_prune"])


@pytest.mark.parametrize("case", CASES)
def test_a_merged_mask_is_the_maximum_of_its_members(case):
    mask = matched(case, "text").merge_mask(case["attention_mask"][..., 0].bool())
    assert mask.double().equal(case["text_mask"][..., 0])


@pytest.mark.parametrize("case", SCHEDULES["ratio_trace"])
def test_token_counts_are_the_released_ones(case):
    counts = ratio_schedule(case["tokens"], case["num_layers"], case["ratio"], case["class_token"])
    assert counts == case["tokens_after_layer"]


@pytest.mark.parametrize("case", SCHEDULES["margins"])
def test_margins_are_the_released_ones(case):
    margins = margin_schedule(case["num_layers"], case["start"], case["slope"])
    assert margins == pytest.approx(case["out"], rel=1e-12)


@pytest.mark.newer("transformers")
def test_the_official_form_gives_the_reference_logits_and_flops():
    model, golden = golden_vit()
    official = PiToMe(ratio=float(golden["ratio"]), proportional_attention=False)
    with apply_token_reduction(model, official) as reduction, torch.no_grad():
        logits = model(golden["x"]).logits
    torch.testing.assert_close(logits, golden["pitome_logits"], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(reduction.size, golden["pitome_size"], **CLOSE)
    assert reduction.source_map().double().equal(golden["pitome_source"])
    # The released counter takes the length that enters a block for its MLP too, and an MLP of four times the width.
    entering, width = reduction.token_counts[:-1], model.config.hidden_size
    cost = LayerCost(attention_weights=4 * width**2, mlp_weights=8 * width**2, width=width)
    assert encoder_flops([cost] * len(entering), entering, entering) == float(golden["pitome_flops"])
    assert reduction.flops < reduction.dense_flops


# --- schedules by layer ---


def test_the_released_vit_patch_matches_all_tokens_first_and_the_mae_patch_last():
    by_variant = {
        name: [reducer.matching for reducer in reducers_of(vit(), PiToMe(variants=name))]
        for name in ("official", "mae", "core", "bsm")
    }
    assert by_variant == {
        "official": ["bsm", "bsm", "core", "core"],
        "mae": ["core", "core", "bsm", "bsm"],
        "core": ["core"] * 4,
        "bsm": ["bsm"] * 4,
    }


def test_of_an_odd_number_of_layers_the_first_half_is_the_larger_one():
    model = tiny.vit(num_hidden_layers=5)
    variants = [reducer.matching for reducer in reducers_of(model, PiToMe())]
    assert variants == ["bsm"] * 3 + ["core"] * 2


def test_layers_can_be_told_one_by_one():
    asked = ["core", "bsm", "even_odd", "core"]
    assert [reducer.matching for reducer in reducers_of(vit(), PiToMe(variants=asked))] == asked


def test_the_clip_form_pairs_neighbours_in_thirteen_layers_and_then_the_crowded():
    model = made(CLIPVisionModel, CLIPVisionConfig(**{**SIZES, "num_hidden_layers": 15}, **PIXELS))
    reducers = reducers_of(model, PiToMe(form="clip"))
    assert [reducer.matching for reducer in reducers] == ["even_odd"] * 13 + ["core"] * 2
    assert {reducer.after for reducer in reducers} == {"layer"}
    assert reducers[5].energy.margin == pytest.approx(0.9 * (1 - 5 / 15))


@pytest.mark.parametrize(("options", "margins"), [
    ({}, [0.75, 0.5625, 0.375, 0.1875]),
    ({"margin": 0.9}, [0.9, 0.675, 0.45, 0.225]),
    ({"margin": 0.75, "margin_slope": 0.4}, [0.75, 0.65, 0.55, 0.45]),
    ({"margin_slope": 0.0}, [0.75] * 4),
])  # fmt: skip
def test_margins_fall_with_depth(options, margins):
    reducers = reducers_of(vit(), PiToMe(**options))
    assert [reducer.energy.margin for reducer in reducers] == pytest.approx(margins)


def test_text_merges_in_three_layers_unless_told_otherwise():
    model = made(*BERT)
    ids = torch.arange(12)[None]
    for options, counts in (({}, (12, 10, 8, 7, 7)), ({"layers": 1}, (12, 10, 10, 10, 10))):
        with apply_token_reduction(model, PiToMe(ratio=0.75, **options)) as reduction, torch.no_grad():
            model(ids)
            assert reduction.token_counts == counts


def test_the_margins_of_text_fall_by_a_quarter_over_the_depth():
    merging = reducers_of(made(*BERT), PiToMe(ratio=0.75))[:3]
    assert [reducer.energy.margin for reducer in merging] == pytest.approx([0.9, 0.8375, 0.775])


# --- properties ---


@given(
    st.integers(0, 999),
    st.integers(1, 20),
    RATIOS,
    st.integers(0, 1),
    st.sampled_from(["core", "bsm", "even_odd"]),
)
@settings(max_examples=60, deadline=None)
def test_sizes_sum_to_the_tokens_the_weighted_mean_stays_and_the_class_token_is_untouched(
    seed, patches, ratio, special, variant
):
    tokens = patches + special
    metric, x = draw(2, tokens, 4, seed=seed), draw(2, tokens, 3, seed=seed + 1).double()
    plan = pitome_matching(metric, ratio, 0.5, variant=variant, class_token=bool(special))
    merged, size = plan.merge_weighted(x)
    counted = patches if variant != "even_odd" else tokens
    assert merged.shape[1] == tokens - min(removed_tokens(counted, ratio), patches // 2)
    assert size.sum(dim=1).eq(tokens).all()
    torch.testing.assert_close((merged * size).sum(dim=1), x.sum(dim=1))
    assert merged[:, :special].equal(x[:, :special])


@given(st.integers(0, 999), st.sampled_from(["core", "bsm"]), st.sampled_from(["code", "paper", "gaussian"]))
@settings(max_examples=25, deadline=None)
def test_order_of_the_patches_does_not_matter(seed, variant, energy):
    metric, x = draw(1, 12, 4, seed=seed).double(), draw(1, 12, 3, seed=seed + 1).double()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    plan = pitome_matching(metric, 0.6, 0.3, variant=variant, energy=energy)
    shuffled = pitome_matching(metric[:, order], 0.6, 0.3, variant=variant, energy=energy)
    torch.testing.assert_close(shuffled.merge(x[:, order]), plan.merge(x))
    assert shuffled.place().equal(plan.place()[:, order])


@given(st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_isolated_tokens_are_protected_and_the_crowd_is_merged(seed):
    crowd = torch.tensor([1.0, 0, 0, 0, 0]) + 0.01 * draw(8, 5, seed=seed)
    alone = torch.eye(5)[1:5]
    metric = torch.cat([crowd, alone])[None]
    merged_crowd = pitome_matching(metric, 8 / 12, 0.5)
    assert set(merged_crowd.merged[0].tolist()) < set(range(8))
    assert merged_crowd.merge_weighted(metric)[1][0, :4].eq(1).all()
    assert sorted(merged_crowd.kept[0, :4].tolist()) == [8, 9, 10, 11]


@pytest.mark.parametrize(("kind", "config", "special"), IMAGE_MODELS)
@pytest.mark.parametrize("form", ["vision", "clip"])
def test_special_tokens_stay_first_and_alone(kind, config, special, form):
    model = made(kind, config)
    with apply_token_reduction(model, PiToMe(ratio=0.75, form=form)) as reduction, torch.no_grad():
        model(draw(2, 1, 16, 16))
    places = reduction.places()
    assert places[:, :special].equal(torch.arange(special).expand(2, -1))
    assert (places[:, special:] >= special).all()


@pytest.mark.parametrize(("kind", "config", "special"), IMAGE_MODELS)
def test_counts_follow_the_ratio_of_what_is_not_special(kind, config, special):
    model = made(kind, config)
    with apply_token_reduction(model, PiToMe(ratio=0.75)) as reduction, torch.no_grad():
        model(draw(2, 1, 16, 16))
    assert reduction.token_counts == tuple(special + patches for patches in (16, 12, 9, 7, 6))


def test_tome_can_be_run_at_the_counts_of_a_ratio():
    model, x = vit(), draw(2, 1, 16, 16)
    left = ratio_schedule(17, 4, 0.75)
    with (
        apply_token_reduction(model, ToMe(r=[4, 3, 2, 1])) as reduction,
        torch.no_grad(),
    ):
        model(x)
    assert list(reduction.token_counts[1:]) == left


def test_keeping_everything_changes_no_bit():
    model, x = vit(), draw(2, 1, 16, 16)
    with torch.no_grad():
        dense = model(x).last_hidden_state
        with apply_token_reduction(model, PiToMe(ratio=1.0)):
            assert model(x).last_hidden_state.equal(dense)


def test_proportional_attention_is_on_unless_the_official_form_is_asked_for():
    model, x = vit(), draw(2, 1, 16, 16)
    outputs = []
    for proportional in (True, False):
        with apply_token_reduction(model, PiToMe(0.75, proportional_attention=proportional)), torch.no_grad():
            outputs.append(model(x).last_hidden_state)
    assert PiToMe().proportional_attention
    assert not torch.allclose(*outputs)


@pytest.mark.parametrize("reducer", [PiToMe(0.75, form="clip"), PiToMe(0.75, form="text")])
def test_plain_means_follow_no_sizes(reducer):
    model = vit()
    with apply_token_reduction(model, reducer) as reduction, torch.no_grad():
        model(draw(1, 1, 16, 16))
    assert reduction.size is None


def test_matching_runs_in_float32_for_bfloat16_and_outside_of_autograd():
    metric = draw(1, 11, 4).bfloat16().requires_grad_()
    for variant in ("core", "bsm"):
        plan = pitome_matching(metric, 0.7, 0.5, variant=variant)
        same = pitome_matching(metric.detach().float(), 0.7, 0.5, variant=variant)
        assert plan.place().equal(same.place())
    assert energy_score(metric, 0.5).dtype == torch.float32
    assert not energy_score(metric, 0.5).requires_grad


@pytest.mark.parametrize("metric", [torch.ones(2, 9, 3), torch.zeros(2, 9, 3)])
@pytest.mark.parametrize("variant", ["core", "bsm"])
def test_of_equal_tokens_the_first_rank_first(metric, variant):
    plan = pitome_matching(metric, 0.75, 0.5, variant=variant, class_token=True)
    assert plan.merged.tolist() == [[1, 3]] * 2
    assert plan.merge(draw(2, 9, 3)).isfinite().all()


@pytest.mark.parametrize("tokens", [1, 2, 3])
@pytest.mark.parametrize("variant", ["core", "bsm", "even_odd"])
def test_a_handful_of_tokens_goes_through(tokens, variant):
    plan = pitome_matching(draw(1, tokens, 3), 0.5, 0.5, variant=variant, class_token=True)
    assert plan.kept.shape[1] == tokens - (tokens - 1) // 2
    assert pitome_text_matching(draw(1, tokens, 3), 0.5, 0.5).kept.shape[1] == tokens - (tokens - 1) // 2


def test_too_few_tokens_to_merge_any_stand_by_rank_and_a_ratio_of_one_leaves_them_in_place():
    metric = draw(2, 9, 3)
    order = energy_score(metric[:, 1:], 0.5).argsort(dim=1, descending=True) + 1
    for variant, ranks in (("core", order), ("bsm", None)):
        plan = pitome_matching(metric, 0.95, 0.5, variant=variant, class_token=True)
        assert (plan.kept[:, 0] == 0).all()
        assert plan.kept.sort(dim=1).values.equal(torch.arange(9).expand(2, -1))
        # The partners of bsm, the odd ranks, stand last.
        expected = order if ranks is not None else order[:, 1::2]
        assert plan.kept[:, -expected.shape[1] :].equal(expected)
        whole = pitome_matching(metric, 1.0, 0.5, variant=variant, class_token=True)
        assert whole.merge(metric).equal(metric)
    order = energy_score(metric[:, 1:], 0.5, kind="gaussian").argsort(dim=1, descending=True) + 1
    assert pitome_text_matching(metric, 0.95, 0.5).kept[:, 1:].equal(order)
    assert pitome_text_matching(metric, 1.0, 0.5).merge(metric).equal(metric)


# --- texts and their padding ---


def padded(lengths, room):
    return torch.arange(max(lengths) + room) < torch.tensor(lengths)[:, None]


@given(st.integers(0, 999), st.lists(st.integers(1, 12), min_size=1, max_size=4), RATIOS, st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_a_padded_text_merges_what_it_merges_alone(seed, lengths, ratio, room):
    mask = padded(lengths, room)
    metric, x = draw(*mask.shape, 4, seed=seed).double(), draw(*mask.shape, 3, seed=seed + 1).double()
    plan = pitome_text_matching(metric, ratio, 0.8, attention_mask=mask)
    merged, seen = plan.merge(x), plan.merge_mask(mask)
    for row, length in enumerate(lengths):
        own = metric[row : row + 1, :length]
        alone = pitome_text_matching(own, ratio, 0.8).merge(x[row : row + 1, :length])
        torch.testing.assert_close(merged[row, seen[row]], alone[0])


def test_padding_has_no_energy_and_gives_none():
    mask = padded([6, 3], 1)
    metric = draw(2, 7, 4)
    energy = energy_score(metric, 0.5, kind="gaussian", attention_mask=mask)
    assert energy[~mask].eq(-math.inf).all()
    torch.testing.assert_close(energy[1, :3], energy_score(metric[1:, :3], 0.5, kind="gaussian")[0])


def test_room_that_no_text_needs_goes():
    plan = pitome_text_matching(draw(2, 20, 4), 0.5, 0.5, attention_mask=padded([11, 5], 9))
    assert plan.kept.shape[1] == 6
    assert plan.merge_mask(padded([11, 5], 9)).sum(dim=1).tolist() == [6, 3]


@pytest.mark.parametrize(("kind", "config"), [BERT, DISTILBERT])
@pytest.mark.parametrize("ratio", [0.5, 0.75])
@pytest.mark.parametrize("room", [0, 4])
def test_a_text_gets_the_same_logits_however_much_it_is_padded(kind, config, ratio, room):
    model, lengths = made(kind, config), [13, 3, 1, 8]
    mask = padded(lengths, room)
    ids = torch.randint(1, 50, mask.shape, generator=torch.Generator().manual_seed(0))
    with apply_token_reduction(model, PiToMe(ratio)) as reduction, torch.no_grad():
        together = model(ids, attention_mask=mask.long()).logits
        counts = reduction.token_counts
        alone = [model(ids[row : row + 1, :length]).logits[0] for row, length in enumerate(lengths)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-6)
    assert list(counts[1:4]) == ratio_schedule(13, 3, ratio)


# --- what is refused ---


@pytest.mark.parametrize("ratio", [0.4, 1.2, float("nan"), float("inf"), -1.0])
def test_a_ratio_that_pairs_cannot_reach_is_refused(ratio):
    calls = (
        lambda: PiToMe(ratio),
        lambda: pitome_matching(draw(1, 6, 2), ratio, 0.5),
        lambda: pitome_text_matching(draw(1, 6, 2), ratio, 0.5),
        lambda: ratio_schedule(10, 2, ratio),
    )
    for call in calls:
        with pytest.raises(UserError, match=r"ratio must be in \[0.5, 1\], got"):
            call()


@pytest.mark.parametrize(("options", "message"), [
    ({"alpha": 0.0}, "alpha must be positive, got 0.0"),
    ({"alpha": -1.0}, "alpha must be positive"),
    ({"alpha": float("nan")}, "alpha must be positive"),
    ({"margin": float("nan")}, "margin must be a number, got nan"),
    ({"margin_slope": float("inf")}, "margin_slope must be a number, got inf"),
    ({"energy": "gaussian", "margin": 1.0}, "margin must be below 1 for the Gaussian energy, got 1.0: sigma is 1 - margin"),
    ({"layers": -1}, "layers must not be negative, got -1"),
])  # fmt: skip
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        PiToMe(**options)


@pytest.mark.parametrize(("option", "value", "message"), [
    ("form", "video", "form must be one of vision, clip, text, got 'video'"),
    ("energy", "free", "energy must be one of code, paper, gaussian, got 'free'"),
    ("variants", "halves", "variant must be one of core, bsm, even_odd, got 'halves'"),
    ("variants", ["core", "none"], "variant must be one of core, bsm, even_odd, got 'none'"),
])  # fmt: skip
def test_an_unknown_word_is_refused(option, value, message):
    reducer = PiToMe()
    # As from a command line: the test run would check the annotation first.
    object.__setattr__(reducer, option, value)
    with pytest.raises(UserError, match=message):
        reducer.__post_init__()


def test_a_gaussian_of_no_width_is_refused():
    with pytest.raises(UserError, match="margin must be below 1 for the Gaussian energy, got 1"):
        pitome_text_matching(draw(1, 6, 2), 0.75, 1.0)
    with pytest.raises(UserError, match="margin must be below 1 for the Gaussian energy"):
        apply_token_reduction(made(*BERT), PiToMe(0.75, margin=1.0))
    with pytest.raises(UserError, match="alpha must be positive"):
        energy_score(draw(1, 6, 2), 0.5, alpha=0.0)


def test_variants_must_fit_the_layers():
    with pytest.raises(UserError, match="variants names 2 layers, but the model has 4: name one per layer"):
        apply_token_reduction(vit(), PiToMe(variants=["core", "bsm"]))


def test_options_of_images_are_refused_for_text():
    for options in ({"variants": "core"}, {"energy": "paper"}):
        with pytest.raises(UserError, match="variants and energy are options for images"):
            apply_token_reduction(made(*BERT), PiToMe(**options))
    with pytest.raises(UserError, match='form="vision" would merge padding with text'):
        apply_token_reduction(made(*BERT), PiToMe(form="vision"))


def test_a_decoder_is_refused():
    model = tiny.gpt2(GPT2Model)
    with pytest.raises(UserError, match="GPT2Model"):
        apply_token_reduction(model, PiToMe())
