"""The verb `compress long-text`: texts shortened and counted, fine-tuned after searches that resume, and what is refused."""

import json

import pytest

from tests.evaluation.encoders.tiny_task import NAMES, encoder, labelled
from tests.tiny.chats import write_rows
from tests.tiny.tokenizers import character_tokenizer
from tests.verbs.check_verb import check_refused, check_verb, tokenry

VERB = "compress long-text"
FAST = ("--trials", 2, "--epochs", 1, "--learning-rates", "1e-3,1e-2", "--batch-sizes", 16, "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long-text")
    encoder(multi_label=False).save(folder / "encoder")
    character_tokenizer(adds_bos=True).save_pretrained(folder / "characters")
    texts = labelled(40, multi_label=False)
    splits = ("train", "train", "validation", "test")
    rows = [
        {"text": f"{text} , the w1 and w1", "label": NAMES[row.argmax()], "split": splits[number % 4]}
        for number, (text, row) in enumerate(zip(texts.texts, texts.labels, strict=True))
    ]
    write_rows(folder / "texts.jsonl", rows)
    write_rows(folder / "bare.jsonl", [{"text": row["text"]} for row in rows])
    return folder


def test_texts_are_shortened_and_counted_for_the_shortest_tokenizer(folder, tmp_path):
    models = f"{folder / 'characters'},{folder / 'encoder'}"
    options = ("--models", models, "--hacks", "stopwords,punctuation,low-frequency", "--max-lengths", "16,8")
    saved = check_verb(VERB, folder / "bare.jsonl", *options, output=tmp_path / "run")
    assert saved["model"] == str(folder / "encoder")
    assert [row["name"] for row in saved["hacks"]] == [
        "raw",
        "stopwords",
        "punctuation",
        "low-frequency",
        "stopwords + punctuation + low-frequency",
    ]
    raw, stopwords, punctuation, *_ = saved["hacks"]
    assert raw["mean"] - stopwords["mean"] == pytest.approx(2)
    assert raw["mean"] - punctuation["mean"] == pytest.approx(1)
    assert stopwords["dropped"]["stopwords"] == 80
    assert raw["over"][0] > stopwords["over"][0] > raw["over"][1]
    assert saved["windows"] == [8, 16]
    lines = (tmp_path / "run/shortened.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    assert len(texts) == 40
    assert not any({"the", "and", ","} & set(text.split()) for text in texts)
    shown = " ".join(tokenry("report", tmp_path / "run").stdout.split())
    assert "low-frequency words were counted in all texts" in shown


def test_raw_and_shortened_texts_are_fine_tuned_after_searches_that_resume(folder, tmp_path):
    arguments = (folder / "texts.jsonl", "--models", folder / "encoder", "--max-lengths", "8,16", "--head", 4)
    saved = check_verb(VERB, *arguments, *FAST, output=tmp_path / "run")
    assert [(row["texts"], row["window"]) for row in saved["trials"]] == [
        ("raw", 8),
        ("raw", 16),
        ("shortened", 8),
        ("shortened", 16),
    ]
    assert saved["counts"] == {"documents": 40, "training": 20}
    assert saved["trials"][1]["difference"]["value"] == 0
    assert all(row["trials"] == 2 for row in saved["trials"])
    ledger = tmp_path / "run/search-raw.jsonl"
    before = ledger.read_text(encoding="utf-8")
    assert len(before.splitlines()) == 3
    again = tokenry(VERB, *arguments, *FAST, "--output", tmp_path / "run", "--json", "--quiet")
    assert again.exit_code == 0
    assert ledger.read_text(encoding="utf-8") == before, "no trial is made twice"
    shown = " ".join(tokenry("report", tmp_path / "run").stdout.split())
    assert "of the raw texts in 16 tokens" in shown
    assert "Not worse by more than 2 points" in shown
    check_refused(
        VERB, *arguments, *FAST, "--seed", 7, "--output", tmp_path / "run",
        words="is the ledger of another search",
    )  # fmt: skip


def test_short_texts_can_be_left_alone(folder, tmp_path):
    options = ("--models", folder / "encoder", "--max-lengths", "64", "--only-if-longer")
    saved = check_verb(VERB, folder / "texts.jsonl", *options, output=tmp_path / "run")
    assert saved["hacks"][0]["mean"] == saved["hacks"][1]["mean"]


def test_what_cannot_be_shortened_or_fine_tuned_is_refused(folder, tmp_path):
    many = write_rows(tmp_path / "many.jsonl", [{"text": "w1", "labels": [name], "split": split} for name, split in zip(NAMES, ("train", "validation", "test"), strict=True)])  # fmt: skip
    data, model = folder / "texts.jsonl", ("--models", folder / "encoder")
    for arguments, words in (
        ((data,), "give --models, --hacks and --max-lengths"),
        ((data, *model, "--hacks", "stemming"), "hacks must be one of stopwords, punctuation, low-frequency, recurring"),
        ((data, *model, "--stopwords", "klingon"), "stopwords must be a file with one word per line, english"),
        ((data, *model, "--min-count", 0), "--min-count must be at least 1, got 0"),
        ((data, *model, "--trials", 1, "--output", tmp_path / "a.json"), "output must name a folder"),
        ((data, *model, "--max-lengths", "8", "--head", 9), "head must be from 0 to the 8 tokens that are kept, got 9"),
        ((data, "--models", folder / "characters", "--max-lengths", "1"), "max_length must be at least 2, got 1"),
        ((folder / "bare.jsonl", *model, *FAST), "has no label"),
        ((many, *model, *FAST), "--trials fine-tunes on one label per text"),
        ((data, *model, *FAST, "--max-lengths", 600), "must be at most 512, the number of positions"),
    ):  # fmt: skip
        check_refused(
            VERB,
            *arguments,
            *(() if "--output" in arguments else ("--output", tmp_path / "run")),
            words=words,
        )
