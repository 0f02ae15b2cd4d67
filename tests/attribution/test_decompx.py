"""GlobEnc and DecompX: the authors' numbers in float64, sums and padding on every architecture, and what is refused."""

import json
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from tests import tiny
from tests.golden import golden_arrays
from tests.tiny.models import made
from tokenry.attribution import DecompX, attribute, decompx, decompx_rollout, globenc
from tokenry.attribution.decompx import share_bias
from tokenry.attribution.globenc import min_max
from tokenry.core.errors import UserError

NEAR = {"rtol": 1e-6, "atol": 1e-8}
VARIANTS = {
    "default": {}, "norm": {"bias": "norm"}, "equal": {"bias": "equal"}, "abssim": {"bias": "abssim"}, "cls": {"bias": "cls"},
    "dot": {"bias": "dot"}, "gelu_la": {"ffn": "linear"}, "relu": {"ffn": "relu"}, "tanh_la": {"head": "linear"},
    "nobias": {"biases": False}, "noffn": {"mlp": False}, "noln1": {"first_norm": False}, "noln2": {"second_norm": False},
    "biastoken_none": {"bias": "token"}, "biastoken_absdot": {"bias": "token-absdot"},
}  # fmt: skip
SUM_TO_THE_LOGIT = ("default", "norm", "equal", "abssim", "cls", "dot", "gelu_la", "tanh_la", "biastoken_none", "biastoken_absdot")  # fmt: skip
FILES = {
    "bert": (BertConfig, BertForSequenceClassification),
    "bert-pad": (BertConfig, BertForSequenceClassification),
    "roberta": (RobertaConfig, RobertaForSequenceClassification),
}


def arrays_of(file):
    return golden_arrays("19-frugalprompt", f"dev-attr-{file}.npz")


def classifier(file, arrays, dtype=torch.float64):
    config, kind = FILES[file]
    model = kind(config(**json.loads(bytes(arrays["config_json"].numpy()))))
    model.load_state_dict(
        {key[2:]: value for key, value in arrays.items() if key.startswith("w/")}, strict=False
    )
    return model.to(dtype).eval()


def inputs(arrays):
    mask = arrays.get("attention_mask")
    return arrays["input_ids"], torch.ones_like(arrays["input_ids"]) if mask is None else mask


CASES = [(file, variant) for file in FILES for variant in VARIANTS if f"decompx/{variant}/classifier" in arrays_of(file)]  # fmt: skip


@pytest.mark.parametrize(("file", "variant"), CASES)
def test_contributions_are_those_of_the_authors(file, variant):
    arrays = arrays_of(file)
    found = decompx(classifier(file, arrays), *inputs(arrays), DecompX(**VARIANTS[variant]))
    near = {"rtol": 1e-5, "atol": 1e-8} if variant == "dot" else NEAR
    torch.testing.assert_close(found.logits, arrays["logits"], **NEAR)
    torch.testing.assert_close(found.classifier, arrays[f"decompx/{variant}/classifier"], **near)
    for name in ("pooler", "aggregated_cls"):
        if f"decompx/{variant}/{name}" in arrays:
            torch.testing.assert_close(getattr(found, name), arrays[f"decompx/{variant}/{name}"], **near)
    is_sum = torch.allclose(found.classifier.sum(1), found.logits, atol=1e-9)
    assert is_sum is (variant in SUM_TO_THE_LOGIT)


@pytest.mark.parametrize(("file", "variant"), [case for case in CASES if case[1] != "dot"])
def test_contributions_in_float32(file, variant):
    arrays = arrays_of(file)
    found = decompx(classifier(file, arrays, torch.float32), *inputs(arrays), DecompX(**VARIANTS[variant]))
    expected = arrays[f"decompx/{variant}/classifier"].float()
    torch.testing.assert_close(found.classifier, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("file", ["bert", "bert-pad"])
def test_every_part_of_every_layer_is_that_of_the_authors(file):
    arrays = arrays_of(file)
    model = classifier(file, arrays)
    found = decompx(model, *inputs(arrays), all_positions=True)
    torch.testing.assert_close(found.aggregated, arrays["decompx/default/aggregated"], **NEAR)
    for name, norms in found.norms.items():
        torch.testing.assert_close(norms, arrays[f"decompx/layers/{name}_norm"], **NEAR)
    torch.testing.assert_close(
        decompx_rollout(model, *inputs(arrays)), arrays["decompx/rollout/aggregated"], **NEAR
    )


@pytest.mark.parametrize("file", ["bert", "bert-pad"])
def test_globenc_is_that_of_the_authors(file):
    arrays = arrays_of(file)
    model = classifier(file, arrays)
    found = globenc(model, *inputs(arrays))
    torch.testing.assert_close(found.heads, arrays["globenc/attn_head"], **NEAR)
    for stage, norms in found.norms.items():
        torch.testing.assert_close(norms, arrays[f"globenc/{stage}"], **NEAR)
        torch.testing.assert_close(found.ratios[stage], arrays[f"globenc/ratio_{stage}"], **NEAR)
    torch.testing.assert_close(found.rollouts, arrays["globenc/rollout_layers"], **NEAR)
    torch.testing.assert_close(found.attribution, arrays["globenc/rollout_masked"], **NEAR)
    in_float32 = globenc(classifier(file, arrays, torch.float32), *inputs(arrays))
    torch.testing.assert_close(
        in_float32.attribution, arrays["globenc/rollout_masked"].float(), rtol=1e-4, atol=2e-4
    )


@pytest.mark.parametrize("file", ["bert", "bert-pad"])
def test_scores_for_prompts_are_those_of_the_notebooks(file):
    arrays = arrays_of(file)
    model, (ids, mask) = classifier(file, arrays), inputs(arrays)
    rows, contributions = globenc(model, ids, mask).rollouts[-1][:, 0], decompx(model, ids, mask).classifier
    for row, length in enumerate(mask.sum(1).tolist()):
        torch.testing.assert_close(
            min_max(rows[row, :length]), arrays[f"frugal/globenc_score_b{row}"], **NEAR
        )
        torch.testing.assert_close(
            min_max(contributions[row, :length, 0]), arrays[f"frugal/decompx_score_b{row}"], **NEAR
        )


# --- every architecture --------------------------------------------------------------------------------------------------------------

SIZES = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "num_labels": 3}  # fmt: skip
MODELS = {
    "bert": (BertForSequenceClassification, BertConfig(**SIZES)),
    "roberta": (RobertaForSequenceClassification, RobertaConfig(**SIZES, pad_token_id=1)),
    "xlm-r": (XLMRobertaForSequenceClassification, XLMRobertaConfig(**SIZES, pad_token_id=1)),
    "electra": (ElectraForSequenceClassification, ElectraConfig(**SIZES, embedding_size=8)),
}


@pytest.mark.parametrize(
    ("method", "forwards"), [("globenc", 1), ("decompx", 1), ("decompx:method=linear", 2)]
)
@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_texts_of_a_batch_are_read_together_and_score_as_alone(architecture, method, forwards):
    model, read = made(*MODELS[architecture]), []
    model.register_forward_hook(lambda *_: read.append(1))
    ids = torch.tensor([[5, 9, 12, 7, 20, 21], [30, 31, 32, 1, 1, 1], [8, 40, 41, 42, 1, 1]])
    mask = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]])
    together = attribute(model, ids, None, method, attention_mask=mask).scores
    assert len(read) == forwards
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = attribute(model, ids[row : row + 1, :length], None, method).scores[0]
        torch.testing.assert_close(together[row, :length], alone, rtol=1e-4, atol=1e-5)


def test_parts_of_many_texts_are_made_for_as_many_at_once_as_fit(monkeypatch):
    model, ids = made(*MODELS["bert"]), torch.randint(2, 60, (5, 6))
    together = attribute(model, ids, None, "decompx").scores
    module = import_module("tokenry.attribution.decompx")
    monkeypatch.setattr(module, "_AT_ONCE", 2 * 6**2 * 16)
    monkeypatch.setattr(module, "_IN_CACHE", 1)
    torch.testing.assert_close(attribute(model, ids, None, "decompx").scores, together, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", MODELS)
def test_contributions_sum_to_the_logit_and_padding_changes_nothing(architecture, dtype):
    model = made(*MODELS[architecture]).to(dtype)
    ids = torch.tensor([[5, 9, 12, 7, 20, 21], [30, 31, 32, 1, 1, 1]])
    mask = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])
    found = decompx(model, ids, mask)
    torch.testing.assert_close(found.classifier.sum(1), found.logits, rtol=0, atol=1e-5)
    own = model(input_ids=ids, attention_mask=mask).logits.float()
    torch.testing.assert_close(found.logits, own, rtol=0, atol=1e-5 if dtype == torch.float32 else 3e-2)
    assert float(found.classifier[1, 3:].abs().max()) == 0
    alone = decompx(model, ids[1:, :3])
    near = 1e-5 if dtype == torch.float32 else 3e-3
    torch.testing.assert_close(found.classifier[1, :3], alone.classifier[0], rtol=0, atol=near)
    torch.testing.assert_close(globenc(model, ids, mask).scores[1, :3], globenc(model, ids[1:, :3]).scores[0], rtol=0, atol=10 * near)  # fmt: skip


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 99), kind=st.sampled_from(["absdot", "norm", "equal", "abssim", "cls"]))
def test_a_shared_bias_is_the_bias(seed, kind):
    draw = torch.Generator().manual_seed(seed)
    parts, bias = torch.randn(2, 3, 4, generator=draw).double(), torch.randn(4, generator=draw).double()
    shared = share_bias(parts, bias, kind)
    torch.testing.assert_close(shared.sum(1), parts.sum(1) + bias)


def test_equal_scores_are_in_the_middle():
    assert min_max(torch.tensor([2.0, 2.0])).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("method", ["globenc", "decompx"])
def test_through_the_one_interface(method):
    model = made(*MODELS["bert"]).train()
    ids = torch.tensor([[5, 9, 12, 7], [0, 0, 30, 31]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    found = attribute(model, ids, method=method, attention_mask=mask)
    assert found.scores.isnan().tolist() == (mask == 0).tolist()
    assert model.training
    if method == "decompx":
        expected = decompx(model, ids[:1])
        label = int(expected.logits.argmax())
        torch.testing.assert_close(found.scores[0], expected.classifier[0, :, label])
        other = attribute(model, ids[:1], [(label + 1) % 3], method).scores[0]
        torch.testing.assert_close(other, expected.classifier[0, :, (label + 1) % 3])


@pytest.mark.parametrize("method", ["globenc", "decompx"])
@pytest.mark.parametrize(
    ("model", "ids", "words"),
    [
        (tiny.llama(), torch.tensor([[5, 9]]), "takes apart encoder classifiers whose norms follow the residual"),
        (tiny.bert(), torch.tensor([[5, 9]]), "got BertModel"),
        (made(*MODELS["roberta"]), torch.ones(1, 511, dtype=torch.long), "the texts have 511 tokens, and the model reads 1 to 510"),
        (lambda ids: torch.ones(len(ids)), torch.tensor([[5, 9]]), ", got a function: use reagent"),
    ],
)  # fmt: skip
def test_other_models_and_too_long_texts_are_refused(method, model, ids, words):
    with pytest.raises(UserError) as refused:
        attribute(model, ids, method=method)
    assert words in str(refused.value)


def test_unknown_options_and_classes_are_refused():
    with pytest.raises(UserError, match="bias must be one of absdot"):
        DecompX(bias="mean")
    with pytest.raises(UserError, match="class 3 is out of range: the model has 0 to 2"):
        attribute(made(*MODELS["bert"]), torch.tensor([[5, 9]]), [3], "decompx")
    with pytest.raises(UserError, match="head=linear is of tanh"):
        decompx(made(*MODELS["electra"]), torch.tensor([[5, 9]]), config=DecompX(head="linear"))
