"""The trainer at its edges: metrics, padded data, weights as people have them, data replaced afterwards, foreign checkpoints."""

import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTTrainer

from tests.tiny.models import llama as tiny_llama
from tests.tiny.tokenizers import word_tokenizer as tiny_tokenizer
from tests.tiny.training import sft_config, token_rows
from tokenry.core.errors import UserError
from tokenry.finetuning import (
    AllTokens,
    DatasetWeights,
    PromptResponseWeights,
    RandomTokens,
    Rho1,
    SmallLoss,
    SSToken,
    TokenWeighing,
    TokenWeighingTrainer,
)
from tokenry.finetuning.random_tokens import random_choice, random_sample, random_token_labels
from tokenry.finetuning.token_cleaning import token_cleaning_labels

NOW = SmallLoss(share=0.5, warmup_epochs=0.0)


def make_trainer(
    folder, weighing, rows=None, trainer=TokenWeighingTrainer, model=None, given=None, **options
):
    extra = (
        {"weighing": weighing, "history_cache": folder / "cache"} if trainer is TokenWeighingTrainer else {}
    )
    return trainer(
        model or tiny_llama(),
        args=sft_config(folder, **options),
        train_dataset=token_rows() if rows is None else rows,
        processing_class=tiny_tokenizer(),
        **extra,
        **(given or {}),
    )


def trained(folder, weighing, *args, **options):
    trainer = make_trainer(folder, weighing, *args, **options)
    trainer.train()
    return trainer


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def weights_of(trainer):
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


# Metrics


@pytest.mark.parametrize(
    "weighing", [NOW, SSToken(), DatasetWeights(), RandomTokens()], ids=lambda w: type(w).__name__
)
def test_evaluate_answers_what_trl_answers(tmp_path, weighing):
    rows = token_rows().add_column("weight", [1.0] * 12)
    given = {"eval_dataset": token_rows(4, seed=3)}
    ours = make_trainer(tmp_path, weighing, rows, given=given)
    theirs = make_trainer(tmp_path, None, rows, SFTTrainer, given=given)
    told, expected = ours.evaluate(), theirs.evaluate()
    assert told.keys() == expected.keys()
    for name in ("eval_loss", "eval_entropy", "eval_mean_token_accuracy", "eval_num_tokens"):
        assert told[name] == pytest.approx(expected[name], abs=1e-6)


@pytest.mark.parametrize(
    "packing", [{}, {"packing": True, "max_length": 24}, {"padding_free": True, "max_length": None}]
)
def test_equal_weights_have_the_metrics_of_trl(tmp_path, packing):
    rows = token_rows().add_column("weight", [0.5] * 12)
    options = {"eval_strategy": "epoch", "num_train_epochs": 2, **packing}
    given = {"eval_dataset": token_rows(4, seed=3)}
    ours = trained(tmp_path, DatasetWeights(), rows, given=given, **options)
    theirs = trained(tmp_path, None, rows, SFTTrainer, given=given, **options)
    for name in (
        "loss",
        "entropy",
        "mean_token_accuracy",
        "num_tokens",
        "eval_num_tokens",
        "eval_mean_token_accuracy",
    ):
        assert logged(ours, name) == pytest.approx(logged(theirs, name), abs=1e-5), name


def test_entropy_and_accuracy_are_those_of_the_tokens_learned_from(tmp_path):
    trainer = trained(
        tmp_path,
        SmallLoss(share=0.5, warmup_epochs=0.0, dropped_weight=0.0),
        per_device_train_batch_size=12,
        learning_rate=0.0,
    )
    kept, start = trainer.store.columns["weight"] == 1, 0
    entropies, right = [], []
    for row in token_rows():
        ids = torch.tensor(row["input_ids"])
        with torch.no_grad():
            log_p = tiny_llama().eval()(input_ids=ids[None]).logits[0].log_softmax(-1)
        for t in range(1, len(ids)):
            if kept[start + t]:
                entropies.append(-(log_p[t - 1].exp() * log_p[t - 1]).sum())
                right.append(float(log_p[t - 1].argmax() == ids[t]))
        start += len(ids)
    assert logged(trainer, "entropy") == pytest.approx([float(torch.stack(entropies).mean())], abs=1e-4)
    assert logged(trainer, "mean_token_accuracy") == pytest.approx([np.mean(right)])


def test_the_best_model_can_be_chosen_by_a_metric_of_trl(tmp_path):
    options = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    trainer = trained(
        tmp_path, NOW, given={"eval_dataset": token_rows(4, seed=3)}, load_best_model_at_end=True,
        metric_for_best_model="eval_mean_token_accuracy", **options,
    )  # fmt: skip
    assert trainer.state.best_metric == max(logged(trainer, "eval_mean_token_accuracy"))


def test_what_log_is_given_is_filled_in_place(tmp_path):
    trainer = make_trainer(tmp_path, NOW)
    trainer.train()
    entry = {"loss": 1.0}
    trainer._metrics["train"]["num_tokens"] = [5]
    trainer.log(entry)
    assert entry["num_tokens"] == 5


# What is plain


@pytest.mark.parametrize(
    ("weighing", "plain"),
    [
        (AllTokens(), True), (SSToken(share=1.0), True), (Rho1(share=1.0), True), (SmallLoss(share=1.0, warmup_epochs=0.0), True),
        (RandomTokens(share=1.0), True), (SSToken(), False), (SSToken(share=1.0, reduction="sample"), False),
        (SSToken(warmup_epochs=9.0), False), (DatasetWeights(), False), (PromptResponseWeights(), False),
    ],
)  # fmt: skip
def test_a_weighing_is_plain_where_it_never_tells_tokens_apart(weighing, plain):
    assert weighing.is_plain is plain


def test_weights_of_ones_own_are_not_plain_whatever_the_share():
    class Half(TokenWeighing):
        def weigh(self, signals):
            return signals.learnable * 0.5

    assert not Half(share=1.0).is_plain


@pytest.mark.parametrize(
    "weighing", [None, AllTokens(), SSToken(share=1.0)], ids=["None", "AllTokens", "share 1.0"]
)
def test_plain_fine_tuning_keeps_nothing(tmp_path, weighing):
    rows = token_rows()
    trainer = trained(tmp_path, weighing, rows, max_length=None, save_strategy="steps", save_steps=2)
    assert not trainer.weighs
    assert trainer.train_dataset.column_names == rows.column_names
    assert not trainer.store.columns
    assert not (tmp_path / "cache").exists()
    assert not list(tmp_path.glob("checkpoint-*/tokenry*"))
    assert not any(
        name.startswith(("tokens/", "signals/")) for entry in trainer.state.log_history for name in entry
    )


def test_signals_are_recorded_without_a_weighing_when_asked_for(tmp_path):
    trainer = trained(tmp_path, AllTokens(), given={"record_signals": True})
    plain = trained(tmp_path, None, trainer=SFTTrainer)
    assert float(trainer.store.columns["weight"].nansum()) == sum(
        sum(x != -100 for x in row["labels"]) for row in token_rows()
    )
    for ours, theirs in zip(weights_of(trainer), weights_of(plain), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


# Padded data


def padded(side, labels=True):
    rows = []
    for row in token_rows(6, seed=1):
        fill = 24 - len(row["labels"])
        columns = {"input_ids": (row["input_ids"], 0), "attention_mask": ([1] * len(row["labels"]), 0)}
        columns |= {"labels": (row["labels"], -100)} if labels else {}
        columns["token_weights"] = ([0.5 + t for t in range(len(row["labels"]))], 9.0)
        rows.append(
            {
                name: [*values, *[value] * fill] if side == "right" else [*[value] * fill, *values]
                for name, (values, value) in columns.items()
            }
        )
    return Dataset.from_list(rows)


def unpadded(labels=True):
    rows = token_rows(6, seed=1)
    rows = rows.add_column("token_weights", [[0.5 + t for t in range(len(ids))] for ids in rows["input_ids"]])
    return rows if labels else rows.remove_columns("labels")


@pytest.mark.parametrize(
    "weighing", [PromptResponseWeights(prompt=0.5), SSToken(share=0.5), DatasetWeights(), RandomTokens(), NOW],
    ids=lambda w: type(w).__name__,
)  # fmt: skip
@pytest.mark.parametrize(
    "options", [{}, {"packing": True, "max_length": 32}, {"max_length": 8}], ids=["padded", "packed", "cut"]
)
def test_padding_in_the_data_is_neither_seen_nor_learned(tmp_path, weighing, options):
    plain, *others = (
        trained(tmp_path, weighing, rows, **options) for rows in (unpadded(), padded("right"), padded("left"))
    )
    for other in others:
        assert logged(other, "loss") == logged(plain, "loss")
        assert logged(other, "num_tokens") == logged(plain, "num_tokens")


def test_padding_without_labels_is_not_learned_either(tmp_path):
    runs = [trained(tmp_path, NOW, rows) for rows in (unpadded(labels=False), padded("right", labels=False))]
    assert logged(runs[0], "loss") == logged(runs[1], "loss")


def test_padding_in_a_stream_is_not_learned(tmp_path):
    runs = [
        trained(tmp_path, NOW, rows(labels=False).to_iterable_dataset(), max_steps=2)
        for rows in (unpadded, lambda labels: padded("left", labels))
    ]
    assert logged(runs[0], "loss") == logged(runs[1], "loss")


def test_padding_in_data_for_evaluation_is_not_counted(tmp_path):
    given = [{"eval_dataset": rows} for rows in (unpadded(labels=False), padded("right", labels=False))]
    told = [make_trainer(tmp_path, NOW, given=each).evaluate()["eval_loss"] for each in given]
    assert told[0] == told[1]


# Weights as people have them


def weighted(weights, name="weight"):
    return Dataset.from_list(
        [{**row, name: weight} for row, weight in zip(token_rows(4), weights, strict=True)]
    )


def test_a_weight_that_is_not_given_is_one(tmp_path):
    some, all_of_them = (
        trained(tmp_path, DatasetWeights(), weighted(weights))
        for weights in ([0.5, None, 2.0, None], [0.5, 1.0, 2.0, 1.0])
    )
    assert logged(some, "loss") == logged(all_of_them, "loss")
    ones = [[1.0] * len(row["labels"]) for row in token_rows(4)]
    gaps = [None, ones[1], [None, *ones[2][1:]], ones[3]]
    some, all_of_them = (
        trained(tmp_path, DatasetWeights(), weighted(rows, "token_weights")) for rows in (gaps, ones)
    )
    assert logged(some, "loss") == logged(all_of_them, "loss")


LENGTHS = [len(row["labels"]) for row in token_rows(4)]


def per_token(row, value):
    return [
        [value if (row, 2) == (number, t) else 1.0 for t in range(length)]
        for number, length in enumerate(LENGTHS)
    ]


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("weight", ["1.0", "0.5", "1", "2"], "sample 0 has the weight '1.0', which is text: each must be a number; None"),
        ("weight", [None, "a lot", None, None], "sample 1 has the weight 'a lot', which is text: each must be a number"),
        ("weight", [True, False, True, True], "sample 0 has the weight True, which is a truth value: each must be a"),
        ("weight", [[1.0], [1.0], [0.5], [1.0]], r"sample 0 has the weight \[1.0\], which is of the type list"),
        ("weight", [1.0, -0.1, 0.5, 1.0], "sample 1 has the weight -0.1: weights in the data must be finite and 0 or more"),
        ("weight", [1.0, 1.0, float("nan"), 1.0], "sample 2 has the weight nan: weights in the data must be finite"),
        ("weight", [1.0, 1.0, 1.0, float("inf")], "sample 3 has the weight inf: weights in the data must be finite"),
        ("weight", [0.0] * 4, r"DatasetWeights\(\) gives every token of the training data the weight 0, so nothing"),
        ("token_weights", per_token(1, float("nan")), "sample 1 has the token_weights nan: weights in the data must be"),
        ("token_weights", per_token(3, -2.0), "sample 3 has the token_weights -2: weights in the data must be finite"),
        ("token_weights", [1.0] * 4, "sample 0 has the token_weights 1.0, which is no list: each must be a list with one"),
        ("token_weights", ["0.5"] * 4, "sample 0 has the token_weights '0.5', which is no list: each must be a list"),
        ("token_weights", [["a"] * n for n in LENGTHS], r"sample 0 has the token_weights \['a', .*\], which is text"),
        ("token_weights", [[1.0], *per_token(0, 1.0)[1:]], r"sample 0 has \d+ tokens but 1 token_weights: give one per"),
        ("token_weights", [[0.0] * n for n in LENGTHS], "gives every token of the training data the weight 0, so nothing"),
        ("importance", [1.0] * 4, "DatasetWeights needs a column `weight` or `token_weights`; the data has input_ids"),
    ],
)  # fmt: skip
def test_weights_that_are_none_are_named_with_their_sample(tmp_path, name, weights, words):
    with pytest.raises(UserError, match=words):
        make_trainer(tmp_path, DatasetWeights(), weighted(weights, name))


def test_the_sample_is_named_as_it_was_given_although_others_are_left_out(tmp_path):
    rows = [{**row, "weight": 1.0} for row in token_rows(6)]
    for row in rows[:3]:  # cut at 4 tokens, they hold no response
        row["labels"] = [-100] * len(row["labels"])
    rows[5]["weight"] = -1.0
    with pytest.raises(UserError, match="sample 5 has the weight -1"):
        make_trainer(tmp_path, DatasetWeights(), Dataset.from_list(rows))


def test_a_weight_under_another_weighing_is_no_concern(tmp_path):
    worded, plain = (
        trained(tmp_path, SSToken(), rows)
        for rows in (weighted(["much", "little", "none", "some"]), token_rows(4))
    )
    assert logged(worded, "loss") == logged(plain, "loss")


# Nothing to learn from


FIRST = {"input_ids": [9, 10, 11], "labels": [9, -100, -100]}


@pytest.mark.parametrize(
    "weighing", [SSToken(), RandomTokens(), NOW, DatasetWeights()], ids=lambda w: type(w).__name__
)
@pytest.mark.parametrize("row", [FIRST, {"input_ids": [9], "labels": [9]}], ids=["first", "single"])
@pytest.mark.parametrize("options", [{}, {"packing": True, "max_length": 16}], ids=["", "packed"])
def test_labels_on_first_tokens_only_are_refused(tmp_path, weighing, row, options):
    rows = Dataset.from_list([{**row, "weight": 1.0}] * 6)
    with pytest.raises(
        UserError, match="no token to learn from: its only labels are on first tokens of samples, which"
    ):
        make_trainer(tmp_path, weighing, rows, **options)


def test_responses_that_packing_cuts_off_are_refused(tmp_path):
    rows = Dataset.from_list([{"input_ids": [5] * 50, "labels": [-100] * 45 + [5] * 5}] * 4)
    with pytest.raises(
        UserError, match=r"no token to learn from: every label is -100 \(a response may have been cut off"
    ):
        make_trainer(tmp_path, NOW, rows, packing=True, max_length=20)


def test_some_labels_on_first_tokens_are_no_obstacle(tmp_path):
    good = {"input_ids": [9, 10, 11], "labels": [-100, 10, 11]}
    trainer = trained(tmp_path, SSToken(), Dataset.from_list([FIRST] * 3 + [good] * 3))
    assert sum(logged(trainer, "loss")) > 0


def test_a_share_that_keeps_no_token_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"RandomTokens\(share=0.001\) gives every token .* or raise the share"
    ):
        make_trainer(tmp_path, RandomTokens(share=0.001))


@pytest.mark.parametrize(("row", "change"), [(2, 1), (0, -1)])
def test_a_mask_of_another_length_is_named(tmp_path, row, change):
    rows = [dict(each) for each in padded("right")]
    rows[row]["attention_mask"] = ([1] * 30)[: 24 + change]
    with pytest.raises(
        UserError, match=rf"sample {row} has 24 input_ids but {24 + change} attention_mask: give 1 for a"
    ):
        make_trainer(tmp_path, NOW, Dataset.from_list(rows))


# Data replaced afterwards


def test_a_selection_of_the_training_data_keeps_its_numbers(tmp_path):
    rows = token_rows().add_column("weight", [float(row) for row in range(12)])
    trainer = make_trainer(tmp_path, DatasetWeights(), rows, per_device_train_batch_size=3)
    trainer.train_dataset = trainer.train_dataset.shuffle(seed=1).select([2, 5, 7])
    trainer.train()
    only = make_trainer(
        tmp_path, DatasetWeights(), rows.shuffle(seed=1).select([2, 5, 7]), per_device_train_batch_size=3
    )
    only.train()
    assert logged(trainer, "loss") == pytest.approx(logged(only, "loss"))


@pytest.mark.parametrize(
    "weighing", [SSToken(), RandomTokens(), DatasetWeights(), PromptResponseWeights(), SSToken(history="previous_epoch")],
    ids=lambda w: w.describe(),
)  # fmt: skip
@pytest.mark.parametrize(
    "other",
    [lambda: token_rows(5, seed=8), lambda: token_rows(5).to_iterable_dataset()],
    ids=["data", "stream"],
)
def test_other_data_afterwards_is_refused_where_numbers_are_looked_up(tmp_path, weighing, other):
    trainer = make_trainer(
        tmp_path, weighing, token_rows().add_column("weight", [1.0] * 12), num_train_epochs=2, max_steps=8
    )
    trainer.train_dataset = other()
    words = f"{type(weighing).__name__} looks up numbers by token, and this data has none: train_dataset was replaced"
    with pytest.raises(UserError, match=words):
        trainer.train()


def test_other_data_afterwards_is_learned_from_where_none_are(tmp_path):
    trainer = make_trainer(tmp_path, NOW)
    trainer.train_dataset = token_rows(6, seed=8)
    trainer.train()
    direct = trained(tmp_path, NOW, token_rows(6, seed=8))
    assert logged(trainer, "loss") == logged(direct, "loss")


# Checkpoints


def checkpointed(folder, weighing, trainer=TokenWeighingTrainer, **options):
    return trained(folder, weighing, trainer=trainer, save_strategy="steps", save_steps=2, **options)


@pytest.mark.parametrize("weighing", [NOW, DatasetWeights(), RandomTokens()], ids=lambda w: type(w).__name__)
@pytest.mark.parametrize("resume", [True, "by name"])
def test_a_checkpoint_of_trl_is_resumed_where_nothing_is_remembered(tmp_path, weighing, resume):
    rows = token_rows().add_column("weight", [1.0] * 12)
    checkpointed(tmp_path, None, SFTTrainer, rows=rows)
    shutil.rmtree(tmp_path / "checkpoint-4")
    trainer = make_trainer(tmp_path, weighing, rows)
    trainer.train(resume_from_checkpoint=True if resume is True else str(tmp_path / "checkpoint-2"))
    assert trainer.state.global_step == 4
    assert len(logged(trainer, "tokens/share_kept")) == 2


@pytest.mark.parametrize("history", ["ema", "previous_epoch"])
def test_a_checkpoint_of_trl_is_refused_where_something_is_remembered(tmp_path, history):
    checkpointed(tmp_path, None, SFTTrainer)
    trainer = make_trainer(tmp_path, SSToken(history=history), num_train_epochs=2)
    words = rf"checkpoint-2 holds nothing of what SSToken\(history='{history}'\) remembers: it was not written by tokenry"
    with pytest.raises(UserError, match=words):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    with pytest.raises(UserError, match="holds no whole checkpoint to resume from"):
        trainer.train(resume_from_checkpoint=True)


@pytest.mark.parametrize("name", ["checkpoint-best", "checkpoint-3x", "checkpoint-"])
def test_folders_of_other_names_beside_the_checkpoints_are_no_obstacle(tmp_path, name):
    whole = checkpointed(tmp_path, SSToken())
    shutil.rmtree(tmp_path / "checkpoint-4")
    shutil.copytree(tmp_path / "checkpoint-2", tmp_path / name)
    trainer = make_trainer(tmp_path, SSToken())
    trainer.train(resume_from_checkpoint=True)
    for ours, theirs in zip(weights_of(trainer), weights_of(whole), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("weighing", [NOW, SSToken(history="ema")], ids=lambda w: type(w).__name__)
def test_a_checkpoint_that_is_not_there_is_named(tmp_path, weighing):
    with pytest.raises(UserError, match=r"the checkpoint .*checkpoint-7 does not exist: name one that does"):
        make_trainer(tmp_path, weighing).train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))


def test_a_plain_training_resumes_as_trl_does(tmp_path):
    whole = checkpointed(tmp_path, None)
    theirs = make_trainer(tmp_path, None, trainer=SFTTrainer)
    theirs.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    ours = make_trainer(tmp_path, None)
    ours.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for first, second, third in zip(weights_of(whole), weights_of(theirs), weights_of(ours), strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first, third)


# Arguments


@pytest.mark.newer("trl")
def test_outputs_in_training_are_those_of_trl(tmp_path):
    told = []
    for trainer in (make_trainer(tmp_path, None, trainer=SFTTrainer), make_trainer(tmp_path, NOW)):
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.train()
        loss, outputs = trainer.compute_loss(trainer.model, dict(batch), return_outputs=True)
        assert loss.requires_grad
        told.append(outputs.logits)
    torch.testing.assert_close(told[0], told[1])
    again = trainer.compute_loss(trainer.model, batch), trainer.compute_loss(trainer.model, batch)
    assert float(again[0]) == float(again[1])


def test_packing_without_a_length_is_refused(tmp_path):
    with pytest.raises(UserError, match="packing=True needs to know how long a row may be: set max_length"):
        make_trainer(tmp_path, NOW, packing=True, max_length=None)


WRAPPED = {"packing": True, "packing_strategy": "wrapped", "max_length": 16}


@pytest.mark.parametrize(
    ("weighing", "words"),
    [
        (NOW, "so tokens cannot be ranked within them, as SmallLoss"),
        (
            SSToken(scope="batch"),
            r"so a response cannot be told to look at its prompt, as SSToken\(scope='batch'\) does",
        ),
        (RandomTokens(reduction="sample"), "so they have no mean loss of their own, as RandomTokens"),
        (DatasetWeights(reduction="paper"), "so they have no mean loss of their own, as DatasetWeights"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_wrapped_rows_are_refused_for_what_they_do_not_hold(tmp_path, weighing, words):
    rows = token_rows().add_column("weight", [1.0] * 12)
    with pytest.raises(UserError, match=f"packing_strategy='wrapped' cuts samples apart, {words}"):
        make_trainer(tmp_path, weighing, rows, **WRAPPED)


@pytest.mark.parametrize(
    "weighing", [RandomTokens(), DatasetWeights(), PromptResponseWeights(), SmallLoss(scope="batch", warmup_epochs=0.0), Rho1()],
    ids=lambda w: type(w).__name__,
)  # fmt: skip
@pytest.mark.parametrize("shuffled", [False, True])
def test_wrapped_rows_are_fine_where_nothing_is_done_within_samples(tmp_path, weighing, shuffled):
    rows = token_rows().add_column("weight", [float(row % 3) for row in range(12)])
    given = {"reference_model": tiny_llama(seed=1)}
    trainer = trained(tmp_path, weighing, rows, given=given, shuffle_dataset=shuffled, **WRAPPED)
    assert all(loss > 0 for loss in logged(trainer, "loss"))
    weights = trainer.store.columns["weight"]
    if isinstance(weighing, DatasetWeights):
        expected = torch.repeat_interleave(
            torch.arange(12.0) % 3, torch.tensor([len(ids) for ids in rows["input_ids"]])
        )
        assert torch.equal(weights[~weights.isnan()], expected[~weights.isnan()])


@pytest.mark.parametrize("history", ["ema", "adapter_off"])
def test_a_live_history_looks_nothing_up_and_takes_a_stream(tmp_path, history):
    given = {"peft_config": LoraConfig(r=4, target_modules=["q_proj"])}
    trainer = trained(
        tmp_path,
        SSToken(history=history, warmup_fraction=0.0),
        token_rows().to_iterable_dataset(),
        given=given,
        max_steps=3,
    )
    assert all(0.6 <= share < 0.8 for share in logged(trainer, "tokens/share_kept"))


@pytest.mark.newer("transformers")
def test_layer_kernels_of_liger_are_no_reason_to_refuse(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenry.finetuning.refusals.is_liger_kernel_available", lambda: True)
    trainer = make_trainer(tmp_path, NOW, use_liger_kernel=True)
    assert trainer.args.liger_kernel_config == {"fused_linear_cross_entropy": False}


def test_liger_that_is_not_installed_is_named_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenry.finetuning.refusals.is_liger_kernel_available", lambda: False)
    with pytest.raises(UserError, match="use_liger_kernel=True needs the package liger-kernel: pip install"):
        make_trainer(tmp_path, NOW, use_liger_kernel=True)


@pytest.mark.parametrize("count", [0, 1, 7, 60, 500, 3000])
@pytest.mark.parametrize("share", [0.001, 0.2, 0.6, 1.0])
def test_the_packed_draw_is_the_one_of_python(count, share):
    expected = sorted(random_sample(count, share, seed=count))
    assert random_choice(count, share, seed=count).nonzero()[:, 0].tolist() == expected


# More samples than TRL packs at a time


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
def test_packed_rows_are_those_of_trl_and_know_their_tokens(tmp_path, strategy):
    generator = np.random.default_rng(0)
    rows = [generator.integers(6, 60, size=generator.integers(2, 9)).tolist() for _ in range(1203)]
    weights = [[1000.0 * row + t for t in range(len(ids))] for row, ids in enumerate(rows)]
    data = Dataset.from_dict({"input_ids": rows, "labels": rows, "token_weights": weights})
    options = {"packing": True, "packing_strategy": strategy, "max_length": 7, "shuffle_dataset": True}
    theirs = make_trainer(tmp_path, None, data, SFTTrainer, **options).train_dataset
    ours = make_trainer(tmp_path, DatasetWeights(), data, **options)
    packed = ours.train_dataset
    assert packed["input_ids"][:] == theirs["input_ids"][:]
    column = ours.store.columns["dataset_weight"]
    for row in (0, 1, len(packed) // 2, len(packed) - 1):
        batch = ours.data_collator([packed[row]])
        for token, index in zip(
            batch["input_ids"][0].tolist(), batch["token_index"][0].tolist(), strict=True
        ):
            sample, t = divmod(int(column[index]), 1000)
            assert rows[sample][t] == token


ONE, TWO = [[1, -100]], [[1.0, 0.0], [2.0]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((ONE, TWO, TWO, 0.5), "labels of 1 samples but base losses of 2"),
        ((ONE, [[1.0]], [[1.0, 0.0]], 0.5), "sample 0 has 2 labels but 1 base losses"),
        ((ONE, TWO[:1], TWO[:1], 0.0), "share must be in (0, 1], got 0.0"),
        ((ONE, TWO[:1], TWO[:1], 0.5, "batch"), "scope must be one of dataset, sample, got 'batch'"),
    ],
)
def test_labels_that_cannot_be_cleaned(arguments, words):
    with pytest.raises(UserError) as refusal:
        token_cleaning_labels(*arguments)
    assert words in str(refusal.value)


def test_no_samples_are_cleaned_to_none():
    assert token_cleaning_labels([], [], [], 0.5) == []


def test_a_random_share_above_one_is_refused():
    with pytest.raises(UserError, match=r"share must be in \(0, 1\], got 1.5"):
        random_token_labels(ONE, 1.5)
