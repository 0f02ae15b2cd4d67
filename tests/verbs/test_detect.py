"""`tokenry detect`: calibrated on human texts, verdicts below the measured rate, rates on labelled texts."""

import json
import random

import pytest
from transformers import BertForSequenceClassification

from tests import tiny
from tests.tiny.chats import write_model, write_rows
from tests.tiny.tokenizers import ENGLISH, byte_level
from tests.verbs.check_verb import check_refused, check_verb, tokenry
from tokenry.data import Calibration

PLACE = ("--device", "cpu")
QUICK = (*PLACE, "--dtype", "float32")
WORDS = [
    "What",
    "is",
    "the",
    "answer?",
    "The",
    "answer",
    "is",
    "42,",
    "of",
    "course!",
    "Yes",
    "or",
    "no?",
    "Hello",
    "world,",
    "hello",
    "there.",
    "First",
    "line.",
    "Second",
    "line.",
]


def rows(count, seed, label=None, words=55):
    """Texts of known words; those with the label 1 say one word all the time."""
    draws = random.Random(seed)
    found = []
    for number in range(count):
        text = " ".join(draws.choices(WORDS[:2] if label == 1 else WORDS, k=words))
        row = {"text": text, "domain": "news" if number % 2 else "mail"}
        found.append(row if label is None else row | {"label": label})
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("detect")


@pytest.fixture(scope="module")
def model(folder):
    return write_model(folder / "model")


@pytest.fixture(scope="module")
def human(folder):
    return write_rows(folder / "human.jsonl", rows(40, 0))


@pytest.fixture(scope="module")
def machine(folder):
    return write_rows(folder / "machine.jsonl", rows(20, 1, label=1))


@pytest.fixture(scope="module")
def calibration(model, human, machine, folder):
    """What `calibrate` saved, and its file."""
    given = (human, "--machine", machine, "--scorer", model, "--score", "likelihood", "--fpr", 0.1, *QUICK)
    saved = check_verb("detect calibrate", *given, output=folder / "detector")
    return saved, folder / "detector/calibration.json"


def said(*arguments):
    return " ".join(tokenry(*arguments).stdout.split())


def test_a_calibration_is_measured_and_kept(calibration):
    saved, file = calibration
    stored = Calibration.load(file)
    assert saved["calibration"]["human_texts"] == stored.texts == 40
    assert saved["calibration"]["false_positives"] <= 4
    assert saved["calibration"]["found"] == stored.found
    assert saved["scores"]["human"] == list(stored.human_scores)
    shown = said("report", file.parent)
    assert (
        f"Measured false-positive rate: {saved['calibration']['false_positives']} of 40 human texts" in shown
    )
    assert "it is no evidence against a person" in shown


def test_verdicts_stand_below_the_measured_rate(calibration, folder, tmp_path):
    texts = write_rows(
        tmp_path / "texts.jsonl", [*rows(2, 5), *rows(1, 6, 1), {"text": "short"}, {"text": ""}]
    )
    saved = check_verb("detect score", calibration[1], texts, *QUICK, output=tmp_path / "score")
    assert [text["name"] for text in saved["texts"]] == [f"row {number}" for number in range(1, 6)]
    assert [text["outcome"] for text in saved["texts"][3:]] == ["undecidable"] * 2
    assert saved["texts"][4]["score"] is None
    assert "".join(piece["text"] for piece in saved["spans"][0]) == rows(2, 5)[0]["text"]
    shown = said("report", tmp_path / "score")
    assert shown.index("Measured false-positive rate") < shown.index("verdicts:")
    assert shown.index("no evidence against a person") < shown.index("verdicts:")


def test_a_text_file_is_one_text_and_a_folder_of_them_several(calibration, tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(rows(1, 3)[0]["text"])
    for source, names in ((tmp_path / "one.txt", ["one.txt"]), (tmp_path, ["one.txt", "two.txt"])):
        output = tmp_path.with_name(f"{tmp_path.name}-out")
        result = tokenry(
            "detect score",
            calibration[1],
            source,
            "--maps",
            0,
            *QUICK,
            "--json",
            "--quiet",
            "--output",
            output,
        )
        assert [text["name"] for text in json.loads(result.stdout)["texts"]] == names


def test_labelled_texts_are_reported_by_column_by_length_and_under_attack(calibration, folder, tmp_path):
    data = write_rows(tmp_path / "data.jsonl", [*rows(30, 7, 0), *rows(20, 8, 1), *rows(3, 9, 0, words=5)])
    attacks = ("--attack", "homoglyph", "--attack", "whitespace", "--rate", 0.5)
    saved = check_verb("detect report", calibration[1], data, *attacks, *QUICK, output=tmp_path / "report")
    assert {(group["by"], group["name"]) for group in saved["groups"]} >= {
        ("domain", "news"),
        ("length", "50 to 99 tokens"),
    }
    assert [group["name"] for group in saved["attacks"]] == ["homoglyph", "whitespace"]
    assert saved["attacks"][0]["found"] == saved["overall"]["found"], "look-alikes are folded before scoring"
    assert saved["overall"]["false_positives"]["texts"] == 33


def test_human_texts_of_another_kind_are_warned_of(calibration, tmp_path):
    data = write_rows(
        tmp_path / "data.jsonl",
        [row | {"label": 1 - row["label"]} for row in [*rows(30, 7, 0), *rows(30, 8, 1)]],
    )
    saved = check_verb("detect report", calibration[1], data, *QUICK, output=tmp_path / "report")
    expected = saved["overall"]["false_positives"]["low"] > 0.1
    assert ("they are other texts" in said("report", tmp_path / "report")) == expected


def test_a_classifier_is_calibrated_and_judges(human, machine, tmp_path):
    tokenizer = byte_level(ENGLISH, bos_token="<s>", eos_token="</s>", pad_token="<p>")
    encoder = tiny.bert(
        BertForSequenceClassification, vocab_size=len(tokenizer), num_labels=2, initializer_range=0.5
    )
    encoder.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    given = ("--classifier", tmp_path / "encoder", "--max-tokens", 64, "--fpr", 0.2, *QUICK)
    saved = check_verb("detect calibrate", human, "--machine", machine, *given, output=tmp_path / "detector")
    assert saved["calibration"]["score"] == "classifier"
    judged = check_verb(
        "detect score", tmp_path / "detector/calibration.json", human, *QUICK, output=tmp_path / "score"
    )
    assert sum(text["outcome"] == "machine" for text in judged["texts"]) <= 8


def test_a_calibration_refuses_other_models(calibration, model, human, tmp_path):
    other = tiny.llama(3, vocab_size=403, max_position_embeddings=256)
    other.save_pretrained(tmp_path / "other")
    for file in model.glob("tokenizer*"):
        (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    check_refused(
        "detect score", calibration[1], human, "--scorer", tmp_path / "other", *QUICK,
        words="for which the calibration was made",
    )  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), [
    (("--fpr", 0), "--fpr must be between 0 and 1, both left out, got 0"),
    (("--fpr", 0.001), "cannot be measured on 40 human texts of at least 50 tokens"),
    (("--fpr", 0.1, "--shortest", 5000), "on 0 human texts of at least 5000 tokens (40 of those given are shorter"),
    (("--score", "binoculars"), "binoculars compares two models"),
    (("--score", "entropy"), "entropy cannot decide"),
    (("--classifier", "MODEL", "--score", "rank"), "a classifier has one score and no reference"),
    (("--batch-size", 0), "--batch-size must be at least 1"),
    (("--output", "result.json"), "the calibration"),
])  # fmt: skip
def test_a_calibration_that_cannot_be_is_refused(arguments, words, model, human, tmp_path):
    given = [model if argument == "MODEL" else argument for argument in arguments]
    place = () if "--output" in arguments else ("--output", tmp_path / "out")
    check_refused(
        "detect calibrate", human, "--scorer", model, *given, *place, *QUICK, "--quiet", words=words
    )


@pytest.mark.parametrize(("row", "words"), [
    ({"text": "a"}, "row 2 has no label"),
    ({"text": "a", "label": "ai"}, "labels are 0 (human) or 1 (machine), got 'ai' for text 2"),
    ({"label": 1}, "row 2 has no text under `text`"),
    ({"text": "a", "label": 0}, "all texts have one label"),
])  # fmt: skip
def test_data_without_labels_are_refused_before_a_model_is_loaded(row, words, calibration, tmp_path):
    data = write_rows(tmp_path / "data.jsonl", [{"text": "a b", "label": 0}, row])
    check_refused("detect report", calibration[1], data, "--scorer", "missing", words=words)


def test_an_unknown_attack_and_a_file_of_another_kind_are_refused(calibration, human, tmp_path):
    check_refused(
        "detect report",
        calibration[1],
        human,
        "--attack",
        "magic",
        words="an attack must be one of homoglyph",
    )
    write_rows(tmp_path / "rule.json", [{"kind": "deferral rule"}])
    check_refused("detect score", tmp_path / "rule.json", human, words="holds no calibration of a detector")
