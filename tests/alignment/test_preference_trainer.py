"""PreferenceTrainer: DPOTrainer's weights and metrics under DPOTrainer's losses, other losses and updates, and the callback."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import DPOTrainer

from tests import tiny
from tests.tiny.preferences import dpo_config, preference_rows
from tests.tiny.tokenizers import word_tokenizer
from tokenry.alignment import (
    EntanglementCallback,
    PreferencePair,
    PreferenceTrainer,
    collate_pairs,
    encode_pair,
    pair_gradients,
    preference_trainer,
)
from tokenry.alignment.entanglement import response_logp
from tokenry.alignment.preference_pairs import pairs_in, require_pairs
from tokenry.core.errors import UserError

DATA = preference_rows()
TIMES = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos")


def made(kind, folder, options=None, data=DATA, **further):
    model = tiny.llama()
    if "peft_config" not in further:
        further.setdefault("ref_model", tiny.llama(seed=1))
    return kind(
        model,
        args=dpo_config(folder, **(options or {})),
        train_dataset=data,
        processing_class=word_tokenizer(),
        **further,
    )


def trained(kind, folder, options=None, **further):
    trainer = made(kind, folder, options, **further)
    trainer.train()
    return trainer


def difference(first, second):
    pairs = zip(first.model.parameters(), second.model.parameters(), strict=True)
    return max(float((one - other).abs().max().detach()) for one, other in pairs)


def adapter():
    torch.manual_seed(0)
    return LoraConfig(r=2, target_modules=["q_proj", "v_proj"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss_type": ["ipo"], "learning_rate": 0.005},
        {"loss_type": ["hinge"]},
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
        {"ld_alpha": 0.5},
        {"use_weighting": True},
        {"precompute_ref_log_probs": True},
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
        {"gradient_checkpointing": True},
    ],
    ids=lambda options: ",".join(options) or "plain",
)
def test_without_a_loss_of_its_own_it_is_dpo_trainer(tmp_path, options):
    ours, theirs = (trained(kind, tmp_path, options) for kind in (PreferenceTrainer, DPOTrainer))
    assert difference(ours, theirs) < 1e-6
    assert difference(ours, made(DPOTrainer, tmp_path)) > 1e-4, "something was learned"
    for mine, other in zip(ours.state.log_history, theirs.state.log_history, strict=True):
        assert mine.keys() == other.keys()
        for name in mine.keys() - {*TIMES}:
            assert mine[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5), name


def test_an_adapter_trains_as_in_dpo_trainer(tmp_path):
    ours, theirs = (
        trained(kind, tmp_path, peft_config=adapter()) for kind in (PreferenceTrainer, DPOTrainer)
    )
    assert difference(ours, theirs) < 1e-7


def test_in_bfloat16_it_trains_nearly_alike(tmp_path):
    ours, theirs = (trained(kind, tmp_path, {"bf16": True}) for kind in (PreferenceTrainer, DPOTrainer))
    assert difference(ours, theirs) < 1e-3


def test_evaluation_is_that_of_dpo_trainer(tmp_path):
    found = [made(kind, tmp_path, eval_dataset=DATA).evaluate() for kind in (PreferenceTrainer, DPOTrainer)]
    for name in ("eval_loss", "eval_rewards/margins", "eval_logps/chosen", "eval_entropy"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-4), name


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ("dpo", {}),
        ("L and Rw -> W and Rl | given L and Rw or W and Rl | also W and L and Rw and Rl:beta=0.1", {}),
        ("hinge:beta=0.1", {"loss_type": ["hinge"]}),
        ("ipo:per_token=true", {"loss_type": ["ipo"], "learning_rate": 0.005}),
        ("sppo:beta=0.1", {"loss_type": ["sppo_hard"], "learning_rate": 0.005}),
    ],
)
def test_a_named_loss_trains_as_trl_s_own(tmp_path, loss, options):
    same_rate = {name: value for name, value in options.items() if name != "loss_type"}
    ours = trained(PreferenceTrainer, tmp_path, same_rate, loss=loss)
    assert difference(ours, trained(DPOTrainer, tmp_path, options)) < 1e-6


@pytest.mark.parametrize("loss", ["simpo", "cpo", "L -> W | given W or L", "unlikelihood"])
def test_without_a_reference_none_is_loaded(tmp_path, loss):
    whole = {"per_device_train_batch_size": len(DATA), "learning_rate": 0.005}
    trainer = trained(PreferenceTrainer, tmp_path, whole, loss=loss, ref_model=None)
    assert trainer.ref_model is None
    first, last = (trainer.state.log_history[place]["loss"] for place in (0, 2))
    assert last < first


def gradients_of_a_step(folder, **further):
    trainer = made(PreferenceTrainer, folder, loss="dpo", **further)
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.compute_loss(trainer.model, batch).backward()
    return trainer, batch


@pytest.mark.parametrize("update", ["plain", "normalised", "repaired"])
def test_updates_have_the_ratio_that_they_promise(tmp_path, update):
    """The gradients are d_w g_w − d_l g_l of every pair, with the multipliers of the update."""
    trainer, batch = gradients_of_a_step(tmp_path, update=update, data=preference_rows(1))
    model = trainer.model
    (pair,) = pairs_in(batch)
    head = [model.lm_head.weight]
    found = pair_gradients(model, [pair], head)
    d = (
        trainer.beta
        * torch.sigmoid(
            -trainer.beta * torch.tensor(trainer._metrics["train"]["rewards/margins"]) / trainer.beta
        ).double()
    )
    rule = preference_trainer.UPDATES[update]
    d_w, d_l = (d, d) if rule is None else rule(found, d, d)
    won, lost = (
        torch.autograd.grad(response_logp(model, pair.prompt, side), list(model.parameters()))
        for side in (pair.chosen, pair.rejected)
    )
    for parameter, up, down in zip(model.parameters(), won, lost, strict=True):
        expected = float(d_l) * down - float(d_w) * up
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-6)


def test_shared_tokens_can_be_left_out(tmp_path):
    data = Dataset.from_list([{"prompt": "w1 w2 ", "chosen": "w3 w4 w5 w6", "rejected": "w3 w4 w5 w7"}])
    trainer, batch = gradients_of_a_step(tmp_path, data=data, shared_above=0.9)
    seen = set()
    original = preference_trainer.weighted_cross_entropy

    def watch(hidden_states, labels, weights, head):
        seen.update(labels[weights != 0].tolist())
        return original(hidden_states, labels, weights, head)

    preference_trainer.weighted_cross_entropy = watch
    try:
        trainer.compute_loss(trainer.model, batch)
    finally:
        preference_trainer.weighted_cross_entropy = original
    words = word_tokenizer()
    assert {words.decode([token]) for token in seen} >= {"w6", "w7"}
    assert not {words.decode([token]) for token in seen} & {"w3", "w4", "w5"}


@pytest.mark.parametrize("scope", ["full", "head"])
def test_a_callback_tells_what_happens_and_changes_nothing(tmp_path, scope):
    options = {"max_steps": 4, "optim": "adamw_torch", "learning_rate": 1e-3}
    callback = EntanglementCallback(every=2, pairs=5, scope=scope, tokens=3)
    watched = trained(DPOTrainer, tmp_path, options, callbacks=[callback])
    assert difference(watched, trained(DPOTrainer, tmp_path, options)) == 0
    assert [record.step for record in callback.records] == [0, 2, 4]
    assert callback.records[0].agreement is None
    last = callback.records[-1]
    assert last.agreement == 1.0
    assert last.predicted["as wanted"] == last.realised["as wanted"] == 1.0
    assert last.chosen_change > 0 > last.rejected_change
    assert [row[1:3] for row in last.tokens] == [("<end>", "<end>")] * 3
    assert "entanglement/agreement" in watched.state.log_history[-1]


def test_rows_of_text_and_of_messages_are_encoded_as_trl_does(tmp_path):
    tokenizer = word_tokenizer()
    trainer = made(DPOTrainer, tmp_path)
    for row, encoded in zip(DATA, trainer.train_dataset, strict=True):
        pair = encode_pair(row, tokenizer)
        assert list(pair.prompt) == encoded["prompt_ids"]
        assert list(pair.chosen) == encoded["chosen_ids"]
        assert list(pair.rejected) == encoded["rejected_ids"]
    chat = {
        "chosen": [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}],
        "rejected": [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w3"}],
    }
    pair = encode_pair(chat, tokenizer)
    assert tokenizer.decode(pair.prompt) == "<user> w1 <end> <assistant>"
    assert tokenizer.decode(pair.rejected) == "w3 <end>"


GOOD = {"prompt": "w1 ", "chosen": "w2", "rejected": "w3"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**GOOD, "chosen": " "}, "pair 2 has an empty chosen response"),
        ({**GOOD, "rejected": ""}, "pair 2 has an empty rejected response"),
        (
            {**GOOD, "rejected": [{"role": "assistant", "content": ""}]},
            "pair 2 has an empty rejected response",
        ),
        ({**GOOD, "rejected": "w2"}, "pair 2 has equal responses, so there is no preference to learn"),
        ({"prompt": "w1 ", "chosen": "w2"}, "row 2 has no 'rejected'"),
        ({**GOOD, "chosen": 5}, "the chosen response of pair 2 is 5: give text, or a list of messages"),
    ],
)
def test_bad_rows(row, words):
    with pytest.raises(UserError) as error:
        require_pairs([GOOD, row])
    assert words in str(error.value)


def test_messages_without_a_chat_template():
    tokenizer, messages = word_tokenizer(), [{"role": "assistant", "content": "w2"}]
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="pair 1 is a conversation, and the tokenizer has no chat template"):
        encode_pair(
            {"prompt": [{"role": "user", "content": "w1"}], "chosen": messages, "rejected": messages * 2},
            tokenizer,
        )


def test_bad_pairs():
    with pytest.raises(UserError, match="the chosen response has no tokens"):
        PreferencePair((1,), (), (2,))
    with pytest.raises(UserError, match="the prompt has no tokens"):
        PreferencePair((), (1,), (2,))
    with pytest.raises(
        UserError, match="the prompt is not a prefix of the tokens of prompt and rejected response"
    ):
        PreferencePair.from_whole([1, 2], [1, 2, 3], [1, 4, 3])
    batch = collate_pairs([PreferencePair((1,), (2,), (3,))])
    with pytest.raises(UserError, match="chosen rows first and the rejected rows second, got 1 rows"):
        list(pairs_in({name: value[:1] for name, value in batch.items()}))
    batch["input_ids"][1, 0] = 5
    with pytest.raises(UserError, match="the rows of pair 1 have different prompts"):
        list(pairs_in(batch))


@pytest.mark.parametrize(
    ("options", "further", "words"),
    [
        ({}, {"update": "other"}, "update must be one of plain, normalised, repaired, got 'other'"),
        ({}, {"shared_above": 2.0}, "shared_above is a cosine and must be in [-1, 1], got 2.0"),
        (
            {"loss_type": ["ipo"]},
            {"loss": "dpo"},
            "the loss is given twice, as loss and as loss_type=['ipo']",
        ),
        ({"ld_alpha": 0.5}, {"loss": "dpo"}, "change TRL's own losses: leave loss out"),
        ({"beta": 0.0}, {}, "beta must be above 0, got 0.0"),
        ({}, {"data": Dataset.from_list([{**GOOD, "rejected": "w2"}])}, "pair 1 has equal responses"),
        ({}, {"loss": "dpoo"}, "there is no preference loss 'dpoo' (did you mean 'dpo'?)"),
    ],
)
def test_what_a_trainer_refuses(tmp_path, options, further, words):
    with pytest.raises(UserError) as error:
        made(PreferenceTrainer, tmp_path, options, **further)
    assert words in str(error.value)


def test_a_response_that_is_cut_off_is_refused(tmp_path):
    trainer = made(PreferenceTrainer, tmp_path)
    batch = collate_pairs([PreferencePair((3, 4), (5,), (6,))])
    batch["completion_mask"][0] = 0
    with pytest.raises(UserError, match=r"a response has no tokens .* raise max_length"):
        trainer.compute_loss(trainer.model, batch)


def test_a_callback_needs_pairs(tmp_path):
    with pytest.raises(UserError, match="every must be at least 1, got 0"):
        EntanglementCallback(every=0)
    callback = EntanglementCallback(pairs=3)
    with pytest.raises(UserError, match="the training data hold no tokenised pairs"):
        callback.on_train_begin(None, None, None)


def test_another_trl_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(DPOTrainer, "compute_ref_log_probs", lambda self, batch: None)
    with pytest.raises(UserError, match=r"which this trl does not have: it was tested with trl 1\.16"):
        made(PreferenceTrainer, tmp_path)
