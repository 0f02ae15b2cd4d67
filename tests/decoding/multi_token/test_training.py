"""Training a drafter: with TRL's trainer, the base untouched, resumed and in two processes alike."""

import pytest
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy

from tests import tiny
from tests.fresh_process import run_ranks
from tests.tiny.tokenizers import word_tokenizer
from tests.tiny.training import sft_config, token_rows
from tokenry.core.errors import UserError
from tokenry.core.tensors.alignment import IGNORED
from tokenry.decoding.multi_token.drafter import Drafter
from tokenry.decoding.multi_token.layout import block_layout
from tokenry.decoding.multi_token.training import DraftTrainer, draw_anchors

OPTIONS = {"max_steps": 4, "optim": "adamw_torch", "learning_rate": 1e-2, "lr_scheduler_type": "linear"}


def new_drafter(model=None, k=2):
    model = tiny.llama() if model is None else model
    torch.manual_seed(0)
    return Drafter(model, k=k, rank=2)


def trained(folder, drafter=None, resume=None, kwargs=None, rows=None, **options):
    drafter = new_drafter() if drafter is None else drafter
    trainer = DraftTrainer(
        drafter,
        sft_config(folder, **OPTIONS | options),
        train_dataset=token_rows() if rows is None else rows,
        processing_class=word_tokenizer(),
        **kwargs or {},
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(drafter):
    return torch.cat([value.detach().flatten() for value in drafter.parameters()])


def test_a_drafter_learns_and_its_base_does_not(tmp_path):
    model = tiny.llama()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ids = torch.tensor([[5, 9, 3, 8]])
    logits = model(ids).logits
    drafter = new_drafter(model)
    trainer = trained(tmp_path, drafter, max_steps=12)
    first, *_, last = (entry for entry in trainer.state.log_history if "loss" in entry)
    assert last["loss"] < first["loss"]
    assert {
        "draft_base",
        "draft_sampler",
        "draft_consistency",
        "draft_accuracy",
        "num_tokens",
    } <= first.keys()
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.eval()
    assert torch.equal(model(ids).logits, logits), "without masks the model is its base, bit for bit"
    with torch.no_grad():
        layout = block_layout(4, torch.arange(4)[None], 2)
        adapted = drafter.hidden_states(ids, layout)[:, :4]
        for layer in drafter.lora.layers.values():
            torch.nn.init.zeros_(layer.lora_B.weight)
        assert torch.equal(drafter.hidden_states(ids, layout)[:, :4], adapted), "token rows are not adapted"
    drafter.remove()
    assert not any(module._forward_hooks for module in model.modules())


def test_losses_are_those_of_plain_autograd():
    drafter, rows = new_drafter(k=3), token_rows()
    length = 8
    ids = torch.tensor([row[:length] for row in rows["input_ids"] if len(row) >= length])
    labels = torch.tensor([row[:length] for row in rows["labels"] if len(row) >= length])
    for layer in drafter.lora.layers.values():
        torch.nn.init.normal_(layer.lora_B.weight)
    anchors = torch.tensor([[1, 2, 4, 6]])
    found = drafter.losses(ids, labels, anchors=anchors)
    (found.base + found.sampler).backward()
    gradient = drafter.masks.grad.clone()
    drafter.zero_grad()
    layout = block_layout(length, anchors, 3)
    hidden = drafter.hidden_states(ids, layout)
    base, sampler, chosen = [], [], [(g, r) for g, r in zip(layout.group[0], layout.slot[0], strict=True)]
    for row, (group, slot) in enumerate(chosen):
        if (place := int(group + slot) + 1) < length:
            for text in (labels[:, place] != IGNORED).nonzero()[:, 0]:
                base.append((hidden[text, row], labels[text, place]))
                if slot:
                    read = drafter.sampler(drafter.embed(ids[text, place - 1]), hidden[text, row])
                    sampler.append((read, labels[text, place]))
    expected = [
        cross_entropy(drafter.model.lm_head(torch.stack(rows)), torch.stack(targets))
        for rows, targets in (zip(*pairs, strict=True) for pairs in (base, sampler))
    ]
    torch.testing.assert_close([found.base, found.sampler], expected)
    sum(expected).backward()
    torch.testing.assert_close(drafter.masks.grad, gradient, rtol=1e-4, atol=1e-6)


def test_padding_on_the_right_changes_no_loss():
    drafter = new_drafter()
    ids = torch.randint(6, 60, (2, 9))
    padded = torch.cat([ids, torch.zeros(2, 3, dtype=torch.long)], 1)
    real = torch.arange(12).expand(2, -1) < 9
    labels = padded.masked_fill(~real, IGNORED)
    torch.testing.assert_close(drafter.losses(padded, labels, real), drafter.losses(ids))


def test_gradient_checkpointing_learns_the_same(tmp_path):
    found = [
        weights(trained(tmp_path, gradient_checkpointing=checkpointing).drafter)
        for checkpointing in (False, True)
    ]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_a_stopped_training_resumes(tmp_path):
    whole = trained(tmp_path / "whole", kwargs={"block_share": 0.5})
    trained(tmp_path / "stopped", save_strategy="steps", save_steps=2, kwargs={"block_share": 0.5})
    names = {path.name for path in (tmp_path / "stopped/checkpoint-2").iterdir()}
    assert {"drafter.json", "drafter.safetensors"} <= names
    assert not names & {"model.safetensors", "adapter_model.safetensors"}, "the base model is not saved again"
    resumed = trained(
        tmp_path / "stopped", resume=str(tmp_path / "stopped/checkpoint-2"), kwargs={"block_share": 0.5}
    )
    torch.testing.assert_close(weights(resumed.drafter), weights(whole.drafter))


def test_a_saved_drafter_is_loaded_onto_its_model(tmp_path):
    trainer = trained(tmp_path)
    trainer.save_model(str(tmp_path / "drafter"))
    again = Drafter.load(tmp_path / "drafter", tiny.llama())
    assert torch.equal(weights(again), weights(trainer.drafter))
    assert (again.k, again.rank, again.alpha) == (2, 2, 4)
    with pytest.raises(UserError, match="with vocabulary 64, and this model has 70: give the model"):
        Drafter.load(tmp_path / "drafter", tiny.llama(vocab_size=70))
    with pytest.raises(UserError, match="belong to a drafter of other layers or sizes"):
        Drafter.load(tmp_path / "drafter", tiny.llama(num_hidden_layers=3))
    with pytest.raises(UserError, match="holds no drafter"):
        Drafter.load(tmp_path, tiny.llama())
    (tmp_path / "drafter/drafter.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"drafter\.safetensors cannot be read"):
        Drafter.load(tmp_path / "drafter", tiny.llama())


def test_tensors_have_the_names_of_peft(tmp_path):
    new_drafter().save(tmp_path)
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors.torch import load_file

    names = load_file(tmp_path / "drafter.safetensors").keys()
    peft = get_peft_model(tiny.llama(), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert {name for name in names if "lora" in name} == get_peft_model_state_dict(peft).keys()


def test_blocks_stand_where_something_is_learned():
    labels = torch.tensor([[IGNORED] * 4 + [5, 6, 7, IGNORED], [IGNORED] * 5 + [5] * 2 + [IGNORED]])
    assert draw_anchors(labels, 1.0).tolist() == [[2, 3, 4]]
    assert draw_anchors(labels, 0.5).shape == (1, 2)
    assert draw_anchors(labels[:, :3], 1.0).tolist() == [[0]]


@pytest.mark.parametrize(
    ("kwargs", "options", "words"),
    [
        ({"block_share": 0.0}, {}, r"block_share must be in \(0, 1\], got 0.0"),
        ({"consistency": -1}, {}, "consistency must be at least 0, got -1"),
        ({"compute_metrics": print}, {}, "compute_metrics is of no use to a drafter"),
        ({}, {"packing": True}, "packing and padding_free put several texts in one row"),
    ],
)
def test_arguments_that_a_drafter_cannot_be_trained_with_are_refused(kwargs, options, words, tmp_path):
    with pytest.raises(UserError, match=words):
        trained(tmp_path, kwargs=kwargs, **options)


@pytest.mark.parametrize("options", [{"k": 0}, {"rank": 0}])
def test_sizes_below_one_are_refused(options):
    with pytest.raises(UserError, match="must be at least 1, got 0"):
        Drafter(tiny.llama(), **{"k": 1, "rank": 1} | options)


def even_rows():
    """Texts of one length, of which all is learned: a mean of means is then the mean."""
    ids = torch.randint(6, 60, (12, 9), generator=torch.Generator().manual_seed(0)).tolist()
    return Dataset.from_list([{"input_ids": row, "labels": row} for row in ids])


@pytest.mark.distributed
def test_two_ranks_end_as_one_process(tmp_path):
    ended = run_ranks("tests.decoding.multi_token.two_ranks", str(tmp_path), folder=tmp_path)
    assert [rank.returncode for rank in ended] == [0, 0], ended[0].stderr
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(one, other)
    alone = trained(tmp_path / "alone", rows=even_rows(), per_device_train_batch_size=4)
    torch.testing.assert_close(one, weights(alone.drafter), rtol=1e-3, atol=1e-3)
    assert (one - weights(new_drafter())).abs().max() > 0.02
