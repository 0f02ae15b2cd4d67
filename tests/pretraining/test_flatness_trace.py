"""Traces of Hessian and Fisher: reference numbers, exact traces of tiny models, and what must not change them."""

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import BertForMaskedLM

from tests import tiny
from tests.golden import golden_arrays
from tests.pretraining.context_model import ContextModel, case, exact_hessian
from tokenry.core.errors import UserError
from tokenry.core.io.files import read_json
from tokenry.pretraining import (
    DrawConfig,
    fisher_trace,
    hessian_operator,
    hessian_trace,
    hvp,
    top_hessian_eigenvalue,
)
from tokenry.pretraining.flatness import trace
from tokenry.pretraining.flatness.objective import Objective, group_of, rows_of
from tokenry.pretraining.flatness.trace import probe

CASES = ("dev-trace.npz", "dev-trace-single.npz")
IDS = torch.randint(5, 60, (3, 8), generator=torch.Generator().manual_seed(0))
SMALL = {"hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2}


def masked(ids=IDS):
    return {"input_ids": ids, "labels": ids.masked_fill(torch.arange(ids.shape[1]) % 3 > 0, -100)}


def small_llama(tied=True, **options):
    return tiny.llama(
        vocab_size=16, num_key_value_heads=1, tie_word_embeddings=tied, **SMALL, **options
    ).double()


def small_batch(rows=2):
    return {"input_ids": IDS[:rows, :6] % 16}


# --- reference numbers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_golden_probes(name):
    arrays = golden_arrays("16-flatness", name)
    model, batch, _, used = case(arrays)
    loss = model(**batch).loss
    torch.testing.assert_close(loss.detach(), arrays["loss"], rtol=1e-8, atol=0)
    flat = torch.cat([one.detach().flatten() for one in used])
    torch.testing.assert_close(flat, arrays["flat_params"])
    for kind in ("gaussian", "rademacher"):
        found = [vector @ hvp(used, loss, vector) for vector in arrays[f"{kind}_probes"]]
        torch.testing.assert_close(torch.stack(found), arrays[f"hutchinson_{kind}"], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_golden_hessian(name):
    arrays = golden_arrays("16-flatness", name)
    model, batch, exclude, used = case(arrays)
    population = {
        "input_ids": arrays["x"][None],
        "conditionals": arrays["true_conditional"][arrays["x"]][None],
    }
    for read, key in ((batch, "trace_hessian"), (population, "trace_hessian_population")):
        hessian = exact_hessian(model(**read).loss, used)
        torch.testing.assert_close(hessian.trace(), arrays[key], rtol=1e-8, atol=0)
        for distribution in ("rademacher", "gaussian"):
            found = hessian_trace(model, read, 100, distribution, exclude)
            assert abs(found.mean - float(arrays[key])) < 4 * found.stderr
    top = top_hessian_eigenvalue(model, batch, exclude, tol=1e-10)
    assert top == pytest.approx(float(arrays["top_eigenvalue"]), rel=1e-8)


def test_batches_of_a_module_with_its_own_loss_count_by_their_labels():
    model, batch, exclude, _ = case(golden_arrays("16-flatness", CASES[0]))
    parts = [{name: value[:, place] for name, value in batch.items()} for place in (slice(3), slice(3, None))]
    whole = top_hessian_eigenvalue(model, batch, exclude, tol=1e-10)
    assert top_hessian_eigenvalue(model, parts, exclude, tol=1e-10) == pytest.approx(whole, rel=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_golden_variances(name):
    arrays = golden_arrays("16-flatness", name)
    model, batch, _, used = case(arrays)
    hessian = exact_hessian(model(**batch).loss, used)
    squared = (hessian**2).sum()
    torch.testing.assert_close(squared, arrays["trace_h_squared"], rtol=1e-8, atol=0)
    smaller = 2 * (squared - (hessian.diagonal() ** 2).sum())
    torch.testing.assert_close(2 * squared, arrays["hutchinson_gaussian_variance"], rtol=1e-8, atol=0)
    torch.testing.assert_close(smaller, arrays["hutchinson_rademacher_variance"], rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_golden_fisher(name):
    arrays = golden_arrays("16-flatness", name)
    model, batch, exclude, _ = case(arrays)
    exact = fisher_trace(model, batch, "all", exclude=exclude)
    empirical = fisher_trace(model, batch, "data", exclude=exclude)
    assert exact.mean == pytest.approx(float(arrays["fisher_trace"]), rel=1e-8)
    assert empirical.mean == pytest.approx(float(arrays["empirical_fisher_trace"]), rel=1e-8)
    for per in ("token", "sequence"):
        drawn = fisher_trace(model, batch, per=per, sequences=80, exclude=exclude)
        assert abs(drawn.mean - exact.mean) < 4 * drawn.stderr


def test_golden_identity_of_bartlett():
    arrays = golden_arrays("16-flatness", "dev-bartlett.npz")
    model = ContextModel(arrays)
    batch = {"input_ids": arrays["x"][None], "conditionals": arrays["true_conditional"][None]}
    loss = model(**batch).loss
    torch.testing.assert_close(loss.detach(), arrays["entropy"], rtol=1e-8, atol=0)
    trace = exact_hessian(loss, list(model.parameters())).trace()
    torch.testing.assert_close(trace, arrays["trace_hessian"], rtol=1e-8, atol=0)
    labelled = {"input_ids": arrays["x"][None], "labels": arrays["x"][None]}
    fisher = fisher_trace(model, labelled, "all")
    assert fisher.mean == pytest.approx(float(arrays["expected_sq_grad_norm"]), rel=1e-8)


# --- properties ----------------------------------------------------------------------------------------------------------------------


def test_the_trace_of_a_transformer_is_the_exact_one_and_counts_a_tied_weight_once():
    model, batch = small_llama(), small_batch()
    assert len(Objective(model).parameters) == len([*model.parameters()])
    exact = exact_hessian(_eager_loss(model, batch), [*model.parameters()]).trace()
    found = hessian_trace(model, batch, 50, per_group=True)
    assert abs(found.mean - float(exact)) < 4 * found.stderr
    assert sum(part.value for part in found.per_group.values()) == pytest.approx(found.mean)
    assert list(found.per_group) == ["model.embed_tokens", "model.layers.0", "model.norm"]


def test_what_lies_between_the_output_matrix_and_the_rest_is_no_noise():
    model, batch = small_llama(tied=False), small_batch()
    model.model.embed_tokens.weight.data.mul_(20)
    parameters = [*model.parameters()]
    hessian = exact_hessian(_eager_loss(model, batch), parameters)
    matrix = model.lm_head.weight
    own = torch.cat([torch.full((one.numel(),), one is matrix) for one in parameters])
    noise = 2 * (hessian - hessian.diag().diag()).square()
    apart = noise * (own == own[:, None])
    found = hessian_trace(model, batch, 100)
    assert 100 * found.stderr**2 == pytest.approx(float(apart.sum()), rel=0.4)
    assert apart.sum() < 0.7 * noise.sum()


def _eager_loss(model, batch):
    model.set_attn_implementation("eager")
    try:
        return model(**batch, labels=batch["input_ids"]).loss
    finally:
        model.set_attn_implementation("sdpa")


def test_loss_and_draws_are_those_of_the_model_itself():
    model, batch = tiny.bert(BertForMaskedLM).double(), masked()
    objective = Objective(model)
    with objective.at_rest(twice=False):
        loss, targets = objective.loss(batch)
    torch.testing.assert_close(loss, model(**batch).loss)
    assert targets == 9
    causal = tiny.llama().double()
    loss, targets = Objective(causal).loss({"input_ids": IDS})
    torch.testing.assert_close(loss.float(), causal(input_ids=IDS, labels=IDS).loss)
    assert targets == 21


@given(left=st.booleans(), padding=st.integers(1, 4))
@settings(max_examples=4, deadline=None)
def test_padding_changes_nothing(left, padding):
    model, batch = small_llama(), small_batch()
    pad = torch.full((2, padding), 3)
    ids = torch.cat([pad, batch["input_ids"]] if left else [batch["input_ids"], pad], dim=1)
    mask = torch.ones_like(ids)
    mask[:, :padding] = 0 if left else 1
    mask[:, 6:] = 1 if left else 0
    mask = mask if left else torch.cat([torch.ones(2, 6), torch.zeros(2, padding)], dim=1).long()
    padded = {"input_ids": ids, "attention_mask": mask}
    for measured in (
        lambda given: hessian_trace(model, given, 2),
        lambda given: fisher_trace(model, given, "data"),
    ):
        expected, found = measured(batch), measured(padded)
        assert found.mean == pytest.approx(expected.mean, rel=1e-4)
        assert found.loss.value == pytest.approx(expected.loss.value, rel=1e-6)


def test_the_order_of_sequences_changes_nothing():
    model, batch = small_llama(), small_batch(3)
    turned = {"input_ids": batch["input_ids"].flip(0)}
    assert hessian_trace(model, turned, 2).mean == pytest.approx(
        hessian_trace(model, batch, 2).mean, rel=1e-4
    )
    assert fisher_trace(model, turned, "data").mean == pytest.approx(fisher_trace(model, batch, "data").mean)


def test_draws_are_weighed_by_their_targets_or_alike():
    model = small_llama()
    short, long = {"input_ids": IDS[:1, :3] % 16}, {"input_ids": IDS[:, :7] % 16}
    weighed = hessian_trace(model, [short, long], 2)
    alike = hessian_trace(model, [short, long], 2, config=DrawConfig(weighting="batches"))
    one = hessian_trace(model, [short], 1).mean
    other = 2 * alike.mean - one
    assert weighed.mean == pytest.approx((2 * one + 18 * other) / 20)


def test_probes_that_share_a_graph_are_one_draw():
    found = hessian_trace(small_llama(), small_batch(), 12, config=DrawConfig(probes_per_batch=4))
    assert found.estimate.samples == 3


def test_probes_have_mean_zero_and_variance_one():
    generator = torch.Generator().manual_seed(0)
    signs = probe(torch.zeros(4000), "rademacher", generator)
    assert set(signs.tolist()) == {-1.0, 1.0}
    for drawn in (signs, probe(torch.zeros(4000), "gaussian", generator)):
        assert abs(float(drawn.mean())) < 0.07
        assert abs(float(drawn.var()) - 1) < 0.1


def test_seeds_draw_other_probes():
    model, batch = small_llama(), small_batch()
    traces = {hessian_trace(model, batch, 1, config=DrawConfig(seed=seed)).mean for seed in range(3)}
    assert len(traces) == 3


def test_frozen_weights_count_no_curvature_and_unused_ones_zero():
    model, batch = small_llama(), small_batch()
    model.model.embed_tokens.weight.requires_grad_(False)
    exact = exact_hessian(_eager_loss(model, batch), [one for one in model.parameters() if one.requires_grad])
    found = hessian_trace(model, batch, 30)
    assert abs(found.mean - float(exact.trace())) < 4 * found.stderr
    model.register_parameter("unused", torch.nn.Parameter(torch.ones(2).double()))
    assert hessian_trace(model, batch, 2, include=("unused",)).mean == 0.0
    assert fisher_trace(model, batch, include=("unused",)).mean == 0.0


def test_adapters_alone_are_measured():
    model = get_peft_model(
        tiny.llama(),
        LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False),
    )
    assert all("lora_" in name for name in Objective(model).parameters)
    found = hessian_trace(model, {"input_ids": IDS}, 4, per_group=True)
    assert math.isfinite(found.mean)
    assert len(found.per_group) == 2


def test_parameters_are_chosen_by_name():
    model = tiny.bert(BertForMaskedLM)
    names = set(Objective(model).parameters)
    assert "cls.predictions.bias" not in names, "the output bias is left out under whatever name"
    assert "cls.predictions.bias" in Objective(model, exclude=()).parameters
    assert set(Objective(model, include=("layer.1.",)).parameters) == {
        name for name in names if "layer.1." in name
    }
    assert group_of("bert.encoder.layer.1.output.dense.bias") == "bert.encoder.layer.1"
    assert group_of("bert.embeddings.word_embeddings.weight") == "bert.embeddings.word_embeddings"


def test_a_loss_function_names_its_parameters():
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    found = hessian_trace(
        lambda batch: (batch * weight**2).sum(), torch.tensor([3.0, 5.0]), 2, parameters={"w": weight}
    )
    assert found.mean == pytest.approx(16.0)
    assert found.relative.value == pytest.approx(6 * 1 + 10 * 4)


def test_the_model_is_left_as_it_was():
    model = tiny.llama(attention_dropout=0.5)
    model.train()
    state = torch.random.get_rng_state()
    found = hessian_trace(model, {"input_ids": IDS}, 2)
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert any("dropout" in note for note in found.notes)
    assert any("math kernel" in note for note in found.notes)


def test_products_of_a_transformer_are_those_of_its_hessian():
    model, batch = small_llama(), small_batch()
    size = sum(parameter.numel() for parameter in model.parameters())
    vector = torch.ones(size, dtype=torch.float64)
    found = hvp(model, lambda: Objective(model).loss(batch)[0], vector)
    assert float(found.sum()) == pytest.approx(
        float(exact_hessian(_eager_loss(model, batch), [*model.parameters()]).sum()), rel=1e-3
    )
    parts = hvp(
        model,
        lambda: Objective(model).loss(batch)[0],
        vector.split([one.numel() for one in model.parameters()]),
    )
    torch.testing.assert_close(torch.cat([part.flatten() for part in parts]), found)
    with pytest.raises(UserError, match="no second derivative"):
        hvp(model, Objective(model).loss(batch)[0], vector)


def test_rows_that_share_positions_keep_them():
    shared = {"input_ids": IDS, "position_ids": torch.arange(8)[None]}
    assert [len(row["position_ids"]) for row in rows_of(shared)] == [1, 1, 1]


def test_flash_attention_is_replaced_for_the_call():
    model = tiny.llama()
    expected = hessian_trace(model, {"input_ids": IDS}, 2)
    model.config._attn_implementation = "flex_attention"
    found = hessian_trace(model, {"input_ids": IDS}, 2)
    assert found.mean == pytest.approx(expected.mean, rel=1e-3)
    assert model.config._attn_implementation == "flex_attention"
    assert "flex_attention has no second derivative" in found.notes[0]


def test_it_goes_on_until_the_error_is_small_enough():
    arrays = golden_arrays("16-flatness", CASES[1])
    model, batch, *_ = case(arrays)
    found = hessian_trace(model, batch, 8, tol=0.2)
    assert found.stderr <= 0.2 * found.mean
    assert found.estimate.samples % 16 == 0
    given_up = hessian_trace(model, batch, 8, tol=0.001, config=DrawConfig(most=16))
    assert given_up.estimate.samples == 16
    assert "above the 0.1% asked for" in given_up.notes[-1]
    fisher = fisher_trace(model, batch, tol=0.1)
    assert fisher.stderr <= 0.1 * fisher.mean


def test_the_hessian_is_an_operator_of_curvlinops():
    curvlinops = pytest.importorskip("curvlinops")
    arrays = golden_arrays("16-flatness", CASES[0])
    model, batch, exclude, used = case(arrays)
    operator = hessian_operator(model, [batch, batch], exclude)
    size = sum(one.numel() for one in used)
    expected = exact_hessian(model(**batch).loss, used)
    torch.testing.assert_close(
        operator @ torch.eye(size, dtype=torch.float64), expected, rtol=1e-8, atol=1e-12
    )
    torch.manual_seed(0)
    for estimate in (curvlinops.hutchpp_trace, curvlinops.xtrace):
        assert float(estimate(operator, 60)) == pytest.approx(float(arrays["trace_hessian"]), abs=0.2)


def test_without_curvlinops_the_operator_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "curvlinops._torch_base", None)
    with pytest.raises(UserError, match=r"pip install 'tokenry\[curvature\]'"):
        hessian_operator(small_llama(), small_batch())


def test_an_interrupted_estimate_goes_on(tmp_path):
    model, batches = small_llama(), [small_batch(1), small_batch(2)]
    whole = hessian_trace(model, batches, 6)
    seen = []

    def stop(draws, found):
        seen.append(draws)
        if draws == 4:
            raise KeyboardInterrupt

    config = DrawConfig(every=2, folder=tmp_path, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        hessian_trace(model, batches, 6, config=config)
    stored = read_json(tmp_path / "draws.json")
    assert stored["estimate"]["draws"] == len(stored["draws"]) == 4
    again = hessian_trace(model, batches, 6, config=DrawConfig(every=2, folder=tmp_path))
    assert again.mean == whole.mean
    assert seen == [2, 4]
    kept = DrawConfig(folder=tmp_path / "fisher")
    begun = fisher_trace(model, batches, sequences=2, config=kept)
    assert begun.estimate.samples == 2
    gone_on = fisher_trace(model, batches, sequences=5, config=kept)
    assert gone_on.mean == fisher_trace(model, batches, sequences=5).mean
    assert gone_on.relative is None


def test_an_estimate_that_goes_on_decides_by_the_batch_it_began_with(monkeypatch, tmp_path):
    model, batches, asked = small_llama(), [small_batch(1), small_batch(2)], []

    def pays(blocks, gradients, *rest):
        asked.append(float(gradients[0].detach().square().sum()))
        return True

    monkeypatch.setattr(trace, "_pays_apart", pays)
    begun = DrawConfig(every=1, folder=tmp_path)
    hessian_trace(model, batches, 1, config=begun)
    gone_on = hessian_trace(model, batches, 4, config=begun)
    assert gone_on.mean == hessian_trace(model, batches, 4).mean
    assert len(set(asked)) == 1
    assert len(asked) == 3


# --- bad input -----------------------------------------------------------------------------------------------------------------------


class Fused(torch.nn.Module):
    """Attention by a kernel that is called by its own name, past every switch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1, 1, 4, 8))

    def forward(self, rows):
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return attend(self.weight * rows, self.weight, self.weight)[0].sum()


def frozen():
    return tiny.llama().requires_grad_(False)


def diverged():
    model = tiny.llama()
    model.model.norm.weight.data.fill_(torch.nan)
    return model


NO_TARGETS = {"input_ids": IDS, "labels": torch.full_like(IDS, -100)}
BAD = [
    (lambda: hessian_trace(frozen(), {"input_ids": IDS}), "no trainable parameter"),
    (lambda: hessian_trace(lambda batch: torch.tensor(1.0), [0], parameters={"w": torch.ones(1, requires_grad=True)}), "does not require gradients"),
    (lambda: hessian_trace(lambda batch: batch, [0]), r"needs parameters=\{name: tensor\}"),
    (lambda: hessian_trace(tiny.llama(), NO_TARGETS), "every label is -100"),
    (lambda: fisher_trace(tiny.llama(), NO_TARGETS), "no batch with a target"),
    (lambda: hessian_trace(Fused(), torch.ones(1)), "no second derivative .*attn_implementation='eager'"),
    (lambda: hessian_trace(tiny.llama().half(), {"input_ids": IDS}), r"float16.*dtype='float32'"),
    (lambda: hessian_trace(tiny.llama().bfloat16(), {"input_ids": IDS}), r"bfloat16.*dtype='float32'"),
    (lambda: fisher_trace(tiny.llama().half(), {"input_ids": IDS}), r"float16.*dtype='float32'"),
    (lambda: hessian_trace(diverged(), {"input_ids": IDS}), "not finite"),
    (lambda: hessian_trace(ContextModel(nan_arrays()), {"input_ids": IDS % 6, "labels": IDS % 5}), "the loss is nan"),
    (lambda: fisher_trace(ContextModel(nan_arrays()), {"input_ids": IDS % 6, "labels": IDS % 5}), "the loss is nan"),
    (lambda: hessian_trace(tiny.llama(), []), "no batch with a target"),
    (lambda: top_hessian_eigenvalue(tiny.llama(), []), "no batch with a target"),
    (lambda: hessian_trace(tiny.llama(), {"input_ids": IDS}, include=("lora_",)), "no trainable parameter is left by include=.'lora_'."),
    (lambda: hessian_trace(tiny.llama(), {"input_ids": IDS}, distribution="cauchy"), "distribution must be one of rademacher, gaussian"),
    (lambda: hessian_trace(tiny.llama(), {"input_ids": IDS}, probes=0), "probes must be at least 1"),
    (lambda: hessian_trace(tiny.bert(BertForMaskedLM), {"input_ids": IDS}), "the batch has no labels"),
    (lambda: fisher_trace(tiny.bert(), {"input_ids": IDS, "labels": IDS}), "gives no logits for its labels|labels"),
    (lambda: fisher_trace(tiny.llama(), {"input_ids": IDS}, "truth"), "labels must be one of model, data, all"),
    (lambda: fisher_trace(tiny.llama(), {"input_ids": IDS}, "all", "sequence"), "it goes with per='token'"),
    (lambda: fisher_trace(tiny.llama(vocab_size=1200), {"input_ids": IDS}, "all"), "for at most 1000"),
    (lambda: DrawConfig(weighting="rows"), "weighting must be one of targets, batches"),
    (lambda: hvp([torch.ones(2, requires_grad=True)], lambda: 0, torch.ones(3)), "3 entries and the parameters have 2"),
]  # fmt: skip


def nan_arrays():
    return {name: torch.full_like(value.double(), torch.nan) for name, value in golden_arrays("16-flatness", CASES[0]).items() if value.is_floating_point()}  # fmt: skip


@pytest.mark.parametrize(("act", "words"), BAD)
def test_what_cannot_be_measured_is_refused_in_one_sentence(act, words):
    with pytest.raises(UserError, match=words):
        act()


def test_a_folder_of_other_draws_is_refused(tmp_path):
    hessian_trace(small_llama(), small_batch(), 1, config=DrawConfig(folder=tmp_path))
    with pytest.raises(UserError, match="holds draws of another model or with other settings"):
        hessian_trace(small_llama(), small_batch(), 1, "gaussian", config=DrawConfig(folder=tmp_path))
