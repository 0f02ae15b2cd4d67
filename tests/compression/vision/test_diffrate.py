"""DiffRate with a fixed schedule: the authors' numbers, and what a user may give it."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compression.vision.golden_diffrate import CLOSE, FLOAT32, GOLDEN, cases, golden_vit
from tests.tiny.encoders import LAYERS, PATCHES, images, inputs, tiny, tokens_of
from tokenry.compression.apply import apply_token_reduction
from tokenry.compression.flops import layer_costs
from tokenry.compression.reducer import Attention
from tokenry.compression.vision.diffrate import (
    DiffRate,
    Schedule,
    diffrate_merge,
    masked_softmax,
    scale_merged,
    scheduled_flops,
    uniform_schedule,
    vit_flops,
)
from tokenry.compression.vision.rate_proxy import RateProxy
from tokenry.core.errors import UserError
from tokenry.core.tensors.patching import find_encoder

FULL = 10_000


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def one_hot(batch, tokens):
    return torch.eye(tokens, dtype=torch.float64).expand(batch, -1, -1)


def schedule(prune, merge=FULL, layers=LAYERS):
    """The same counts in every layer but the first."""
    return Schedule([FULL] + [prune] * (layers - 1), [FULL] + [merge] * (layers - 1))


# --- golden numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("dev-merge.npz"))
def test_merging_gives_the_released_tokens_sizes_and_sources(case):
    kept, class_token = case["config"].tolist()
    plan, similarity = diffrate_merge(case["x"], kept, class_token)
    torch.testing.assert_close(similarity, case["sim_max"], **CLOSE)
    torch.testing.assert_close(plan.merge(case["x"]), case["x_mean"], **CLOSE)
    torch.testing.assert_close(
        plan.merge(case["size"] * scale_merged(plan, similarity), "sum"), case["size_eval"], **CLOSE
    )
    assert plan.merge_source(one_hot(*case["x"].shape[:2])).equal(case["source"])


@pytest.mark.parametrize("case", cases("dev-masked-softmax.npz"))
def test_masked_attention_is_the_released_one(case):
    torch.testing.assert_close(masked_softmax(case["logits"], case["policy"]), case["attn"], **FLOAT32)


def test_masked_attention_of_some_queries_is_that_of_all():
    logits, policy = draw(2, 3, 6, 6), torch.tensor([[1.0, 1, 0, 1, 0, 0]]).expand(2, -1)
    assert masked_softmax(logits[:, :, :1], policy).equal(masked_softmax(logits, policy)[:, :, :1])


@pytest.mark.parametrize(
    "case", json.loads((GOLDEN / "dev-flops.json").read_text()), ids=lambda case: case["model"]
)
def test_flops_are_the_released_ones(case):
    sizes = [case[name] for name in ("embed_dim", "patch_size", "num_patches", "num_classes")]
    flops = vit_flops(case["prune_kept"], case["merge_kept"], *sizes)
    assert float(flops) == pytest.approx(case["flops"], rel=1e-9)


PUBLISHED = {"ViT-T-DeiT": "deit-tiny", "ViT-S-DeiT": "deit-small"}


@pytest.mark.parametrize(
    "case",
    [case for case in json.loads((GOLDEN / "dev-flops.json").read_text()) if "target_gflops" in case],
    ids=lambda case: f"{case['model']} {case['target_gflops']}",
)
def test_published_schedules_are_the_released_ones(case):
    published = Schedule.load_published(PUBLISHED[case["model"]], case["target_gflops"])
    assert list(published.prune_kept) == case["prune_kept"]
    assert list(published.merge_kept) == case["merge_kept"]


@pytest.mark.parametrize("case", cases("dev-flops-grad.npz"))
def test_the_gradient_of_flops_is_the_released_one(case):
    width, depth, patch, num_patches, granularity, classes = case["config"].tolist()
    logits, kept = {}, {"prune": [], "merge": []}
    for layer in range(depth):
        for kind in kept:
            proxy = RateProxy(num_patches, granularity if layer else num_patches + 1).double()
            proxy.logits.data = case[f"{kind}_logits_{layer}"]
            logits[f"{kind}_grad_{layer}"] = proxy.logits
            kept[kind].append(proxy.kept())
    assert torch.stack(kept["prune"]).equal(case["prune_kept"])
    assert torch.stack(kept["merge"]).equal(case["merge_kept"])
    flops = vit_flops(kept["prune"], kept["merge"], width, patch, num_patches, classes)
    assert flops.item() == case["flops"].item()
    loss = (flops / 1e9 - case["target"]) ** 2
    torch.testing.assert_close(loss, case["loss"], rtol=1e-5, atol=1e-7)
    loss.backward()
    for name, parameter in logits.items():
        torch.testing.assert_close(parameter.grad, case[name], rtol=1e-5, atol=1e-7)


@pytest.mark.newer("transformers")
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["learned", "fixed", "none"])
def test_a_whole_model_with_a_schedule_is_the_released_one(name, kernel):
    model, golden = golden_vit()
    model.set_attn_implementation(kernel)
    prune, merge = (golden[f"eval_{name}_{kind}"].tolist() for kind in ("prune", "merge"))
    with apply_token_reduction(model, DiffRate(Schedule(prune, merge))) as reduction, torch.no_grad():
        logits = model(golden["x"]).logits
    torch.testing.assert_close(logits, golden[f"eval_{name}_logits"], **CLOSE)
    torch.testing.assert_close(reduction.size, golden[f"eval_{name}_size"], **CLOSE)
    assert reduction.source_map().double().equal(golden[f"eval_{name}_source"])
    _, patch, width, _, _, classes, _ = golden["config"].tolist()
    flops = vit_flops(prune, merge, width, patch, 16, classes)
    assert flops.item() == golden[f"eval_{name}_flops"].item()


# --- properties ------------------------------------------------------------------------------------------------------------------


def test_the_full_matrix_is_never_made(monkeypatch):
    monkeypatch.setattr(Attention, "weights", property(lambda self: pytest.fail("made the whole matrix")))
    model = tiny("vit")
    with apply_token_reduction(model, DiffRate(schedule(12, 9))):
        model(images())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 12), st.integers(0, 2))
def test_merging_keeps_every_token_and_never_merges_into_special_ones(seed, kept, special):
    kept = max(kept, special + 1)
    plan, similarity = diffrate_merge(draw(2, 12, 4, seed=seed), kept, special)
    assert not plan.drops
    assert bool((plan.target >= special).all())
    assert bool((similarity.abs() <= 1 + 1e-6).all())


@pytest.mark.parametrize("family", ["vit", "dinov2", "clip", "deit", "dinov2 registers"])
def test_special_tokens_stay_in_front_and_are_merged_with_nothing(family):
    model = tiny(family)
    special = tokens_of(family) - PATCHES
    with apply_token_reduction(model, DiffRate(schedule(special + 8, special + 4))) as reduction:
        model(**inputs(family))
    assert reduction.token_counts == (special + 16, special + 16, *[special + 4] * (LAYERS - 1))
    sources = reduction.source_map()
    assert sources[:, :special, :special].equal(torch.eye(special, dtype=torch.bool).expand(2, -1, -1))
    assert not sources[:, :special, special:].any()


@pytest.mark.newer("transformers")
def test_the_order_of_patches_changes_nothing_but_their_order():
    model, golden = golden_vit()
    reducer = DiffRate(Schedule(golden["eval_fixed_prune"].tolist(), golden["eval_fixed_merge"].tolist()))
    embeddings = model.vit.embeddings
    position = embeddings.position_embeddings
    shuffled = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    patches = golden["x"].unfold(2, 4, 4).unfold(3, 4, 4).reshape(2, 3, 16, 4, 4)
    moved = patches[:, :, shuffled].reshape(2, 3, 4, 4, 4, 4).transpose(3, 4).reshape(2, 3, 16, 16)
    with apply_token_reduction(model, reducer), torch.no_grad():
        before = model(golden["x"]).logits
        position[:, 1:] = position[:, 1 + shuffled].clone()
        torch.testing.assert_close(model(moved).logits, before)


def test_counts_above_what_is_there_change_nothing():
    model = tiny("vit classification")
    before = model(images()).logits
    with apply_token_reduction(model, DiffRate(Schedule([FULL] * LAYERS, [FULL] * LAYERS))) as reduction:
        torch.testing.assert_close(model(images()).logits, before)
    assert reduction.token_counts == (PATCHES + 1,) * (LAYERS + 1)
    assert reduction.flops == reduction.dense_flops
    assert model(images()).logits.equal(before)


def test_nothing_is_merged_where_merging_would_keep_more_than_pruning():
    model = tiny("vit")
    with apply_token_reduction(model, DiffRate(schedule(8, 12))) as reduction:
        model(images())
    assert reduction.token_counts == (17, 17, 8, 8)
    assert bool((reduction.size == 1).all())


def test_one_patch_may_be_left_and_a_batch_may_be_one_image():
    model = tiny("vit")
    with apply_token_reduction(model, DiffRate(schedule(FULL, 2))) as reduction:
        hidden = model(images(batch=1)).last_hidden_state
    assert hidden.shape[1] == 2
    assert bool(hidden.isfinite().all())
    assert reduction.source_map()[0, 1].tolist() == [False] + [True] * 16


def test_identical_tokens_have_similarity_one_and_go_to_the_first_patch():
    plan, similarity = diffrate_merge(torch.ones(1, 6, 4), kept=3)
    torch.testing.assert_close(similarity, torch.ones(1, 3))
    assert plan.target.tolist() == [[1, 1, 1]]


def test_a_token_of_norm_zero_is_merged_without_nan():
    x = draw(1, 6, 4)
    x[:, [1, 4]] = 0
    plan, similarity = diffrate_merge(x, kept=3)
    assert bool(similarity.isfinite().all())
    assert bool(plan.merge(x).isfinite().all())


def test_sizes_that_would_be_negative_leave_attention_finite(monkeypatch):
    # With a similarity of -1, two merged tokens take more from a size of 1 than there is.
    real = diffrate_merge

    def opposed(x, kept, special=1):
        plan, similarity = real(x, kept, special)
        return plan, torch.full_like(similarity, -1.0)

    monkeypatch.setattr("tokenry.compression.vision.diffrate.diffrate_merge", opposed)
    model = tiny("vit classification")
    with apply_token_reduction(model, DiffRate(schedule(FULL, 4))) as reduction:
        logits = model(images()).logits
    assert bool(logits.isfinite().all())
    assert bool((reduction.size < 0).any())


def test_min1_keeps_sizes_at_one_or_more_before_they_are_added():
    model = tiny("vit")
    sizes = {}
    for clamp in ("none", "min1"):
        with apply_token_reduction(model, DiffRate(schedule(FULL, 5), size_clamp=clamp)) as reduction:
            model(images())
        sizes[clamp] = reduction.size
    assert sizes["min1"].sum() > sizes["none"].sum()
    # 12 patches are merged into 4 in the first place: each counts as one.
    assert sizes["min1"].sum(1).flatten().tolist() == [17, 17]


def test_a_weighted_merge_is_the_mean_of_all_that_a_token_stands_for():
    model = tiny("vit")
    last = Schedule([FULL] * LAYERS, [FULL, FULL, 2])
    taken = {}
    for merge in ("mean", "weighted"):
        with apply_token_reduction(model, DiffRate(last, merge=merge)) as reduction:
            taken[merge] = model(images()).last_hidden_state
    # All sizes are 1 until the last layer.
    torch.testing.assert_close(taken["mean"], taken["weighted"])
    twice = Schedule([FULL] * LAYERS, [FULL, 8, 2])
    for merge in ("mean", "weighted"):
        with apply_token_reduction(model, DiffRate(twice, merge=merge)) as reduction:
            taken[merge] = model(images()).last_hidden_state
    assert not torch.allclose(taken["mean"], taken["weighted"], atol=1e-4)
    assert reduction.token_counts == (17, 17, 8, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_keep_their_dtype(dtype):
    model = tiny("vit classification").to(dtype)
    with apply_token_reduction(model, DiffRate(schedule(12, 8))) as reduction:
        logits = model(images().to(dtype)).logits
    assert logits.dtype == dtype
    assert bool(logits.isfinite().all())
    assert reduction.size.dtype == torch.float32


def test_a_model_without_class_token_merges_by_the_attention_received():
    model = tiny("siglip")
    reducer = DiffRate(schedule(FULL, 6), importance="received")
    with apply_token_reduction(model, reducer, restore_length=True) as reduction:
        hidden = model(images()).last_hidden_state
    assert reduction.token_counts[-1] == 6
    assert hidden.shape[1] == PATCHES
    # Sizes are not scaled by similarity.
    assert reduction.size.sum(1).flatten().tolist() == [PATCHES, PATCHES]


# --- schedules -------------------------------------------------------------------------------------------------------------------


def test_a_schedule_is_read_as_it_was_written(tmp_path):
    made = Schedule([17, 12], (17, 9))
    made.save(tmp_path / "rates.json")
    assert Schedule.load(tmp_path / "rates.json") == made


@pytest.mark.parametrize("by", ["both", "prune", "merge"])
@pytest.mark.parametrize("share", [0.9, 0.6, 0.45])
def test_a_uniform_schedule_meets_its_share_and_spares_the_first_layer(by, share):
    costs = layer_costs(find_encoder(tiny("vit"))) * 4
    uniform = uniform_schedule(costs, 197, 1, share, by)
    full = scheduled_flops(costs, 197, [197] * 12, [197] * 12)
    flops = scheduled_flops(costs, 197, uniform.prune_kept, uniform.merge_kept)
    assert float(flops / full) == pytest.approx(share, rel=0.01)
    assert (uniform.prune_kept[0], uniform.merge_kept[0]) == (197, 197)


def test_half_of_what_goes_is_pruned_and_half_is_merged():
    costs = layer_costs(find_encoder(tiny("vit"))) * 4
    uniform = uniform_schedule(costs, 197, 1, 0.6)
    entering = (197, *uniform.merge_kept[:-1])
    for before, pruned, after in zip(entering, uniform.prune_kept, uniform.merge_kept, strict=True):
        assert abs((before - pruned) - (pruned - after)) <= 1


# --- bad input -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prune", "merge", "words"),
    [
        ([17, 9.5], [17, 9], "prune_kept must hold whole numbers of tokens, got 9.5"),
        ([17, 9], [17, "9"], "merge_kept must hold whole numbers of tokens, got '9'"),
        ([17, 0], [17, 9], "prune_kept must keep at least 1 token in every layer, got 0"),
        ([17, 9], [17, -3], "merge_kept must keep at least 1 token in every layer, got -3"),
        ([17, 9], [17], "one count per layer each, got 2 and 1"),
        ([], [], "one count per layer each, got 0 and 0"),
    ],
)
def test_a_schedule_of_anything_but_counts_is_refused(prune, merge, words):
    made = Schedule([17], [17])
    # As from a file: the test run would check the annotations first.
    object.__setattr__(made, "prune_kept", prune)
    object.__setattr__(made, "merge_kept", merge)
    with pytest.raises(UserError, match=words):
        made.__post_init__()


def test_a_schedule_for_another_depth_is_refused():
    with pytest.raises(UserError, match="the schedule has 2 layers, but ViTModel has 3"):
        apply_token_reduction(tiny("vit"), DiffRate(Schedule([17, 9], [17, 9])))


def test_a_schedule_that_leaves_no_patch_is_refused():
    with pytest.raises(UserError, match="must be at least 2, got 1: special tokens and one patch must stay"):
        apply_token_reduction(tiny("vit"), DiffRate(schedule(1)))


def test_a_model_without_class_token_is_refused():
    with pytest.raises(
        UserError, match=r'no class token.*importance="received" and a schedule that only merges'
    ):
        apply_token_reduction(tiny("siglip"), DiffRate(schedule(9)))


def test_pruning_by_the_attention_received_is_refused():
    model = tiny("siglip")
    with apply_token_reduction(model, DiffRate(schedule(9), importance="received")):  # noqa: SIM117
        with pytest.raises(UserError, match=r"prunes 16 tokens to 9.*only merged"):
            model(images())


def test_a_text_encoder_is_refused():
    with pytest.raises(UserError, match="BertModel reads text, which DiffRate does not know"):
        apply_token_reduction(tiny("bert"), DiffRate(schedule(9)))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("merge", "median", "merge must be one of mean, weighted, got 'median'"),
        ("size_clamp", "max", "size_clamp must be one of none, min1, got 'max'"),
        ("importance", "norm", "importance must be one of class, received, got 'norm'"),
    ],
)
def test_an_unknown_option_is_refused(option, value, words):
    reducer = DiffRate(schedule(9))
    object.__setattr__(reducer, option, value)
    with pytest.raises(UserError, match=words):
        reducer.__post_init__()


def test_an_unpublished_schedule_is_refused_with_those_there_are():
    with pytest.raises(
        UserError,
        match=r"no published schedule for deit-small at 1.0 GFLOPs: choose from .*deit-small at 2.9",
    ):
        Schedule.load_published("deit-small", 1.0)


@pytest.mark.parametrize("content", ["[]", "{}", '{"prune_kept": [1]}'])
def test_a_file_without_schedule_is_refused(tmp_path, content):
    path = tmp_path / "rates.json"
    path.write_text(content)
    with pytest.raises(
        UserError, match="holds no schedule: expected a JSON object with prune_kept and merge_kept"
    ):
        Schedule.load(path)
