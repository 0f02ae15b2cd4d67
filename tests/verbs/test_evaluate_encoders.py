"""The verb `evaluate encoders`: encoders fine-tuned or predictions stored, what is said of them, and what is refused."""

import json

import numpy as np
import pytest

from tests.evaluation.encoders.tiny_task import NAMES, encoder, labelled
from tests.tiny.chats import write_rows
from tests.verbs.check_verb import check_refused, check_verb, tokenry
from tokenry.evaluation.encoders import compare_predictions, multilabel_metrics

FAST = (
    "--epochs",
    1,
    "--batch-size",
    8,
    "--learning-rate",
    0.01,
    "--rounds",
    1,
    "--draws",
    20,
    "--device",
    "cpu",
)
SHORT = ("--max-length", 32)


def rows_of(count, multi_label=True, seed=0, splits=()):
    texts = labelled(count, multi_label, seed)
    rows = []
    for number, (text, row) in enumerate(zip(texts.texts, texts.labels, strict=True)):
        names = [name for name, there in zip(NAMES, row, strict=True) if there]
        split = {"split": splits[number % len(splits)]} if splits else {}
        rows.append({"text": text, **({"labels": names} if multi_label else {"label": names[0]}), **split})
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    encoder().save(folder / "large")
    encoder(num_hidden_layers=1).save(folder / "small")
    write_rows(folder / "data.jsonl", rows_of(60, splits=("train", "train", "test", "validation")))
    write_rows(folder / "outside.jsonl", rows_of(12, seed=1))
    return folder


def models(folder):
    return "--models", f"{folder / 'large'},{folder / 'small'}"


def predicted(path, prob, texts=None):
    rows = [{"probabilities": dict(zip(NAMES, map(float, row), strict=True))} for row in prob]
    if texts is not None:
        rows = [row | {"text": text} for row, text in zip(rows, texts, strict=True)]
    return write_rows(path, rows)


def test_encoders_are_fine_tuned_and_compared(folder, tmp_path):
    arguments = (
        folder / "data.jsonl",
        *models(folder),
        "--external",
        folder / "outside.jsonl",
        *FAST,
        *SHORT,
    )
    saved = check_verb("evaluate encoders", *arguments, output=tmp_path / "run")
    assert saved["labels"] == sorted(NAMES)
    assert saved["texts"] == {"training": 30, "validation": 15, "test": 15, "external": 12}
    assert [row["name"] for row in saved["encoders"]] == ["large", "small"]
    assert set(saved["encoders"][1]["metrics"]) == {"test", "test, tuned", "external", "external, tuned"}
    shown = " ".join(tokenry("report", tmp_path / "run").stdout.split())
    assert "15 test texts settle" in shown
    assert "0.0% fewer tokens per text than large" in shown
    assert "on the external texts exact match falls by" in shown


def test_texts_with_one_label_each_are_split_by_the_seed(folder, tmp_path):
    data = write_rows(tmp_path / "data.jsonl", rows_of(40, multi_label=False))
    saved = check_verb("evaluate encoders", data, *models(folder), *FAST, *SHORT, output=tmp_path / "run")
    assert saved["texts"] == {"training": 28, "validation": 4, "test": 8}
    assert set(saved["encoders"][0]["metrics"]) == {"test"}


def test_stored_predictions_are_compared_and_settle_what_they_can(tmp_path):
    names, texts = sorted(NAMES), labelled(150)
    truth = texts.labels[:, [NAMES.index(name) for name in names]]
    generator = np.random.default_rng(0)
    probabilities = [
        np.clip(texts.labels * 0.6 + generator.normal(0.2, 0.3, texts.labels.shape), 0, 1) for _ in "ab"
    ]
    files = [
        predicted(tmp_path / f"{name}.jsonl", prob, texts.texts)
        for name, prob in zip("ab", probabilities, strict=True)
    ]
    data = write_rows(tmp_path / "data.jsonl", rows_of(150))
    options = ("--predictions", files[0], "--predictions", files[1], "--draws", 20, "--margin", 0.2)
    saved = check_verb("evaluate encoders", data, *options, output=tmp_path / "run")
    ordered = [prob[:, [NAMES.index(name) for name in names]] for prob in probabilities]
    expected = compare_predictions(truth, *(prob >= 0.5 for prob in ordered[::-1]), margin=0.2, draws=20)
    compared = saved["comparisons"][0]
    assert compared["exact"] == {
        "only_a": expected.exact.only_a,
        "only_b": expected.exact.only_b,
        "p": expected.exact.p,
    }
    assert compared["not_worse"] == expected.not_worse
    assert saved["encoders"][0]["metrics"]["test"]["f1"] == pytest.approx(
        multilabel_metrics(truth, ordered[0]).f1.tolist()
    )
    shown = " ".join(tokenry("report", tmp_path / "run").stdout.split())
    assert "150 test texts settle only gaps of about 8 points or more" in shown


# --- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"title": "w1", "labels": ["cyst"]}], "text 1 has no text under text, got None"),
        (
            [{"text": "w1", "labels": "cyst"}],
            'labels must be a list of names, such as ["cyst", "nodule"], got \'cyst\'',
        ),
        ([{"text": "w1", "labels": [0, 1]}], "labels must be a list of names"),
        ([{"text": "w1", "label": 1}], "label must be one name, such as cyst, got 1"),
        ([{"text": "w1", "labels": []}, {"text": "w1", "label": "cyst"}], "text 2 has no labels"),
        (
            [{"text": "w1", "labels": ["cyst"], "split": "dev"}],
            "split must be one of train, validation, test, got 'dev'",
        ),
        (
            [{"text": "w1", "labels": ["cyst"], "split": "test"}, {"text": "w1", "labels": []}],
            "names a split for some texts only",
        ),
        (
            [{"text": "w1", "labels": ["cyst"], "split": "train"}],
            "the data have no validation and no test texts",
        ),
    ],
)
def test_rows_that_are_no_labelled_texts_are_refused(rows, words, folder, tmp_path):
    check_refused(
        "evaluate encoders", write_rows(tmp_path / "rows.jsonl", rows), *models(folder), words=words
    )


def test_predictions_of_other_texts_or_labels_are_refused(tmp_path):
    texts = labelled(6)
    data = write_rows(tmp_path / "data.jsonl", rows_of(6))
    good = predicted(tmp_path / "good.jsonl", texts.labels, texts.texts)
    short = predicted(tmp_path / "short.jsonl", texts.labels[:4])
    other = predicted(tmp_path / "other.jsonl", texts.labels, texts.texts[::-1])
    labels = write_rows(tmp_path / "labels.jsonl", [{"probabilities": {"cyst": 1, "lump": 0}}] * 6)
    outside = predicted(tmp_path / "outside.jsonl", texts.labels * 2)
    for path, words in (
        (short, "has 4 predictions for 6 test texts"),
        (other, "prediction 1 is of another text than the data have there"),
        (
            labels,
            "must have a probability for each of cyst, effusion, nodule under probabilities, got cyst, lump",
        ),
        (outside, "probabilities must be in [0, 1], got 2.0"),
    ):
        check_refused("evaluate encoders", data, "--predictions", good, "--predictions", path, words=words)


def test_options_that_contradict_are_refused(folder, tmp_path):
    data = folder / "data.jsonl"
    for arguments, words in (
        ((), "give either --models, which are fine-tuned, or --predictions"),
        (("--models", "a"), "at least two, the baseline first, got 1"),
        (("--predictions", "a", "--predictions", "b", "--external", data), "--external goes with --models"),
        ((*models(folder), "--margin", 5), "margin must be in [0, 1], got 5"),
        ((*models(folder), "--max-length", 600), "--max-length must be at most 512"),
    ):
        check_refused("evaluate encoders", data, *arguments, words=words)
    own = write_rows(tmp_path / "own.jsonl", [{"text": "w1", "labels": ["lump"]}])
    check_refused(
        "evaluate encoders",
        data,
        *models(folder),
        "--external",
        own,
        words="labels that the data do not have: lump",
    )


def test_what_is_saved_is_json(folder, tmp_path):
    arguments = (folder / "data.jsonl", *models(folder), *FAST, *SHORT)
    result = tokenry("evaluate encoders", *arguments, "--json", "--quiet")
    assert json.loads(result.stdout)["kind"] == "encoders"
