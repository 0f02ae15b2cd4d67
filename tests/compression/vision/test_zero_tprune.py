"""Zero-TPrune: the golden numbers, what holds for any graph, the whole in a model, and what is refused."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_arrays, golden_json
from tests.tiny.encoders import inputs, tiny, tokens_of
from tokenry.compression.apply import apply_token_reduction
from tokenry.compression.flops import LayerCost, encoder_flops
from tokenry.compression.reducer import Attention
from tokenry.compression.vision import zero_tprune
from tokenry.compression.vision.page_rank import aggregate_heads, head_variance, weighted_page_rank
from tokenry.compression.vision.zero_tprune import (
    ZeroTPrune,
    ZeroTPruneConfig,
    token_trace,
    zero_tprune_layer,
)
from tokenry.compression.vision.zero_tprune_search import search_config
from tokenry.compression.vision.zero_tprune_stages import (
    best_similarity,
    importance_prune,
    partition_by_importance,
    similarity_prune,
)
from tokenry.core.errors import UserError

CLOSE = {"rtol": 1e-9, "atol": 1e-12}
DATA = golden_arrays("12-zero-tprune", "dev-zerotprune.npz")
CASES = sorted({name.split("_")[0] for name in DATA})
SCHEDULES = golden_json("12-zero-tprune", "dev-schedule.json")
SMALL = ZeroTPruneConfig(layers=(1, 2), keep_rates=(0.8, 0.7), r=(3, 2), iterations=(5, 1))


def golden(case):
    prefix = f"{case}_"
    return {name.removeprefix(prefix): DATA[name].clone() for name in DATA if name.startswith(prefix)}


def graph(seed, batch=2, heads=3, tokens=9, sharp=2.0):
    draw = torch.Generator().manual_seed(seed)
    logits = sharp * torch.randn(batch, heads, tokens, tokens, generator=draw, dtype=torch.float64)
    return logits.softmax(dim=-1), torch.randn(batch, tokens, 4, generator=draw, dtype=torch.float64)


# --- golden numbers ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_the_votes_are_those_of_the_reference(case):
    data = golden(case)
    votes, made = weighted_page_rank(data["attn"], int(data["iters"]))
    torch.testing.assert_close(votes, data["wpr"], **CLOSE)
    assert made == int(data["iters"])
    votes, made = weighted_page_rank(data["attn"], tol=float(data["wpr_eps"]))
    torch.testing.assert_close(votes, data["wpr_converged"], **CLOSE)
    assert made == int(data["wpr_converged_iters"])


@pytest.mark.parametrize("case", CASES)
def test_variance_and_aggregation_of_heads_are_those_of_the_reference(case):
    data = golden(case)
    votes = data["wpr"][:, :, int(data["n_special"]) :]
    torch.testing.assert_close(head_variance(votes), data["head_var"], **CLOSE)
    for mode in ("rms", "mean"):
        importance, kept = aggregate_heads(votes, None, None, mode)
        torch.testing.assert_close(importance, data[f"imp_{mode}_all"], **CLOSE)
        assert kept.all()
    importance, kept = aggregate_heads(votes)
    torch.testing.assert_close(importance, data["imp_vhf"], **CLOSE)
    assert kept.equal(data["heads_kept"])


@pytest.mark.parametrize("mode", ["sequential-u", "sequential-i", "alternate"])
@pytest.mark.parametrize("case", CASES)
def test_groups_similarities_and_removed_tokens_are_those_of_the_reference(case, mode):
    data = golden(case)
    importance, metric = data["imp_vhf"], data["metric"][:, int(data["n_special"]) :]
    a, b = partition_by_importance(importance, mode)
    assert a.equal(data[f"groupA_{mode}"])
    assert b.equal(data[f"groupB_{mode}"])
    torch.testing.assert_close(best_similarity(metric, a, b)[0], data[f"bestsim_{mode}"], **CLOSE)
    removed = {name: value for name, value in data.items() if name.startswith(f"removed_{mode}_r")}
    assert removed
    for name, expected in removed.items():
        assert similarity_prune(importance, metric, int(name.split("_r")[-1]), mode).equal(expected)


@pytest.mark.parametrize("case", CASES)
def test_a_whole_layer_keeps_what_the_reference_keeps(case):
    data = golden(case)
    expected = {name: value for name, value in data.items() if name.startswith("kept_kr")}
    assert expected
    for name, kept in expected.items():
        _, rate, r, rescore = name.split("_")
        found = zero_tprune_layer(
            data["attn"],
            data["metric"],
            int(data["n_special"]),
            int(data["iters"]),
            float(rate[2:]),
            int(r[1:]),
            rescore=rescore == "rescore1",
        )
        assert found.equal(kept), name


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_has_the_token_counts_and_flops_of_the_reference(schedule):
    config = ZeroTPruneConfig(
        layers=schedule["prune_after_layers"],
        keep_rates=schedule["keep_rates"],
        r=schedule["s_stage_r"],
        iterations=[1] * len(schedule["s_stage_r"]),
    )
    layers, width = schedule["num_layers"], schedule["hidden_size"]
    counts = token_trace(config, schedule["num_tokens"], layers, schedule["num_special"])
    assert list(counts[:-1]) == schedule["tokens_entering_layer"]
    assert counts[-1] == schedule["tokens_out"]
    costs = [LayerCost(4 * width**2, 8 * width**2, width)] * layers
    assert encoder_flops(costs, counts[:-1], counts[:-1]) == schedule["encoder_flops"]
    dense = [schedule["num_tokens"]] * layers
    assert encoder_flops(costs, dense, dense) == schedule["encoder_flops_dense"]


def test_the_deit_preset_is_the_papers_ablation():
    preset = ZeroTPruneConfig.deit_s()
    assert (preset.v_min, preset.v_max, tuple(preset.iterations)) == (0.01, 0.7, (30, 5, 5, 1, 1))
    counts = token_trace(preset, 197, 12)
    assert counts == (197, 187, 187, 159, 159, 159, 119, 119, 119, 76, 76, 66, 66)
    assert ZeroTPruneConfig.deit_s(rescore=True).rescore
    assert (ZeroTPruneConfig().v_min, ZeroTPruneConfig().v_max) == (None, None)


# --- what holds for any graph --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(2, 12), st.floats(0.1, 2))
@settings(max_examples=25, deadline=None)
def test_many_rounds_of_votes_end_in_the_stationary_distribution(seed, tokens, sharp):
    attn, _ = graph(seed, tokens=tokens, sharp=sharp)
    votes, _ = weighted_page_rank(attn, 100_000, tol=1e-13)
    values, vectors = torch.linalg.eig(attn.transpose(2, 3))
    leading = (values - 1).abs().argmin(dim=-1)
    stationary = vectors.gather(-1, leading[..., None, None].expand(-1, -1, tokens, 1))[..., 0].real
    torch.testing.assert_close(votes, stationary / stationary.sum(dim=-1, keepdim=True), rtol=1e-6, atol=1e-9)


@given(st.integers(0, 10_000), st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_the_votes_of_a_head_sum_to_one(seed, iterations):
    votes, made = weighted_page_rank(graph(seed)[0], iterations)
    torch.testing.assert_close(votes.sum(dim=-1), torch.ones(2, 3, dtype=torch.float64))
    assert made == iterations


@given(st.integers(0, 10_000), st.sampled_from(["sequential-u", "sequential-i", "alternate", "random"]))
@settings(max_examples=25, deadline=None)
def test_what_the_s_stage_removes_is_never_less_similar_than_what_it_leaves_of_its_group(seed, mode):
    attn, metric = graph(seed, tokens=11)
    importance, _ = aggregate_heads(weighted_page_rank(attn, 5)[0])
    a, b = partition_by_importance(importance, mode)
    best, _ = best_similarity(metric, a, b)
    for r in range(1, a.shape[1]):
        removed = similarity_prune(importance, metric, r, mode)
        gone = (a[:, :, None] == removed[:, None, :]).any(dim=2)
        assert (gone.sum(dim=1) == r).all()
        assert (best.where(gone, torch.inf).amin(dim=1) >= best.where(~gone, -torch.inf).amax(dim=1)).all()


@given(
    st.integers(0, 10_000),
    st.integers(1, 12),
    st.sampled_from(["sequential-u", "sequential-i", "alternate", "random"]),
)
@settings(max_examples=25, deadline=None)
def test_every_partition_is_one_and_a_holds_half_rounded_down(seed, tokens, mode):
    importance = torch.rand(2, tokens, generator=torch.Generator().manual_seed(seed))
    a, b = partition_by_importance(importance, mode, seed)
    assert a.shape[1] == tokens // 2
    assert (torch.cat([a, b], dim=1).sort(dim=1).values == torch.arange(tokens)).all()
    for group in (a, b):
        assert (importance.gather(1, group).diff(dim=1) <= 0).all()


@given(
    st.integers(0, 10_000),
    st.integers(0, 3),
    st.floats(0.3, 1),
    st.booleans(),
    st.sampled_from(["wpr", "one_step"]),
)
@settings(max_examples=25, deadline=None)
def test_permuting_the_patches_permutes_what_is_kept(seed, r, keep_rate, rescore, pre_vote):
    attn, metric = graph(seed)
    order = torch.cat([torch.zeros(1, dtype=torch.long), torch.randperm(8) + 1])
    options = {"rescore": rescore, "pre_vote": pre_vote}
    kept = zero_tprune_layer(attn, metric, 1, 5, keep_rate, r, **options)
    permuted = zero_tprune_layer(
        attn[:, :, order][..., order], metric[:, order], 1, 5, keep_rate, r, **options
    )
    assert order[permuted].sort(dim=1).values.equal(kept)


@given(st.integers(0, 10_000), st.integers(0, 2), st.integers(0, 3), st.floats(0.3, 1))
@settings(max_examples=25, deadline=None)
def test_special_tokens_are_kept_and_the_order_stays(seed, special, r, keep_rate):
    kept = zero_tprune_layer(*graph(seed), special, 5, keep_rate, r)
    assert kept.shape[1] == special + int((9 - special - r) * keep_rate + 1e-9)
    assert (kept[:, :special] == torch.arange(special)).all()
    assert (kept.diff(dim=1) > 0).all()


def test_an_image_is_pruned_the_same_whatever_its_batch():
    attn, metric = graph(5, batch=4)
    together = zero_tprune_layer(attn, metric, 1, 5, 0.6, 2, partition="random")
    for i in range(4):
        alone = zero_tprune_layer(attn[i : i + 1], metric[i : i + 1], 1, 5, 0.6, 2, partition="random")
        assert alone.equal(together[i : i + 1])


def test_warm_votes_settle_in_fewer_rounds():
    attn, _ = graph(1, tokens=20, sharp=4)
    settled, cold = weighted_page_rank(attn, tol=1e-9)
    again, warm = weighted_page_rank(attn, tol=1e-9, initial=settled)
    assert warm < cold
    torch.testing.assert_close(again, settled, rtol=0, atol=1e-8)


def test_votes_that_run_in_circles_end_after_all():
    attn = torch.eye(3).roll(1, 0).expand(1, 1, 3, 3)
    votes, made = weighted_page_rank(attn, tol=1e-6, initial=torch.tensor([[[1.0, 0.0, 0.0]]]))
    assert made == 1000
    assert votes.sum() == 1


def test_without_iterations_and_tol_the_votes_settle():
    attn = graph(2)[0].float()
    votes, made = weighted_page_rank(attn)
    assert made < 1000
    torch.testing.assert_close((votes[:, :, None] @ attn)[:, :, 0], votes, rtol=0, atol=1e-6)


def test_one_step_votes_follow_sharpened_attention():
    attn, metric = graph(3)
    sharp = (attn / 0.1).exp()
    expected = (sharp / sharp.sum(dim=-1, keepdim=True)).mean(dim=(1, 2))[:, 1:]
    kept = zero_tprune_layer(attn, metric, 1, 5, 0.5, 0, pre_vote="one_step")
    assert (kept[:, 1:] - 1 == expected.topk(4).indices.sort(dim=1).values).all()


def test_half_precision_weights_are_voted_on_in_float32():
    attn, metric = graph(4)
    votes, _ = weighted_page_rank(attn.to(torch.bfloat16), 3)
    assert votes.dtype == torch.float32
    kept = zero_tprune_layer(attn.to(torch.bfloat16), metric.to(torch.bfloat16), 1, 3, 0.7, 2)
    assert kept.shape == (2, 5)


# --- inputs at the edge --------------------------------------------------------------------------------------------------------------


def test_nothing_to_do_keeps_all():
    attn, metric = graph(0)
    assert (zero_tprune_layer(attn, metric, 1, 5, 1.0, 0) == torch.arange(9)).all()


def test_a_single_token_is_kept():
    attn, metric = torch.ones(1, 2, 1, 1), torch.ones(1, 1, 3)
    assert zero_tprune_layer(attn, metric, 0, 5, 1.0, 0).tolist() == [[0]]
    attn, metric = torch.full((1, 2, 2, 2), 0.5), torch.ones(1, 2, 3)
    assert zero_tprune_layer(attn, metric, 1, 5, 1.0, 0).tolist() == [[0, 1]]


def test_uniform_attention_lets_all_heads_take_part_and_keeps_the_first():
    attn, metric = torch.full((1, 3, 6, 6), 1 / 6), torch.randn(1, 6, 3)
    votes, _ = weighted_page_rank(attn, 3)
    assert head_variance(votes).abs().max() < 1e-9
    assert aggregate_heads(votes)[1].all()
    assert zero_tprune_layer(attn, metric, 0, 3, 0.5, 0).tolist() == [[0, 1, 2]]


def test_a_uniform_head_is_left_out_where_another_one_passes():
    uneven = torch.tensor([1.0, 1.5, 0.5, 1.0]) / 4
    _, kept = aggregate_heads(torch.stack([torch.full((4,), 0.25), uneven])[None])
    assert kept.tolist() == [[False, True]]


def test_a_vector_of_zeros_is_similar_to_nothing():
    metric = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [1.0, 0.1]]])
    similarity, _ = best_similarity(metric, torch.tensor([[1, 2]]), torch.tensor([[0]]))
    assert similarity[0, 0] == 0
    assert similarity[0, 1] > 0.9


def test_of_equal_keys_the_first_is_removed():
    importance = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    assert similarity_prune(importance, torch.ones(1, 4, 2), 1).tolist() == [[2]]


def test_a_token_that_attends_only_to_removed_ones_votes_for_all_alike():
    attn = torch.zeros(1, 1, 4, 4)
    attn[..., 0], attn[:, :, 0, 3] = 0.5, 0.5
    attn[:, :, 1:, 3] = 0.5
    metric = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]])
    kept = zero_tprune_layer(attn, metric, 0, 1, 0.5, 2, rescore=True, partition="sequential-i")
    assert kept.shape == (1, 1)


# --- in a model ----------------------------------------------------------------------------------------------------------------------


def pruned(model, config, data, **options):
    with apply_token_reduction(model, ZeroTPrune(config), **options) as reduction, torch.no_grad():
        out = model(**data)
        return out, reduction


@pytest.mark.parametrize("family", ["vit", "deit", "dinov2", "dinov2 registers", "clip", "siglip"])
def test_the_token_counts_are_those_of_the_trace(family):
    model = tiny(family)
    tokens, special = tokens_of(family), tokens_of(family) - 16
    _, reduction = pruned(model, SMALL, inputs(family))
    assert reduction.token_counts == token_trace(SMALL, tokens, 3, special)
    # 16 patches, less 3 similar ones, 0.8 of 13, less 2, 0.7 of 8
    assert reduction.token_counts[-1] == special + 5
    assert (reduction.places()[:, :special] == torch.arange(special)).all()


def test_a_layer_prunes_by_its_own_attention_and_keys():
    model, data = tiny("vit", attn_implementation="eager"), inputs("vit")
    with torch.no_grad():
        states = model(**data, output_hidden_states=True, output_attentions=True)
        layer = model.layers[0] if hasattr(model, "layers") else model.encoder.layer[0]
        attention = next(part for part in layer.modules() if hasattr(part, "k_proj") or hasattr(part, "key"))
        projection = getattr(attention, "k_proj", None) or attention.key
        key = projection(layer.layernorm_before(states.hidden_states[0])).unflatten(-1, (4, -1))
    for metric_heads, metric in (("mean", key.mean(dim=2)), ("concat", key.flatten(2))):
        config = ZeroTPruneConfig(
            layers=(1,), keep_rates=(0.7,), r=(5,), iterations=(4,), metric_heads=metric_heads
        )
        _, reduction = pruned(model, config, data)
        expected = zero_tprune_layer(states.attentions[0], metric, 1, 4, 0.7, 5, v_min=None, v_max=None)
        assert reduction.plans[0].kept.equal(expected)


def test_what_is_kept_goes_on_unchanged():
    model, data = tiny("vit"), inputs("vit")
    with torch.no_grad():
        dense = model(**data, output_hidden_states=True).hidden_states[1]
    with apply_token_reduction(model, ZeroTPrune(SMALL)) as reduction, torch.no_grad():
        out = model(**data, output_hidden_states=True).hidden_states[1]
        kept = reduction.plans[0].kept
    assert out.equal(dense.gather(1, kept[..., None].expand(-1, -1, dense.shape[2])))


def test_only_pruning_layers_compute_attention_weights(monkeypatch):
    asked = []
    weights = Attention._weights
    monkeypatch.setattr(Attention, "_weights", lambda self, query: asked.append(1) or weights(self, query))
    pruned(tiny("vit"), SMALL, inputs("vit"))
    assert len(asked) == 2


def test_a_schedule_that_prunes_nothing_changes_no_bit():
    model, data = tiny("vit"), inputs("vit")
    with torch.no_grad():
        before = model(**data).last_hidden_state
    nothing = ZeroTPruneConfig(layers=(1, 3), keep_rates=(1, 1.0), r=(0, 0), iterations=(5, 1))
    out, reduction = pruned(model, nothing, data)
    assert out.last_hidden_state.equal(before)
    assert reduction.token_counts == (17, 17, 17, 17)


@pytest.mark.parametrize("merge_similar", [False, True])
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_padded_text_is_pruned_as_if_it_stood_alone(family, merge_similar):
    model, data = tiny(family), inputs(family, batch=3)
    config = ZeroTPruneConfig(**{**vars(SMALL), "merge_similar": merge_similar, "warm_start": True})
    together, _ = pruned(model, config, data)
    for i in range(3):
        length = int(data["attention_mask"][i].sum())
        alone, reduction = pruned(model, config, {"input_ids": data["input_ids"][i : i + 1, :length]})
        kept = reduction.token_counts[-1]
        torch.testing.assert_close(
            together.last_hidden_state[i, :kept], alone.last_hidden_state[0], rtol=1e-4, atol=1e-5
        )


def test_a_short_row_is_filled_with_its_padding_only():
    model, data = tiny("bert"), inputs("bert", batch=3)
    _, reduction = pruned(model, SMALL, data)
    # 11 words: less 3, 0.8 of 8, less 2, 0.7 of 4. 6 words: less 3, 0.8 of 3, less 1, at least 1.
    assert reduction.token_counts == (12, 7, 3, 3)
    left = [
        (places >= 0) & real
        for places, real in zip(reduction.places(), data["attention_mask"] > 0, strict=True)
    ]
    assert [int(each.sum()) for each in left] == [3, 3, 2]


def test_texts_of_one_and_two_tokens_keep_a_word():
    model = tiny("bert")
    ids, mask = torch.tensor([[2, 9, 8, 7, 3], [2, 3, 0, 0, 0], [2, 0, 0, 0, 0]]), None
    mask = (ids > 0).long()
    out, reduction = pruned(model, SMALL, {"input_ids": ids, "attention_mask": mask})
    assert torch.isfinite(out.last_hidden_state).all()
    assert (reduction.places()[0] >= 0).sum() == reduction.token_counts[-1] == 2
    assert (reduction.places()[1, :2] == torch.tensor([0, 1])).all()
    alone, _ = pruned(model, SMALL, {"input_ids": ids[1:2, :2]})
    assert alone.last_hidden_state.shape[1] == 2


def test_merging_averages_a_similar_token_into_its_match():
    model, data = tiny("vit"), inputs("vit")
    config = ZeroTPruneConfig(layers=(1,), keep_rates=(1.0,), r=(3,), iterations=(4,), merge_similar=True)
    with torch.no_grad():
        dense = model(**data, output_hidden_states=True).hidden_states[1]
    with apply_token_reduction(model, ZeroTPrune(config)) as reduction, torch.no_grad():
        out = model(**data, output_hidden_states=True).hidden_states[1]
        sources = reduction.source_map().to(dense.dtype)
        size = reduction.size
    assert (size.sum(dim=1) == 17).all()
    torch.testing.assert_close(out, sources @ dense / sources.sum(dim=2, keepdim=True))


def test_merging_and_dropping_leave_the_same_tokens_in_the_first_layer():
    model, data = tiny("vit"), inputs("vit")
    options = {"layers": (1,), "keep_rates": (0.6,), "r": (4,), "iterations": (4,)}
    _, dropped = pruned(model, ZeroTPruneConfig(**options), data)
    _, merged = pruned(model, ZeroTPruneConfig(**options, merge_similar=True), data)
    assert merged.plans[0].kept.equal(dropped.plans[0].kept)
    assert merged.size.sum() > dropped.token_counts[-1] * 2


def test_warm_votes_are_those_of_the_survivors(monkeypatch):
    model, data = tiny("vit"), inputs("vit")
    options = {"layers": (1, 2), "keep_rates": (0.8, 0.5), "r": (3, 0), "iterations": (4, 1)}
    asked = []
    prune = zero_tprune._Step.prune

    def spy(self, attn, metric, special, initial=None):
        asked.append(initial)
        return prune(self, attn, metric, special, initial)

    monkeypatch.setattr(zero_tprune._Step, "prune", spy)
    _, reduction = pruned(model, ZeroTPruneConfig(**options, warm_start=True), data)
    pruned(model, ZeroTPruneConfig(**options), data)
    assert asked[0] is None
    assert asked[2:] == [None, None]
    assert asked[1].shape == (2, 4, reduction.token_counts[1])
    torch.testing.assert_close(asked[1].sum(dim=-1), torch.ones(2, 4))


@pytest.mark.parametrize("options", [{}, {"warm_start": True}, {"merge_similar": True}])
def test_gradient_checkpointing_gives_the_same_gradients(options):
    gradients = []
    for checkpointing in (False, True):
        model = tiny("vit").train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with apply_token_reduction(model, ZeroTPrune(ZeroTPruneConfig(**{**vars(SMALL), **options}))):
            model(**inputs("vit")).last_hidden_state.square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"merge_similar": True, "warm_start": True, "rescore": True}])
def test_a_model_in_bfloat16_is_pruned_and_stays_in_it(options):
    model, data = tiny("vit").bfloat16(), {"pixel_values": inputs("vit")["pixel_values"].bfloat16()}
    out, reduction = pruned(model, ZeroTPruneConfig(**{**vars(SMALL), **options}), data)
    assert out.last_hidden_state.dtype == torch.bfloat16
    assert reduction.token_counts == token_trace(SMALL, 17, 3)


def test_a_copy_of_a_pruned_model_prunes_by_itself():
    model, data = tiny("vit"), inputs("vit")
    reduction = apply_token_reduction(
        model, ZeroTPrune(ZeroTPruneConfig(**{**vars(SMALL), "warm_start": True}))
    )
    twin, of_twin = copy.deepcopy((model, reduction))
    with torch.no_grad():
        assert twin(**data).last_hidden_state.equal(model(**data).last_hidden_state)
    assert of_twin.token_counts == reduction.token_counts


# --- search --------------------------------------------------------------------------------------------------------------------------


def test_a_search_meets_its_target_and_puts_the_best_first():
    model, told = tiny("vit classification"), []
    batches = [
        {**inputs("vit"), "labels": torch.tensor([0, 1])},
        {**inputs("vit", seed=2), "labels": torch.tensor([3, 1])},
    ]
    trials = search_config(
        model, batches, 0.8, trials=6, tolerance=0.1, progress=lambda what, share: told.append((what, share))
    )
    assert len(trials) == 6
    assert all(0.7 <= trial.flops <= 0.8 for trial in trials)
    assert [t.accuracy for t in trials] == sorted((t.accuracy for t in trials), reverse=True)
    assert told[0] == ("schedule 1 of 6", 0.0)
    config = trials[0].config
    with apply_token_reduction(model, ZeroTPrune(config)) as reduction, torch.no_grad():
        right = [model(b["pixel_values"]).logits.argmax(dim=-1) == b["labels"] for b in batches]
    assert float(torch.cat(right).float().mean()) == trials[0].accuracy
    assert reduction.flops / reduction.dense_flops == pytest.approx(trials[0].flops)
    assert search_config(model, batches, 0.8, trials=6, tolerance=0.1) == trials


def test_a_search_without_labels_asks_for_the_answers_of_the_unpruned_model():
    model = tiny("vit classification")
    with torch.no_grad():
        answers = model(**inputs("vit")).logits.argmax(dim=-1)
    with_labels = search_config(model, [{**inputs("vit"), "labels": answers}], 0.8, 3, tolerance=0.1)
    assert search_config(model, [inputs("vit")], 0.8, 3, tolerance=0.1) == with_labels


def test_a_search_leaves_the_model_as_it_was():
    model = tiny("vit classification").train()
    search_config(model, [inputs("vit")], 0.8, 2, tolerance=0.1)
    assert model.training
    assert not any("_tokenry_owner" in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    ("target", "trials", "batches", "message"),
    [
        (0.0, 3, 1, "target_flops must be between 0 and 1, got 0.0"),
        (1.0, 3, 1, "target_flops must be between 0 and 1, got 1.0"),
        (0.8, 0, 1, "got 0 trials and 1 batches"),
        (0.8, 3, 0, "got 3 trials and 0 batches"),
        (0.01, 3, 1, r"no schedule with -?0.0\d? to 0.01 of the FLOPs was found"),
    ],
)
def test_a_search_with_nothing_to_find_is_refused(target, trials, batches, message, monkeypatch):
    monkeypatch.setattr("tokenry.compression.vision.zero_tprune_search._MOST_DRAWS", 50)
    with pytest.raises(UserError, match=message):
        search_config(tiny("vit classification"), [inputs("vit")] * batches, target, trials)


# --- bad input -----------------------------------------------------------------------------------------------------------------------


def broken(change):
    attn = torch.full((1, 2, 4, 4), 0.25)
    return change(attn)


def with_entry(value):
    def change(attn):
        attn[0, 0, 0, 0] = value
        return attn

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[0], r"the shape \(batch, heads, tokens, tokens\), got \(2, 4, 4\)"),
        (lambda a: a[..., :3], r"the shape \(batch, heads, tokens, tokens\), got \(1, 2, 4, 3\)"),
        (with_entry(-0.1), "negative entries: give the weights after softmax, not the logits"),
        (with_entry(torch.nan), "not finite: give the weights after softmax"),
        (with_entry(torch.inf), "not finite: give the weights after softmax"),
        (
            with_entry(0.3),
            "rows of attention must sum to 1, one is off by 0.05: give the post-softmax weights",
        ),
    ],
)
def test_what_is_no_attention_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        weighted_page_rank(broken(change), 3)
    with pytest.raises(UserError, match=message):
        zero_tprune_layer(broken(change), torch.ones(1, 4, 2), 1, 3, 0.5, 0)


def test_rows_may_be_off_by_rounding():
    exact, rounded = (weighted_page_rank(broken(with_entry(entry)), 3) for entry in (0.25, 0.2505))
    torch.testing.assert_close(rounded, exact, atol=1e-3, rtol=0)


@pytest.mark.parametrize("keep_rate", [0.0, -0.5, 1.1, float("nan")])
def test_a_keep_rate_that_is_no_fraction_is_refused(keep_rate):
    message = rf"keep_rate must be in \(0, 1\], got {keep_rate}"
    with pytest.raises(UserError, match=message):
        ZeroTPruneConfig(layers=(1,), keep_rates=(keep_rate,), r=(0,), iterations=(1,))
    with pytest.raises(UserError, match=message):
        zero_tprune_layer(*graph(0), 1, 3, keep_rate, 0)


def test_a_negative_r_is_refused():
    with pytest.raises(UserError, match="r must not be negative, got \\[-1\\]"):
        ZeroTPruneConfig(layers=(1,), keep_rates=(1.0,), r=(-1,), iterations=(1,))
    with pytest.raises(UserError, match="r must not be negative"):
        zero_tprune_layer(*graph(0), 1, 3, 1.0, -1)
    with pytest.raises(UserError, match=r"r must be from 0 to half .* got -1"):
        similarity_prune(torch.rand(1, 8), torch.rand(1, 8, 2), -1)


def test_an_r_of_more_than_half_of_the_tokens_is_refused():
    message = "r must be from 0 to half of the tokens that can be pruned, here 4 of 8, got 5"
    with pytest.raises(UserError, match=message):
        zero_tprune_layer(*graph(0), 1, 3, 1.0, 5)
    with pytest.raises(UserError, match=message):
        similarity_prune(torch.rand(1, 8), torch.rand(1, 8, 2), 5)
    config = ZeroTPruneConfig(layers=(1,), keep_rates=(1.0,), r=(5,), iterations=(1,))
    with pytest.raises(UserError, match=message):
        token_trace(config, 9, 3)
    model = tiny("vit")
    too_many = ZeroTPruneConfig(layers=(1,), keep_rates=(1.0,), r=(9,), iterations=(1,))
    with (
        apply_token_reduction(model, ZeroTPrune(too_many)),
        pytest.raises(UserError, match="here 8 of 16, got 9"),
    ):
        model(**inputs("vit"))


def test_a_window_that_holds_no_head_is_refused():
    message = "v_min must not be above v_max, got 0.7 and 0.01"
    with pytest.raises(UserError, match=message):
        ZeroTPruneConfig(v_min=0.7, v_max=0.01)
    with pytest.raises(UserError, match=message):
        aggregate_heads(torch.rand(1, 2, 4), 0.7, 0.01)


@pytest.mark.parametrize("layers", [(0,), (-1,)])
def test_a_layer_before_the_first_is_refused(layers):
    with pytest.raises(UserError, match=r"layers must ascend from 1 \(the first layer\) on"):
        ZeroTPruneConfig(layers=layers, keep_rates=(1.0,), r=(0,), iterations=(1,))


@pytest.mark.parametrize("layers", [(2, 1), (1, 1)])
def test_layers_out_of_order_are_refused(layers):
    with pytest.raises(UserError, match="layers must ascend from 1"):
        ZeroTPruneConfig(layers=layers, keep_rates=(1.0, 1.0), r=(0, 0), iterations=(1, 1))


def test_a_layer_behind_the_last_is_refused():
    config = ZeroTPruneConfig(layers=(4,), keep_rates=(1.0,), r=(1,), iterations=(1,))
    message = "layers must be from 1 to 3, the number of the model's layers, got 4"
    with pytest.raises(UserError, match=message):
        token_trace(config, 17, 3)
    with pytest.raises(UserError, match=message):
        apply_token_reduction(tiny("vit"), ZeroTPrune(config))


def test_lists_of_unequal_length_are_refused():
    with pytest.raises(UserError, match="one entry per pruning layer, got 2, 2, 1 and 2 entries"):
        ZeroTPruneConfig(layers=(1, 2), keep_rates=(1.0, 0.5), r=(3,), iterations=(1, 1))


def test_pruning_to_no_token_at_all_is_refused():
    message = r"keep_rate 0.1 and r = 2 leave none of 8 tokens: raise keep_rate"
    with pytest.raises(UserError, match=message):
        zero_tprune_layer(*graph(0), 1, 3, 0.1, 2)
    config = ZeroTPruneConfig(layers=(2,), keep_rates=(0.1,), r=(2,), iterations=(1,))
    with pytest.raises(UserError, match=message):
        token_trace(config, 9, 3)
    with pytest.raises(UserError, match="keep must be from 1 to 8, the number of tokens, got 0"):
        importance_prune(torch.rand(1, 8), 0)


@pytest.mark.parametrize("iterations", [0, -3])
def test_votes_without_a_round_are_refused(iterations):
    with pytest.raises(UserError, match="iterations must be at least 1"):
        weighted_page_rank(graph(0)[0], iterations)
    with pytest.raises(UserError, match="iterations must be at least 1"):
        ZeroTPruneConfig(layers=(1,), keep_rates=(1.0,), r=(0,), iterations=(iterations,))


@pytest.mark.parametrize("option", ["aggregation", "partition", "metric_heads", "pre_vote"])
def test_an_unknown_option_is_refused_with_the_known_ones(option):
    config = ZeroTPruneConfig()
    # As from a command line: the test run would check the annotation first.
    object.__setattr__(config, option, "other")
    with pytest.raises(UserError, match=rf"{option} must be one of .*, got 'other'"):
        config.__post_init__()


def test_a_metric_of_other_tokens_is_refused():
    attn, metric = graph(0)
    with pytest.raises(UserError, match="metric must have one vector for each of the 9 tokens of 2 images"):
        zero_tprune_layer(attn, metric[:, 1:], 1, 3, 0.5, 0)
    with pytest.raises(UserError, match="num_special must be from 0 to 9"):
        zero_tprune_layer(attn, metric, 10, 3, 0.5, 0)
