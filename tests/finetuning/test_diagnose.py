"""Diagnosis: a signal is judged by how well it tells the wanted tokens from the others."""

import pytest
import torch

from tests.tiny.models import llama as tiny_llama
from tests.tiny.tokenizers import word_tokenizer as tiny_tokenizer
from tests.tiny.training import sft_config, token_rows
from tokenry.core.errors import UserError
from tokenry.finetuning import AllTokens, SmallLoss, SSToken, TokenCleaning, diagnose, judge


def _marked_rows():
    rows = token_rows()
    classes = [
        [-1 if label == -100 else t % 2 for t, label in enumerate(labels)] for labels in rows["labels"]
    ]
    return rows.add_column("token_class", classes)


def _arguments(tmp_path, rows):
    return {
        "model": tiny_llama(),
        "args": sft_config(tmp_path),
        "train_dataset": rows,
        "processing_class": tiny_tokenizer(),
    }


def test_a_signal_that_knows_everything_has_an_auroc_of_one_and_keeps_no_noise():
    token_class = torch.tensor([0, 0, 0, 1, 1, 2])
    score = torch.tensor([0.9, 0.8, 0.7, 0.3, 0.2, 0.1])
    diagnosis = judge("oracle", score, score > 0.5, token_class, ["clean", "wrong", "fragment"], "clean")
    assert diagnosis.auroc == {"all": 1.0, "wrong": 1.0, "fragment": 1.0}
    assert diagnosis.share_kept == {"clean": 1.0, "wrong": 0.0, "fragment": 0.0}
    assert diagnosis.unwanted_share == 0.0
    assert diagnosis.unwanted_share_of_all == 0.5


def test_the_auroc_of_each_class_is_against_the_wanted_tokens_only():
    token_class = torch.tensor([0, 0, 1, 2])
    score = torch.tensor([0.5, 0.6, 0.1, 0.9])
    diagnosis = judge("half", score, score > 0.5, token_class, ["clean", "below", "above"], "clean")
    assert diagnosis.auroc == {"all": 0.5, "below": 1.0, "above": 0.0}


def test_every_weighing_is_judged_after_one_epoch_without_selection(tmp_path):
    weighings = {
        "sstoken": SSToken(),
        "content": SSToken(balance=0.0, attention="content", layers="deep"),
        "small loss": SmallLoss(),
        "cleaning": TokenCleaning(),
    }
    arguments = {**_arguments(tmp_path, _marked_rows()), "reference_model": tiny_llama(seed=1)}
    judged = diagnose(arguments, weighings, ["clean", "noise"])
    assert [diagnosis.weighing for diagnosis in judged] == list(weighings)
    for diagnosis in judged:
        assert 0.0 <= diagnosis.auroc["all"] <= 1.0
        assert 0.4 < sum(diagnosis.share_kept.values()) / 2 < 0.9
    assert len({diagnosis.auroc["all"] for diagnosis in judged}) == len(judged)


def test_small_loss_finds_tokens_that_cannot_be_learned(tmp_path):
    torch.manual_seed(0)
    rows = []
    for _ in range(60):
        key = int(torch.randint(6, 16, (1,)))
        noise = int(torch.randint(20, 64, (1,)))
        ids = [key, key + 1, noise, key + 1, noise, key + 1]
        rows.append({"input_ids": ids, "labels": [-100, *ids[1:]], "token_class": [-1, 0, 1, 0, 1, 0]})
    from datasets import Dataset

    arguments = _arguments(tmp_path, Dataset.from_list(rows))
    arguments["args"] = sft_config(tmp_path, learning_rate=5e-3, optim="adamw_torch")
    (diagnosis,) = diagnose(arguments, {"small loss": SmallLoss()}, ["clean", "noise"])
    assert diagnosis.auroc["noise"] > 0.8
    assert diagnosis.unwanted_share < diagnosis.unwanted_share_of_all


def test_data_without_classes_is_refused(tmp_path):
    with pytest.raises(UserError, match="no column token_class"):
        diagnose(_arguments(tmp_path, token_rows()), {"full": AllTokens()}, ["clean"])


def test_an_unknown_class_and_a_single_class_are_refused():
    score, kept = torch.rand(3), torch.ones(3, dtype=torch.bool)
    with pytest.raises(UserError, match="there is no token class 'good': the data has clean, noise"):
        judge("any", score, kept, torch.tensor([0, 1, 0]), ["clean", "noise"], "good")
    with pytest.raises(UserError, match="all tokens are of one class"):
        judge("any", score, kept, torch.zeros(3, dtype=torch.long), ["clean", "noise"], "clean")
