"""A loop of one's own learns what the trainer learns: the same losses, the same weights, whatever the batches look like."""

import copy

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.nn.utils.rnn import pad_sequence
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from tests.tiny.models import llama as tiny_llama
from tests.tiny.tokenizers import word_tokenizer as tiny_tokenizer
from tests.tiny.training import sft_config, token_rows
from tokenry.core.errors import UserError
from tokenry.finetuning import (
    AllTokens,
    DatasetWeights,
    MovingAverage,
    PromptResponseWeights,
    RandomTokens,
    Rho1,
    Signals,
    SmallLoss,
    SSToken,
    TokenCleaning,
    TokenWeighingTrainer,
    history_losses,
    sstoken_loss,
    step_weight,
    token_losses,
    weighed_loss,
)

RATE = 0.1


def collated(rows, side="right"):
    def pad(name, fill):
        return pad_sequence(
            [torch.tensor(row[name]) for row in rows], batch_first=True, padding_value=fill, padding_side=side
        )

    ones = [{"real": [1] * len(row["input_ids"])} for row in rows]
    mask = pad_sequence([torch.tensor(row["real"]) for row in ones], batch_first=True, padding_side=side)
    return {"input_ids": pad("input_ids", 0), "labels": pad("labels", -100), "attention_mask": mask}


class Recording(DataCollatorForLanguageModeling):
    """TRL's collator, which keeps every batch that it made."""

    def __call__(self, *args, **kwargs):
        batch = super().__call__(*args, **kwargs)
        self.made = [*getattr(self, "made", []), {name: value.clone() for name, value in batch.items()}]
        return batch


def trained_by_the_trainer(folder, weighing, model, rows, **options):
    collator = Recording(pad_token_id=0)
    trainer = TokenWeighingTrainer(
        model,
        args=sft_config(folder, learning_rate=RATE, max_grad_norm=0.0, max_length=None, **options),
        data_collator=collator,
        train_dataset=rows,
        processing_class=tiny_tokenizer(),
        weighing=weighing,
        reference_model=tiny_llama(seed=1).to(model.dtype) if "reference_nll" in weighing.needs else None,
        history_cache=folder,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    count = len(losses) * trainer.args.gradient_accumulation_steps
    return trainer.model, collator.made[-count:], losses  # what was made before is a trial of the collator


def trained_by_hand(model, batches, weighing, known_of, accumulation=1, epochs=1):
    """The loop of a user: every step is so many batches, every parameter moves against its gradient."""
    model.train()
    steps = len(batches) // accumulation
    losses = []
    for step in range(steps):
        micro = batches[step * accumulation : (step + 1) * accumulation]
        known = [known_of(batch) for batch in micro]
        epoch = epochs * step / steps
        total = step_weight(micro, weighing, known, epoch=epoch)
        model.zero_grad()
        losses.append(0.0)
        for batch, signals in zip(micro, known, strict=True):
            loss, _ = weighed_loss(
                model, batch, weighing, signals, total=total, progress=step / steps, epoch=epoch
            )
            loss.backward()
            losses[-1] += float(loss.detach())
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= RATE * parameter.grad
    return losses


def as_in_the_data(batch):
    """Give a recorded batch the labels of `token_rows(multi_turn=True)`: the trainer may have made the prompt a target."""
    spoken = torch.arange(batch["input_ids"].shape[1]) // 3 % 2 == 1
    labels = torch.where(spoken & batch["attention_mask"].bool(), batch["input_ids"], -100)
    return {**batch, "labels": labels}


def nothing_known(batch):
    return {}


def history_of(model):
    before = copy.deepcopy(model)
    return lambda batch: {"history_nll": token_losses(before, batch)}


def reference_of(model):
    reference = tiny_llama(seed=1).to(model.dtype)
    return lambda batch: {"reference_nll": token_losses(reference, batch)}


CASES = {
    "all tokens": (AllTokens(), lambda model: nothing_known),
    "ssToken with a warm-up": (SSToken(), history_of),
    "ssToken without": (SSToken(warmup_fraction=0.0, dropped_weight=0.2), history_of),
    "ssToken, mean of samples": (SSToken(reduction="sample", warmup_fraction=0.0), history_of),
    "ssToken as printed": (SSToken(reduction="paper", balance=1.0), history_of),
    "attention alone": (SSToken(balance=0.0), lambda model: nothing_known),
    "small loss": (SmallLoss(warmup_epochs=0.0), lambda model: nothing_known),
    "RHO-1": (Rho1(scope="sample"), reference_of),
    "RHO-1 over the batch": (Rho1(), reference_of),
    "the prompt too": (PromptResponseWeights(prompt=0.3), lambda model: nothing_known),
}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_a_loop_of_ones_own_learns_what_the_trainer_learns(tmp_path, name, accumulation):
    weighing, known_of = CASES[name]
    rows = token_rows(multi_turn=True)
    expected, batches, losses = trained_by_the_trainer(
        tmp_path, weighing, tiny_llama(), rows, gradient_accumulation_steps=accumulation
    )
    model = tiny_llama()
    batches = [as_in_the_data(batch) for batch in batches]
    found = trained_by_hand(model, batches, weighing, known_of(model), accumulation)
    assert found == pytest.approx(losses, abs=2e-4)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_half_precision_gives_the_loss_of_the_trainer(tmp_path):
    rows = token_rows()
    _, batches, losses = trained_by_the_trainer(
        tmp_path, SSToken(), tiny_llama().to(torch.bfloat16), rows, gradient_accumulation_steps=2
    )
    model = tiny_llama().to(torch.bfloat16)
    found = trained_by_hand(model, batches, SSToken(), history_of(model), accumulation=2)
    assert found == pytest.approx(losses, abs=2e-3)


def test_under_autocast_the_loss_is_float32_and_nearly_the_same():
    model, batch = tiny_llama(), collated(token_rows(3))
    history = token_losses(model, batch)
    exact = sstoken_loss(model, batch, history)[0].detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sstoken_loss(model, batch, history)[0].detach()
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(exact), abs=0.05)


def test_adapters_switched_off_are_the_history_without_being_told(tmp_path):
    lora = LoraConfig(r=4, target_modules=["q_proj", "up_proj"])
    weighing = SSToken(history="adapter_off", warmup_fraction=0.0)
    model = get_peft_model(tiny_llama(), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    batch = collated(token_rows(4))
    with model.disable_adapter():
        history = token_losses(model, batch)
    loss, tokens = weighed_loss(model, batch, weighing)
    again, _ = weighed_loss(model, batch, weighing, {"history_nll": history})
    assert loss.item() == again.item()
    torch.testing.assert_close(tokens.signals["history_nll"], history, equal_nan=True)


def test_a_moving_average_of_ones_own_is_the_history():
    model, batch, history = tiny_llama(), collated(token_rows(4)), MovingAverage(decay=0.5)
    history.check(model)
    before = token_losses(model, batch)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    _, tokens = weighed_loss(model, batch, SSToken(history=history))
    torch.testing.assert_close(tokens.signals["history_nll"], before, equal_nan=True)


def test_padding_on_either_side_never_changes_the_loss():
    model, rows = tiny_llama(), token_rows(5)
    losses = []
    for side in ("right", "left"):
        batch = collated(rows, side)
        losses.append(sstoken_loss(model, batch, token_losses(tiny_llama(seed=2), batch))[0].item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_packed_row_is_weighed_sample_by_sample():
    rows = token_rows(3)
    ids, labels = (torch.cat([torch.tensor(row) for row in rows[name]]) for name in ("input_ids", "labels"))
    places = torch.cat([torch.arange(len(row)) for row in rows["input_ids"]])
    packed = {"input_ids": ids[None], "labels": labels[None], "position_ids": places[None]}
    model, before = tiny_llama(attn_implementation="eager"), tiny_llama(seed=2)
    padded = collated(rows)
    expected, _ = sstoken_loss(model, padded, token_losses(before, padded))
    found, _ = sstoken_loss(model, packed, token_losses(before, packed))
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


def test_what_was_learned_from_comes_with_the_loss():
    model, batch = tiny_llama(), collated(token_rows(4))
    loss, tokens = weighed_loss(model, batch, SmallLoss())
    loss.backward()
    loss = loss.detach()
    assert float(tokens.total) == pytest.approx(float(tokens.weights.sum()), rel=1e-6)
    assert float(loss) == pytest.approx(
        float((tokens.weights * tokens.nll.nan_to_num(0.0)).sum() / tokens.total), abs=1e-5
    )
    assert not tokens.weights.requires_grad


def test_the_losses_of_a_data_set_are_those_of_its_rows():
    model, rows = tiny_llama(), token_rows(7)
    columns = history_losses(model, rows, tokens_per_batch=40)
    for column, row in zip(columns, rows, strict=True):
        alone = token_losses(model, {name: torch.tensor([row[name]]) for name in ("input_ids", "labels")})
        torch.testing.assert_close(column, alone[0], equal_nan=True, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_reading_losses_leaves_the_mode_of_the_model(training):
    model = tiny_llama().train(training)
    token_losses(model, collated(token_rows(2)))
    assert model.training is training


def test_data_chosen_over_the_whole_set_is_learned_from_as_told():
    model, batch = tiny_llama(), collated(token_rows(4))
    kept = torch.zeros(batch["labels"].shape)
    kept[:, -3:] = 1.0
    _, tokens = weighed_loss(model, batch, TokenCleaning(), {"kept": kept})
    assert torch.equal(tokens.weights > 0, tokens.signals.learnable & kept.bool())


def test_weights_given_by_the_data_are_the_weights():
    batch = collated(token_rows(4))
    given = torch.rand(batch["labels"].shape)
    _, tokens = weighed_loss(tiny_llama(), batch, DatasetWeights(), {"dataset_weight": given})
    learnable = tokens.signals.learnable
    torch.testing.assert_close(tokens.weights[learnable], given[learnable])


# Outside a trainer no warm-up is running: a choice made by hand is the choice of a trained model.


def by_hand():
    labels = torch.tensor([[-100, -100, 5, 6, 7, 8]])
    segments = torch.zeros_like(labels)
    values = {
        "nll": torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0, 1.0]]),
        "history_nll": torch.tensor([[0.0, 0.0, 9.0, 1.0, 1.0, 1.0]]),
        "prompt_attention": torch.tensor([[0.0, 0.0, 0.1, 0.11, 0.12, 0.13]]),
    }
    return Signals(labels, segments, values)


def test_outside_a_trainer_sstoken_ranks_by_the_loss_too():
    kept = SSToken(share=0.25).choose(by_hand())
    assert kept.nonzero()[:, 1].tolist() == [2]


@pytest.mark.parametrize(
    "weighing",
    [
        SmallLoss(share=0.5),
        SmallLoss(share=0.5, warmup_epochs=3.0),
        SSToken(share=0.5, warmup_epochs=7.0),
        SSToken(share=0.5, warmup_fraction=1.0),
        SSToken(share=0.5, history="previous_epoch"),
    ],
    ids=lambda weighing: weighing.describe(),
)
def test_outside_a_trainer_every_warm_up_is_over(weighing):
    weights = weighing.weigh(by_hand())
    assert sorted(set(weights[0, 2:].tolist())) == pytest.approx([weighing.dropped_weight, 1.0])


def test_a_trainer_that_says_so_is_still_warming_up():
    signals = by_hand()
    begun = Signals(signals.labels, signals.segments, signals.values, progress=0.0, epoch=0.0)
    assert SmallLoss().weigh(begun)[0, 2:].tolist() == [1.0] * 4
    assert SSToken(share=0.25).choose(begun).nonzero()[:, 1].tolist() == [5]


# Bad input


@pytest.mark.parametrize(
    ("weighing", "known", "words"),
    [
        (SSToken(), {}, r"SSToken needs history_nll, .* pass known=\{'history_nll': …\}, token_losses"),
        (SSToken(history="ema"), {}, "a moving average follows the model from step to step"),
        (SSToken(history="adapter_off"), {}, "needs a PEFT model"),
        (SSToken(history="previous_epoch"), {}, "SSToken needs history_nll"),
        (Rho1(), {}, r"Rho1 needs reference_nll, .* token_losses\(reference_model, batch\)"),
        (TokenCleaning(), {}, "TokenCleaning needs kept, .* chosen over the whole data set"),
        (TokenCleaning(scope="sample"), {}, "TokenCleaning needs base_nll"),
        (RandomTokens(scope="sample"), {}, "RandomTokens needs uniform, .* the same in every epoch"),
        (DatasetWeights(), {}, "DatasetWeights needs dataset_weight"),
        (SSToken(layers=9), {"history_nll": torch.zeros(3, 20)}, "layer 9 is out of range"),
        (
            SSToken(),
            {"history_nll": torch.zeros(3, 4)},
            r"history_nll has shape \(3, 4\) but the batch \(3, 20\)",
        ),
    ],
)
def test_what_must_be_known_and_is_not(weighing, known, words):
    with pytest.raises(UserError, match=words):
        weighed_loss(tiny_llama(), collated(token_rows(3)), weighing, known)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": None}, "the batch has no labels: give input_ids and labels"),
        ({"input_ids": None}, "the batch has no input_ids"),
        (
            {"labels": torch.zeros(3, 15, dtype=torch.long)},
            r"labels have shape \(3, 15\) but input_ids \(3, 20\)",
        ),
        ({"labels": torch.full((3, 20), 64)}, "label 64 is not in the vocabulary of 64 tokens"),
    ],
)
@pytest.mark.parametrize("read", [lambda *given: weighed_loss(*given, AllTokens()), token_losses])
def test_a_batch_that_cannot_be_learned_from(change, words, read):
    with pytest.raises(UserError, match=words):
        read(tiny_llama(), {**collated(token_rows(3)), **change})


def test_a_model_without_a_head_is_refused():
    with pytest.raises(UserError, match="has no output head"):
        weighed_loss(tiny_llama().model, collated(token_rows(2)), AllTokens())


@pytest.mark.parametrize(
    ("batches", "known"), [([], None), ([collated(token_rows(2))], []), ([collated(token_rows(2))], [{}, {}])]
)
def test_a_step_has_batches_and_as_much_known_of_each(batches, known):
    with pytest.raises(UserError, match="a step has at least one batch, and `known` one entry per batch"):
        step_weight(batches, AllTokens(), known)


def test_the_weight_of_a_step_needs_the_weights_in_the_data():
    with pytest.raises(UserError, match="DatasetWeights needs dataset_weight"):
        step_weight([collated(token_rows(2))], DatasetWeights())


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"input_ids": [7, 8]}], "row 0 has no labels"),
        ([{"input_ids": [7, 8], "labels": [7]}], "labels have shape"),
        ([{"input_ids": [7, 8], "labels": [7, 640]}], "label 640 is not in the vocabulary"),
    ],
)
def test_rows_without_losses(rows, words):
    with pytest.raises(UserError, match=words):
        history_losses(tiny_llama(), Dataset.from_list(rows))
