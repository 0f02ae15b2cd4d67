"""Generator and discriminator as one model: every kind of encoder, what they share, what holds for any batch, what is refused."""

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForMaskedLM, ElectraForPreTraining

from tests.tiny.pretraining import KINDS, encoder_config, mask_tokenizer, pretrainer, text_rows
from tokenry.core.errors import UserError
from tokenry.core.tensors.output_head import output_head
from tokenry.pretraining import ReplacedTokenConfig, ReplacedTokenPretrainer, generator_config, rtd_loss
from tokenry.pretraining.replaced_token_metrics import figures


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return pretrainer(request.param)


def logits_of(model, ids, mask):
    """What the generator says by its own forward, and the encoder under its head."""
    hidden = model.discriminator(input_ids=ids, attention_mask=mask).last_hidden_state
    return model.head(hidden)


def test_the_loss_of_every_kind_of_encoder_is_that_of_all_logits(model):
    rows = text_rows()
    found = model(**rows, number=3)
    masked, _ = model._masked(rows["input_ids"], rows["attention_mask"], 3)
    whole = model.generator(input_ids=masked.input_ids, attention_mask=rows["attention_mask"]).logits
    at = masked.positions[..., None].expand(-1, -1, whole.shape[-1])
    expected = rtd_loss(
        whole.gather(1, at),
        masked.labels,
        masked.weights,
        logits_of(model, found.corrupted_ids, rows["attention_mask"]),
        found.rtd_labels,
        rows["attention_mask"],
    )
    torch.testing.assert_close(found.loss, expected["total_loss"])
    torch.testing.assert_close(found.generator_loss, expected["gen_loss"])
    assert torch.equal(found.corrupted_ids != rows["input_ids"], found.rtd_labels.bool())


def test_padding_and_the_order_of_rows_change_nothing(model):
    whole = model(**text_rows(), number=3)
    left = model(**text_rows(left=True), number=3)
    torch.testing.assert_close(left.loss, whole.loss)
    assert torch.equal(left.rtd_labels.sum(1), whole.rtd_labels.sum(1))
    order = torch.tensor([2, 0, 1])
    wider = {name: nn.functional.pad(value[order], (0, 4)) for name, value in text_rows().items()}
    again = model(**wider, number=3)
    torch.testing.assert_close(again.loss, whole.loss)
    assert torch.equal(again.corrupted_ids[:, :14], whole.corrupted_ids[order])
    assert not torch.equal(model(**text_rows(), number=4).corrupted_ids, whole.corrupted_ids)


def test_rows_of_every_odd_kind_are_read(model):
    ids = torch.tensor([[2, 3, 0, 0], [0, 0, 0, 0], [7, 0, 0, 0], [2, 7, 8, 3]])
    found = model(ids, (ids > 0).long(), number=0)
    assert found.loss.isfinite()
    one = model(torch.tensor([[7]]), number=0)
    assert one.loss.isfinite()
    nothing = model(torch.tensor([[2, 3]]), number=0)
    nothing.loss.backward()
    assert float(nothing.generator_loss) == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.zero_grad()


def test_the_encoder_is_saved_alone(model, tmp_path):
    model.discriminator_only().save_pretrained(tmp_path)
    loaded, rows = AutoModel.from_pretrained(tmp_path).eval(), text_rows()
    torch.testing.assert_close(
        loaded(**rows).last_hidden_state, model.discriminator(**rows).last_hidden_state
    )


def test_the_generator_meets_the_vocabulary_at_masked_tokens_alone(monkeypatch):
    model, rows = pretrainer("bert"), []
    _, head = output_head(model.generator).split(torch.zeros(1, model.generator.config.hidden_size))
    monkeypatch.setattr(type(head), "matrix_logits", seen(type(head).matrix_logits, rows))
    batch = text_rows()
    model(**batch, number=0)
    assert sum(rows) == model.totals(**batch)[0] < batch["attention_mask"].sum()


def seen(logits, rows):
    def counted(self, given, *rest):
        rows.append(len(given))
        return logits(self, given, *rest)

    return counted


@pytest.mark.parametrize("tie", ["embeddings", "all", "disentangled"])
@pytest.mark.parametrize("kind", ["electra", "modernbert"])
def test_what_is_shared_is_one_parameter(kind, tie):
    model = pretrainer(kind, 1.0, tie)
    table = model.discriminator.get_input_embeddings()
    own = model.generator.base_model.get_input_embeddings()
    assert (own.weight is table.weight) == (tie != "disentangled")
    assert model.generator.get_output_embeddings().weight is own.weight
    apart = pretrainer(kind, 1.0, "none")
    numbers = [sum(p.numel() for p in each.parameters()) for each in (model, apart)]
    assert numbers[0] < numbers[1] if tie != "disentangled" else numbers[0] <= numbers[1]
    if tie == "all":
        assert model.generator.base_model is model.discriminator


def test_a_narrower_generator_reads_the_table_through_a_projection():
    model = pretrainer("roberta", 0.5)
    table = model.discriminator.get_input_embeddings().weight
    whole = model.generator.get_output_embeddings()[-1]
    assert whole.weight is table
    assert model.generator.roberta.embeddings.word_embeddings.weight is table
    model(**text_rows(), number=0).loss.backward()
    assert model.generator.roberta.embeddings.project.weight.grad.abs().sum() > 0


def test_disentangled_sharing_lets_the_generator_alone_train_its_table():
    model = pretrainer("electra", 1.0, "disentangled")
    own, added = (
        model.generator.electra.embeddings.word_embeddings,
        model.discriminator.embeddings.word_embeddings,
    )
    output = model(**text_rows(), number=0)
    (output.loss - output.loss.detach()).backward()
    by_both = own.weight.grad.clone()
    model.zero_grad()
    silent = pretrainer("electra", 1.0, "disentangled", rtd=ReplacedTokenConfig(disc_weight=1e-9))
    silent(**text_rows(), number=0).loss.backward()
    torch.testing.assert_close(by_both, silent.generator.electra.embeddings.word_embeddings.weight.grad)
    with torch.no_grad():
        added.weight += 0.5
    alone = model.discriminator_only()
    rows = text_rows()
    torch.testing.assert_close(alone(**rows).last_hidden_state, model.discriminator(**rows).last_hidden_state)
    assert type(alone.get_input_embeddings()) is nn.Embedding


def test_no_gradient_passes_through_the_samples():
    model = pretrainer(tie="none")
    output = model(**text_rows(), number=0)
    (output.loss - 0).backward()
    whole = {name: p.grad.clone() for name, p in model.generator.named_parameters()}
    light = pretrainer(tie="none", rtd=ReplacedTokenConfig(disc_weight=1e-9))
    light(**text_rows(), number=0).loss.backward()
    for name, parameter in light.generator.named_parameters():
        torch.testing.assert_close(whole[name], parameter.grad)


def test_the_discriminator_may_learn_from_masked_tokens_alone():
    model = pretrainer(rtd=ReplacedTokenConfig(all_tokens=False))
    rows = text_rows()
    found = model(**rows, number=0)
    assert torch.equal(*model.totals(**rows))
    masked, _ = model._masked(rows["input_ids"], rows["attention_mask"], 0)
    losses = nn.functional.binary_cross_entropy_with_logits(
        found.disc_logits[masked.selected], found.rtd_labels[masked.selected].float()
    )
    torch.testing.assert_close(found.discriminator_loss, losses)


def test_bfloat16_gives_nearly_the_same():
    model = pretrainer()
    exact = model(**text_rows(), number=0).loss
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(**text_rows(), number=0)
    assert mixed.loss.dtype == torch.float32
    torch.testing.assert_close(mixed.loss, exact, rtol=2e-2, atol=0)
    half = pretrainer().to(torch.bfloat16)(**text_rows(), number=0)
    half.loss.backward()
    torch.testing.assert_close(half.loss.float(), exact, rtol=2e-2, atol=0)


def test_gradient_checkpointing_changes_nothing():
    model = pretrainer().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model(**text_rows(), number=0).loss.backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model(**text_rows(), number=0).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name])


def test_a_head_that_was_trained_is_kept():
    config = encoder_config("electra")
    disc = ElectraForPreTraining(config)
    generator = AutoModelForMaskedLM.from_config(generator_config(config, 0.5))
    assert ReplacedTokenPretrainer(generator, disc, mask_tokenizer()).head is disc.discriminator_predictions


def test_figures_are_those_of_the_tokens():
    model = pretrainer()
    rows = text_rows((14, 9, 5, 12, 12, 13), seed=3)
    found = model(**rows, number=1)
    told = figures(found.counts)
    real = rows["attention_mask"].bool()
    logits, labels = found.disc_logits[real], found.rtd_labels[real].bool()
    pairs = logits[labels][:, None] - logits[~labels][None]
    assert told["auc"] == pytest.approx(((pairs > 0).float() + (pairs == 0) / 2).mean().item(), abs=0.12)
    assert told["accuracy"] == pytest.approx(((logits > 0) == labels).float().mean().item())
    assert told["replaced"] == pytest.approx(labels.float().mean().item())
    assert told["generator_loss"] == pytest.approx(found.generator_loss.item(), rel=1e-5)
    assert told["discriminator_loss"] == pytest.approx(found.discriminator_loss.item(), rel=1e-5)


# --- bad input ------------------------------------------------------------------------------------------------------------


def made(generator="electra", disc="electra", tokenizer=None, tie="embeddings", fraction=0.5, gen=(), own=()):
    config = encoder_config(disc, **dict(own))
    of_generator = generator_config(encoder_config(generator, **dict(gen)), fraction)
    models = AutoModelForMaskedLM.from_config(of_generator), AutoModel.from_config(config)
    return ReplacedTokenPretrainer(*models, tokenizer or mask_tokenizer(), tie)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gen": {"vocab_size": 50}}, "the generator has a vocabulary of 50 and the discriminator of 40: both need the same tokenizer"),
        ({"tokenizer": mask_tokenizer(44)}, "the tokenizer has 44 tokens and the models have 40"),
        ({"gen": {"embedding_size": 10}}, "embeddings of size 10 and 12 cannot be shared"),
        ({"tie": "half"}, "tie must be one of embeddings, none, all, disentangled, got 'half'"),
        ({"tie": "all"}, "tie='all' shares every layer, and generator and discriminator have other sizes"),
        ({"generator": "bert", "disc": "bert", "tie": "disentangled"}, "embeddings of size 8 and 16 cannot be shared"),
        ({"fraction": 0.05}, "hidden_fraction=0.05 of a width of 16 leaves a generator of width 0: use a larger one"),
        ({"fraction": 1.5}, r"hidden_fraction must be in \(0, 1\], got 1.5"),
    ],
)  # fmt: skip
def test_pairs_that_do_not_fit_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        made(**change)


def test_a_tokenizer_without_a_mask_token_is_refused():
    tokenizer = mask_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(UserError, match="has no mask token, which stands for a masked token"):
        made(tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mask_prob": 0.0}, r"mask_prob must be in \(0, 1\), got 0.0"),
        ({"mask_prob": 1.0}, r"mask_prob must be in \(0, 1\), got 1.0"),
        ({"keep_prob": 1.5}, r"keep_prob must be in \[0, 1\], got 1.5"),
        ({"disc_weight": 0.0}, "disc_weight must be above 0, got 0.0"),
        ({"temperature": -1.0}, "temperature must be above 0, got -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        ReplacedTokenConfig(**options)


def test_as_many_tokens_are_counted_as_are_drawn_with_replacement():
    model = pretrainer(rtd=ReplacedTokenConfig(mask_prob=0.9, official_duplicates=True))
    rows = text_rows((14, 3, 2))
    slots = model(**rows, number=0).counts[1]
    assert model.totals(**rows)[0] == slots == 13 + 3
