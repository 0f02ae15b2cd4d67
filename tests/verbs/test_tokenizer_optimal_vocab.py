"""The verb `tokenizer optimal-vocab`, as the command line runs it."""

import json

import pytest

from tests.verbs.check_verb import check_refused, check_verb, in_terminal, tokenry
from tests.verbs.language_texts import write_texts
from tokenry.core.text.round_trip import RoundTrip
from tokenry.report.html import page
from tokenry.tokenization.tokenizer_files import load_any_tokenizer
from tokenry.verbs.tokenizer.optimal_vocab import lay_out

VERB = "tokenizer optimal-vocab"


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = write_texts(tmp_path_factory.mktemp("texts"))
    return ("--train", folder / "train", "--parallel", folder / "parallel")


def test_every_language_gets_its_vocabulary(texts, tmp_path):
    options = ("--vocab-sizes", "300,340,400,480,600,760", "--save-tokenizers", tmp_path / "made")
    found = check_verb(VERB, *texts, *options, output=tmp_path / "out")
    assert found["settings"]["vocab_sizes"] == [300, 340, 400, 480, 600, 760]
    for language, row in found["languages"].items():
        assert load_any_tokenizer(tmp_path / "made" / language).vocab_size == row["trained_vocab_size"]
    shown = " ".join(in_terminal(lay_out(found)).split())
    for language in (language for language, row in found["languages"].items() if row["vocab_size"] is None):
        assert f"Warning: {language} does not reach" in shown


def test_a_budget_is_shared_and_the_result_may_be_one_file(texts, tmp_path):
    options = ("--vocab-sizes", "300,340,400,480", "--budget", 1500, "--output", tmp_path / "found.json")
    result = tokenry(VERB, *texts, *options)
    assert result.exit_code == 0, result.stderr
    assert "spread over the languages" in result.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert sum(row["vocab_size"] for row in found["languages"].values()) == 1500


def test_the_layout_shows_both_vocabularies_and_what_is_out_of_reach():
    curve = {"a": 1.0, "b": 1.0, "c": 812.5, "v0": 256.0, "r2": 0.99876, "sizes": [], "counts": []}
    row = {"vocab_size": 600, "trained_vocab_size": 600, "tokens_fixed": 1234, "tokens": 1001, "curve": curve}
    back = RoundTrip(2, 5, 1, given="The", back="the")
    high = row | {"vocab_size": None, "trained_vocab_size": 1024, "text_back": back.as_json()}
    spread = {"mean": [1100.0, 1000.0, 1200.0], "std": [30.5, 20.0, 41.0], "max_min": [1.25, 1.2, 1.3]}
    data = {
        "budget": None,
        "target": 1000.0,
        "base_vocab_size": 640,
        "languages": {"eng": row, "mya": high},
        "spread": {"fixed": spread, "own": spread},
    }
    blocks = lay_out(data)
    html = page("optimal vocabulary", "t", blocks, {})
    for drawn in (" ".join(in_terminal(blocks).split()), html.replace("&#39;", "'")):
        assert back.sentence("the tokenizer of mya") in drawn
        assert "mya does not reach 1,000.0 tokens with any vocabulary (its floor is 812.5)." in drawn
        for words in ("1,234", "1,001", "0.9988", "out of reach", "1.20 to 1.30"):
            assert words in drawn
    assert html.count("<svg") == 1
    assert html.index(">mya<") < html.index(">eng<")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--vocab-sizes 300,400", "2 points cannot fit a curve"),
        (
            "--vocab-sizes a",
            "--vocab-sizes takes whole numbers separated by commas, such as 512,1024, got 'a'",
        ),
        ("--vocab-sizes 300,1.5", "--vocab-sizes takes whole numbers"),
        ("--vocab-sizes 400,300,500,600", "must be positive and increase"),
        ("--base-size 7", "the base size must be one of 320, 384"),
        ("--target 9 --budget 9", "give a target or a budget, not both"),
        ("--languages eng,xxx", "xxx"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(texts, options, words):
    check_refused(VERB, *texts, *options.split(), words=words)
