"""Replaced-token detection against the released code of ELECTRA (google-research/electra), its random draws replayed."""

import pytest
import torch
from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

from tests.golden import golden_arrays, golden_json
from tests.tiny.pretraining import mask_tokenizer
from tokenry.pretraining import (
    ReplacedTokenConfig,
    ReplacedTokenPretrainer,
    generator_config,
    replaced_tokens,
    rtd_labels,
    rtd_loss,
    sample_replacements,
)
from tokenry.pretraining.masking import (
    corrupt,
    mask_at,
    most_predictions,
    prediction_counts,
    scatter_update,
)
from tokenry.pretraining.released_optimizer import ElectraAdamW, official_lr

SLUG = "23-electra"
BATCHES = ("dev-model.npz", "dev-corrupt.npz")
NEAR = {"rtol": 1e-4, "atol": 1e-6}


def masked_batch(arrays):
    counts = prediction_counts(
        arrays["input_mask"].sum(1), float(arrays["mask_prob"]), arrays["drawn_positions"].shape[1]
    )
    weights = (torch.arange(arrays["drawn_positions"].shape[1]) < counts[:, None]).float()
    drawn = arrays["drawn_positions"].long()
    return mask_at(arrays["input_ids"].long(), drawn, weights, arrays["u_mask085"], mask_id=4)


@pytest.mark.parametrize("name", BATCHES)
def test_masks_samples_and_labels_are_those_of_the_released_code(name):
    arrays = golden_arrays(SLUG, name)
    masked = masked_batch(arrays)
    for ours, theirs in zip(
        masked,
        ("masked_input_ids", "masked_lm_positions", "masked_lm_ids", "masked_lm_weights"),
        strict=True,
    ):
        assert torch.equal(ours, arrays[theirs].to(ours.dtype)), theirs
    sampled = sample_replacements(
        arrays["gen_logits"],
        float(arrays["temperature"]),
        masked.labels if arrays["disallow_correct"] else None,
        uniform=arrays["u_gumbel"],
    )
    assert torch.equal(sampled, arrays["sampled_ids"].long())
    ids = arrays["input_ids"].long()
    corrupted = corrupt(ids, masked, sampled, official_duplicates=True)
    assert torch.equal(corrupted, arrays["corrupted_ids"].long())
    assert torch.equal(rtd_labels(ids, corrupted, masked.selected), arrays["rtd_labels"].long())


@pytest.mark.parametrize("name", BATCHES)
def test_losses_of_given_logits_are_those_of_the_released_code(name):
    arrays = golden_arrays(SLUG, name)
    found = rtd_loss(
        arrays["gen_logits"],
        arrays["masked_lm_ids"],
        arrays["masked_lm_weights"],
        arrays["disc_probs"].double().logit(),
        arrays["rtd_labels"],
        arrays["input_mask"],
    )
    for key in ("gen_per_token", "gen_loss", "disc_loss", "disc_per_example", "total_loss"):
        torch.testing.assert_close(found[key], arrays[key], **NEAR)
    real = arrays["input_mask"].bool()
    assert torch.equal(found["disc_preds"][real], arrays["disc_preds"][real].long())


def golden_models(arrays):
    _, length, vocabulary, _, hidden, layers, embedding, gen_hidden, gen_heads = arrays["cfg"].tolist()
    same = {
        "vocab_size": vocabulary,
        "embedding_size": embedding,
        "num_hidden_layers": layers,
        "max_position_embeddings": length,
    }
    ours = ElectraConfig(
        hidden_size=hidden, intermediate_size=4 * hidden, num_attention_heads=2 if hidden >= 32 else 1, **same
    )
    theirs = ElectraConfig(
        hidden_size=gen_hidden, intermediate_size=4 * gen_hidden, num_attention_heads=gen_heads, **same
    )
    generator, discriminator = ElectraForMaskedLM(theirs), ElectraForPreTraining(ours)
    for model, scope in ((generator, "generator"), (discriminator, "electra")):
        own = dict(model.named_parameters())
        read = {
            torch_name(key[2:], scope): (key, value) for key, value in arrays.items() if key.startswith("W|")
        }
        assert own.keys() <= read.keys()
        for name, weight in own.items():
            key, value = read[name]
            weight.data.copy_(value.T if key.endswith("kernel") else value)
    return generator.eval(), discriminator.eval()


def torch_name(name, scope):
    """The name in transformers of a weight in TensorFlow, in the model of this scope."""
    parts = (
        name.replace("layer_", "layer/")
        .replace("generator_predictions/output_bias", "generator_lm_head/bias")
        .split("/")
    )
    if parts[0] in ("electra", "generator") and parts[1] != "embeddings":
        parts[0] = "electra" if parts[0] == scope else "of the other"
    leaf = {"kernel": "weight", "gamma": "weight", "beta": "bias"}.get(parts[-1], parts[-1])
    leaf = f"{leaf}.weight" if leaf.endswith("_embeddings") else leaf
    return ".".join([*parts[:-1], leaf]).replace("dense_1", "dense_prediction")


def test_the_pretrainer_has_losses_and_gradients_of_the_released_code(monkeypatch):
    arrays = golden_arrays(SLUG, "dev-model.npz")
    model = ReplacedTokenPretrainer(
        *golden_models(arrays),
        mask_tokenizer(size=arrays["cfg"][2].item()),
        config=ReplacedTokenConfig(official_duplicates=True),
    ).eval()
    masked = masked_batch(arrays)
    draws = arrays["sampled_ids"].long()[masked.weights > 0]
    monkeypatch.setattr(
        model, "_masked", lambda *_: (masked, torch.zeros(len(masked.labels), dtype=torch.long))
    )
    monkeypatch.setattr(replaced_tokens, "sample_at", lambda *_: draws)
    found = model(
        arrays["input_ids"].long(), arrays["input_mask"].long(), token_type_ids=arrays["segment_ids"].long()
    )
    torch.testing.assert_close(found.generator_loss, arrays["gen_loss"], **NEAR)
    torch.testing.assert_close(found.discriminator_loss, arrays["disc_loss"], **NEAR)
    torch.testing.assert_close(found.loss, arrays["total_loss"], **NEAR)
    real = arrays["input_mask"].bool()
    torch.testing.assert_close(found.disc_logits.sigmoid()[real], arrays["disc_probs"][real], **NEAR)
    found.loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(norm, arrays["grad_global_norm"], rtol=1e-3, atol=0)
    ours = {
        "electra/embeddings/word_embeddings": model.discriminator.embeddings.word_embeddings.weight,
        **{
            f"generator_predictions/{n}/{k}": p
            for n, k, p in predictions(model.generator.generator_predictions)
        },
        "generator_predictions/output_bias": model.generator.generator_lm_head.bias,
        **{f"discriminator_predictions/{n}/{k}": p for n, k, p in predictions(model.head)},
    }
    checked = {key[2:] for key in arrays if key.startswith("G|")}
    assert checked == set(ours)
    for name in checked:
        theirs = arrays[f"G|{name}"]
        grad = ours[name].grad.T if name.endswith("kernel") else ours[name].grad
        if name.endswith("word_embeddings"):  # in transformers no text trains the row of the padding token
            grad, theirs = grad[1:], theirs[1:]
        torch.testing.assert_close(
            grad, theirs, rtol=2e-3, atol=1e-4, msg=lambda words, name=name: f"{name}: {words}"
        )


def predictions(head):
    names = {"weight": "kernel", "bias": "bias"}
    for name, parameter in head.named_parameters():
        layer, _, kind = name.rpartition(".")
        own = {"weight": "gamma", "bias": "beta"} if "Norm" in layer else names
        yield layer.replace("dense_prediction", "dense_1"), own[kind], parameter


def test_scattered_updates_are_those_of_the_released_code():
    arrays = golden_arrays(SLUG, "dev-scatter.npz")
    positions = arrays["positions"].long()
    out, mask = scatter_update(arrays["seq"], arrays["updates"], positions)
    assert torch.equal(out, arrays["out"])
    assert torch.equal(mask, arrays["mask"].long())
    floats, mask = scatter_update(arrays["fseq"], arrays["fupdates"], positions)
    torch.testing.assert_close(floats, arrays["fout"], rtol=1e-6, atol=1e-7)
    assert torch.equal(mask, arrays["fmask"].long())
    gathered = arrays["fseq"].gather(1, positions[..., None].expand(-1, -1, arrays["fseq"].shape[2]))
    torch.testing.assert_close(gathered, arrays["gathered"], rtol=1e-6, atol=0)


def test_as_many_tokens_are_predicted_as_in_the_released_code():
    for key, expected in golden_json(SLUG, "dev-numpredict.json").items():
        p, length = float(key.split("|")[0]), int(key.split("|")[1])
        assert most_predictions(length, p) == expected["N"]
        counts = prediction_counts(torch.arange(1, length + 1), p, expected["N"])
        assert counts.tolist() == expected["num_to_predict"]


def test_generators_have_the_sizes_of_the_released_code():
    for size, fraction in (("small", 1 / 4), ("base", 1 / 3), ("large", 1 / 4)):
        expected = golden_json(SLUG, "dev-sizes.json")[size]
        disc, gen = expected["disc"], expected["gen"]
        config = generator_config(
            ElectraConfig(
                hidden_size=disc["hidden"],
                num_hidden_layers=disc["layers"],
                num_attention_heads=disc["heads"],
                intermediate_size=disc["ffn"],
                embedding_size=disc["embedding"],
            ),
            fraction,
        )
        found = (
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.intermediate_size,
        )
        assert found == (gen["hidden"], gen["layers"], gen["heads"], gen["ffn"])
        assert config.embedding_size == disc["embedding"]
        assert most_predictions(expected["seq"], expected["mask_prob"]) == expected["max_predictions"]


def test_the_optimizer_takes_the_steps_of_the_released_code():
    arrays = golden_arrays(SLUG, "dev-optim.npz")
    rate, total, warmup, power, decay = arrays["hyper"].tolist()
    assert power == 1
    kernel, bias = (torch.nn.Parameter(arrays[name].clone()) for name in ("kernel0", "bias0"))
    optimizer = ElectraAdamW(
        [{"params": [kernel], "weight_decay": decay}, {"params": [bias], "weight_decay": 0.0}], lr=rate
    )
    for step, inputs in enumerate(arrays["x"]):
        told = official_lr(step, rate, int(total), int(warmup))
        torch.testing.assert_close(torch.tensor(told), arrays["lr"][step], rtol=1e-5, atol=0)
        for group in optimizer.param_groups:  # the graph has advanced its step before it reads the rate
            group["lr"] = official_lr(step + 1, rate, int(total), int(warmup))
        loss = (inputs @ kernel + bias).square().sum()
        torch.testing.assert_close(loss, arrays["losses"][step], **NEAR)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([kernel, bias], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        torch.testing.assert_close(kernel, arrays["kernels"][step], **NEAR)
        torch.testing.assert_close(bias, arrays["biases"][step], **NEAR)
