"""The authors' numbers (tests/golden/01-sstoken/GOLDEN.md) through the public functions and classes."""

import json

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.golden import golden
from tokenry.core.tensors.alignment import learnable_tokens, prompt_tokens, segment_ids
from tokenry.finetuning import (
    Signals,
    SSToken,
    moving_average,
    random_token_labels,
    retrospective_excess_loss,
    rho1_mask,
    select_tokens,
    sstoken_score,
    token_cleaning_labels,
)
from tokenry.finetuning.forward import ReadSignals, WeighedLoss, add_token_loss

GOLDEN = golden("01-sstoken")
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def _load(name):
    return {key: torch.tensor(value) for key, value in np.load(GOLDEN / name).items()}


def _nll(logits, labels, tokens):
    nll = torch.full(labels.shape, float("nan"), dtype=logits.dtype)
    log_probabilities = logits.log_softmax(-1)
    rows, positions = tokens.nonzero(as_tuple=True)
    nll[rows, positions] = -log_probabilities[rows, positions - 1, labels[rows, positions]]
    return nll


def _prompt_mass(attention, labels, segments):
    prompt, learnable = prompt_tokens(labels, segments), learnable_tokens(labels, segments)
    return (attention * prompt[:, None, :]).sum(-1).masked_fill(~learnable, float("nan"))


def test_single_samples_are_scored_and_selected_as_published():
    data = _load("dev-select-single.npz")
    for case in range(int(data["n_cases"])):
        c = {
            key.removeprefix(f"c{case}_"): value for key, value in data.items() if key.startswith(f"c{case}_")
        }
        labels = c["labels"].long()[None]
        segments = segment_ids(labels)
        learnable = learnable_tokens(labels, segments)
        nll = _nll(c["logits"][None], labels, learnable)
        rel = retrospective_excess_loss(c["ref_loss"][None], nll)
        mass = _prompt_mass(c["attn"][None], labels, segments)
        score = sstoken_score(rel, mass, learnable, segments, float(c["gamma"]))
        kept = select_tokens(score, learnable, segments, float(c["rho"]))
        assert torch.equal(torch.where(kept, labels, -100)[0], c["new_labels"].long()), case
        if "score" in c:
            torch.testing.assert_close(rel[learnable], c["rel"], rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(mass[learnable], c["attn_mass"], **CLOSE)
            # rel itself is rounded; where all are equal only the epsilon's scale of noise is left
            torch.testing.assert_close(score[learnable], c["score"], rtol=1e-9, atol=1e-7)
            assert int(kept.sum()) == int(c["k"])


def test_a_padded_batch_is_selected_and_reduced_as_published():
    data = _load("dev-batch.npz")
    ids, labels = data["input_ids"].long(), data["labels"].long()
    segments = segment_ids(ids, data["attention_mask"].long())
    learnable = learnable_tokens(labels, segments)
    nll = _nll(data["logits"], labels, learnable)
    mass = _prompt_mass(data["attn"].mean(1), labels, segments)
    signals = Signals(
        labels,
        segments,
        {"nll": nll, "history_nll": data["history_loss"], "prompt_attention": mass},
        progress=1.0,
    )
    options = {"share": float(data["rho"]), "balance": float(data["gamma"])}
    kept = SSToken(**options).choose(signals)
    assert torch.equal(torch.where(kept, labels, -100), data["new_labels"].long())
    for reduction, expected in [
        ("token", "loss_token_mean"),
        ("sample", "loss_sample_mean"),
        ("paper", "loss_paper"),
    ]:
        weighing = SSToken(**options, reduction=reduction)
        weights = weighing.reduce(weighing.weigh(signals), signals)
        loss = (weights * nll.nan_to_num(0.0)).sum() / weighing.weight_sum(signals)
        torch.testing.assert_close(loss.double(), data[expected].double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["dev-multiturn.npz", "dev-packed.npz"])
def test_every_sample_is_ranked_by_its_own_response_mask(name):
    data = _load(name)
    prefixes = sorted(
        {key.split("_")[0] + "_" for key in data if key.startswith("c") and key[1].isdigit()}
    ) or [""]
    for prefix in prefixes:
        c = {key.removeprefix(prefix): value for key, value in data.items() if key.startswith(prefix)}
        labels = c["labels"].long()[None]
        segments = c["segment_ids"].long()[None]
        learnable = learnable_tokens(labels, segments)
        nll = _nll(c["logits"][None], labels, learnable)
        mass = _prompt_mass(c["attn"].mean(0)[None], labels, segments)
        torch.testing.assert_close(mass[learnable], c["attn_mass"][learnable[0]], **CLOSE)
        signals = Signals(
            labels,
            segments,
            {"nll": nll, "history_nll": c["history_loss"][None], "prompt_attention": mass},
            progress=1.0,
        )
        weighing = SSToken(share=float(c["rho"]), balance=float(c["gamma"]))
        torch.testing.assert_close(
            weighing.score(signals)[0], c["score"], rtol=1e-9, atol=1e-9, equal_nan=True
        )
        kept = weighing.choose(signals)
        assert torch.equal(torch.where(kept, labels, -100)[0], c["new_labels"].long())
        loss = (kept * nll.nan_to_num(0.0)).sum() / kept.sum()
        torch.testing.assert_close(loss, c["loss_token_mean"].double(), **CLOSE)


def test_a_whole_step_on_a_llama_is_the_published_one():
    data = _load("dev-e2e.npz")
    config = LlamaConfig(
        **json.loads((GOLDEN / "dev-e2e-config.json").read_text()), attn_implementation="sdpa"
    )
    models = {}
    for name in ("his", "cur"):
        state = {k.removeprefix(f"{name}."): v.double() for k, v in data.items() if k.startswith(f"{name}.")}
        model = LlamaForCausalLM(config).double()
        model.load_state_dict(state, strict=False)
        add_token_loss(model)
        models[name] = model
    ids, mask, labels = (data[key].long() for key in ("input_ids", "attention_mask", "labels"))
    segments = segment_ids(ids, mask)
    known = Signals(labels, segments, progress=1.0)
    history = ReadSignals(known)
    models["his"](input_ids=ids, attention_mask=mask, token_loss=history)
    tokens = known.learnable
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(history.values["nll"][tokens], data["history_loss"][tokens], **close)
    weighing = SSToken(share=float(data["rho"]), balance=float(data["gamma"]), layers=int(data["layer"]))
    weighed = WeighedLoss(weighing, known.with_values(history_nll=history.values["nll"]))
    total = models["cur"](input_ids=ids, attention_mask=mask, token_loss=weighed).loss
    loss = total / weighing.weight_sum(known)
    loss.backward()
    torch.testing.assert_close(weighed.nll[tokens], data["token_loss"][tokens], **close)
    torch.testing.assert_close(
        weighed.signals["prompt_attention"][tokens].double(), data["attn_mass"][tokens], **close
    )
    assert torch.equal(torch.where(weighed.weights > 0, labels, -100), data["new_labels"].long())
    torch.testing.assert_close(loss, data["loss"].double(), rtol=1e-5, atol=0)
    current = models["cur"]
    torch.testing.assert_close(
        current.model.layers[0].mlp.up_proj.weight.grad, data["grad_up0"].double(), **close
    )
    torch.testing.assert_close(current.lm_head.weight.grad, data["grad_lm_head"].double(), **close)


@pytest.mark.parametrize("name", ["dev-tokencleaning.json", "dev-tokencleaning-ties.json"])
def test_token_cleaning_and_random_labels_are_the_released_ones(name):
    data = json.loads((GOLDEN / name).read_text())
    labels, base, reference = data["labels"], data["base_loss"], data["reference_loss"]
    for result in data["results"]:
        share = result["data_prop"]
        assert token_cleaning_labels(labels, base, reference, share) == result["global_labels"]
        assert (
            token_cleaning_labels(labels, base, reference, share, scope="sample") == result["sample_labels"]
        )
        assert random_token_labels(labels, share, seed=42) == result["random_labels_seed42"]


def test_rho1_selects_over_the_batch_as_computed_independently():
    data = _load("dev-rho1.npz")
    labels, valid = data["labels"].long(), data["valid"].bool()
    nll = _nll(data["logits"], labels, valid)
    torch.testing.assert_close(nll[valid], data["token_loss"][valid], **CLOSE)
    for n in range(int(data["n_props"])):
        kept = rho1_mask(nll, data["ref_loss"], valid, float(data[f"p{n}_prop"]))
        assert torch.equal(kept, data[f"p{n}_mask"].bool())
        torch.testing.assert_close(nll[kept].mean(), data[f"p{n}_loss"].double(), **CLOSE)


def test_the_moving_average_is_the_published_one():
    data = _load("dev-ema.npz")
    names = [key.removeprefix("his0_") for key in data if key.startswith("his0_")]
    for name in names:
        average = data[f"his0_{name}"].clone()
        for step in range(1, int(data["T"]) + 1):
            average = moving_average(average, data[f"theta{step}_{name}"], float(data["alpha"]))
            torch.testing.assert_close(average, data[f"his{step}_{name}"], **CLOSE)
