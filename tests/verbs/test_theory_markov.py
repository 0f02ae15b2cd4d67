"""`tokenry theory markov`: sources, tables of transitions and real texts, and what is none of them."""

import pytest

from tests.tiny.chats import write_model
from tests.verbs.check_verb import check_refused, check_verb

VERB = "theory markov"
SMALL = ("--symbols", 2000, "--vocab-sizes", "8,16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("markov")
    (folder / "text.txt").write_text("The cat sat on the mat, für immer. " * 40, encoding="utf-8")
    (folder / "dot.txt").write_text("a", encoding="utf-8")
    (folder / "latin.txt").write_bytes("für".encode("latin-1"))
    (folder / "table.csv").write_text("0.9,0.1\n0.2,0.8\n", encoding="utf-8")
    (folder / "fixed.csv").write_text("0,1\n1,0\n", encoding="utf-8")
    (folder / "apart.csv").write_text("1,0\n0,1\n", encoding="utf-8")
    (folder / "header.csv").write_text("zero,one\n0.9,0.1\n0.2,0.8\n", encoding="utf-8")
    (folder / "ragged.csv").write_text("0.9,0.1\n1\n", encoding="utf-8")
    (folder / "no-law.csv").write_text("0.9,0.2\n0.2,0.8\n", encoding="utf-8")
    return folder


def test_a_switching_source_has_exact_costs_and_a_bound(folder):
    saved = check_verb(VERB, *SMALL, "--order", 1, output=folder / "switching")
    assert [row["tokenizer"] for row in saved["tokenizers"]] == ["LZW", "BPE", "likeliest"] * 2
    assert saved["entropy_rate"] == pytest.approx(0.3251, abs=1e-4)
    lzw = saved["tokenizers"][3]
    assert saved["entropy_rate"] < lzw["exact"] < saved["symbol_entropy"]
    assert lzw["bound"] > lzw["ratio"]


def test_a_table_of_transitions_is_a_source(folder):
    saved = check_verb(
        VERB, *SMALL, "--transition", folder / "table.csv", "--order", 1, output=folder / "table"
    )
    assert saved["symbol_entropy"] == pytest.approx(0.6365, abs=1e-4)


@pytest.mark.filterwarnings("ignore:the chain is reducible")
@pytest.mark.parametrize(("table", "words"), [("fixed", "is deterministic"), ("apart", "is reducible")])
def test_an_extreme_source_is_warned_of(folder, table, words):
    options = ("--transition", folder / f"{table}.csv", "--order", 1)
    saved = check_verb(VERB, *SMALL, *options, output=folder / f"result-{table}")
    assert any(words in warning for warning in saved["warnings"])


def test_a_text_is_measured_with_dictionaries_and_real_tokenizers_beside_a_model(folder):
    model = write_model(folder / "model")
    options = ("--vocab-sizes", "64,300", "--tokenizer", model, "--model", model, "--device", "cpu")
    saved = check_verb(VERB, "--text", folder / "text.txt", *options, output=folder / "text")
    assert len(saved["tokenizers"]) == 4
    assert saved["unit"] == "byte"
    assert saved["entropy_rate"] > 0
    assert saved["warnings"] == ["No dictionary of 64 tokens: the 256 symbols do not fit in it."]


def test_without_a_model_nothing_is_said_about_the_entropy(folder):
    options = ("--vocab-sizes", "300", "--model", "none")
    saved = check_verb(VERB, "--text", folder / "text.txt", *options, output=folder / "no-model")
    assert saved["entropy_rate"] is None
    assert {row["ratio"] for row in saved["tokenizers"]} == {None}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            "--transition {0}/header.csv",
            "line 1 of {0}/header.csv is no row of probabilities ('zero,one'): remove the header",
        ),
        ("--transition {0}/ragged.csv", "must hold one row per state"),
        ("--transition {0}/no-law.csv --order 1", "row 0 of the transition table is no law"),
        ("--transition {0}/table.csv", "a source of order 2 over 2 symbols has 4 states, got 2 rows"),
        ("--transition {0}/none.csv", "cannot be read"),
        ("--text {0}/none.txt", "cannot be read"),
        ("--text {0}/dot.txt", "holds 1 character: give a text of at least two"),
        ("--text {0}/latin.txt", "is not UTF-8"),
        ("--text {0}/text.txt --transition {0}/table.csv", "give --text or --transition, not both"),
        ("--text {0}/text.txt --vocab-sizes 64 --model none", "give --vocab-sizes of 256 or more"),
        ("--text {0}/text.txt --tokenizer {0}/nothing", "nothing"),
        ("--tokenizer gpt2", "--tokenizer is measured on real text: give --text FILE"),
        ("--order 0", "--order must be at least 1, got 0"),
        ("--order 20", "give an order of at most 16"),
        ("--switch 1.5", "--switch must be in (0, 1), got 1.5"),
        ("--vocab-sizes 1", "--vocab-sizes must be at least 2, got 1"),
        ("--symbols 1", "--symbols must be at least 2, got 1"),
    ],
)
def test_wrong_input_is_one_sentence(folder, options, words):
    check_refused(VERB, *options.format(folder).split(), words=words.format(folder))
