"""The verb `tokenizer train`, as the command line runs it."""

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tests.verbs.check_verb import check_refused, check_verb, in_terminal, tokenry
from tests.verbs.language_texts import GOLDEN, LANGUAGES, write_texts
from tokenry.core.text.round_trip import RoundTrip
from tokenry.report.html import page
from tokenry.tokenization.tokenizer_files import load_any_tokenizer
from tokenry.verbs.tokenizer.train import lay_out

VERB = "tokenizer train"


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.mark.parametrize("algorithm", ["bpe", "unigram", "superbpe", "boundless"])
def test_what_was_trained_loads_and_its_result_lies_beside_it(texts, tmp_path, algorithm):
    options = ("--vocab-size", 330, "--special", "<s>")
    found = check_verb(VERB, algorithm, texts / "train/eng.txt", *options, output=tmp_path / "made")
    assert found["settings"]["special_tokens"] == ["<s>"]
    if algorithm == "boundless":
        assert load_any_tokenizer(tmp_path / "made").special_tokens
        return
    text = GOLDEN["eval"]["eng"][1]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made")
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_training_tells_the_true_size_and_what_it_costs(texts, tmp_path):
    options = ("--vocab-size", 400, "--transition", 330, "--held-out", texts / "parallel")
    found = check_verb(VERB, "superbpe", texts / "train", *options, output=tmp_path / "made")
    assert found["vocab_size"] == found["asked_vocab_size"] == 400
    assert found["superwords"] > 0
    assert found["counted"] == "held-out text"
    assert found["bytes"] == sum(
        len(line.encode())
        for language in LANGUAGES
        for line in (texts / f"parallel/{language}.txt").read_text(encoding="utf-8").split("\n")
    )
    assert Tokenizer.from_file(found["file"]).get_vocab_size() == 400


def test_a_text_that_is_too_small_is_told(tmp_path):
    (tmp_path / "small.txt").write_text("a b a b\n")
    result = tokenry(VERB, "bpe", tmp_path / "small.txt", "--output", tmp_path / "made")
    assert "Warning: the text is too small for 32,768 tokens" in result.stdout


def test_options_may_come_from_a_file(texts, tmp_path):
    (tmp_path / "plan.yaml").write_text("vocab-size: 300\nspecial: [<s>]\nwhole-files: true\n")
    arguments = ("bpe", texts / "train/eng.txt", "--config", tmp_path / "plan.yaml")
    found = check_verb(VERB, *arguments, output=tmp_path / "made")
    assert (found["vocab_size"], found["texts"]) == (300, 1)


def test_what_does_not_come_back_is_a_warning_everywhere():
    back = RoundTrip(2, 5, 1, 1, "[UNK]", "The", "the")
    data = {
        "algorithm": "bpe",
        "vocab_size": 300,
        "asked_vocab_size": 300,
        "seconds": 0.51,
        "file": "made/tokenizer.json",
        "counted": "training text",
        "texts": 2,
        "bytes": 1700,
        "tokens": 1234,
        "bytes_per_token": 1.3776,
        "superwords": 0,
        "text_back": back.as_json(),
    }
    blocks = lay_out(data)
    shown = in_terminal(blocks)
    for drawn in (" ".join(shown.split()), page("tokenizer train", "t", blocks, {}).replace("&#39;", "'")):
        assert back.sentence("the tokenizer") in drawn
        for words in ("bpe: 300 of 300 tokens in 0.5 s", "1,234", "1.378", "NO: 1 of 2, 1 × [UNK]"):
            assert words in drawn


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bpe"], "Missing argument 'TEXT"),
        (["wordpiece", "{texts}/train"], "'wordpiece'"),
        (["bpe", "{texts}/no.txt"], "there is no text file"),
        (["bpe", "{texts}/train", "--vocab-size", "100"], "has no room for the 256 bytes"),
        (
            ["superbpe", "{texts}/train", "--vocab-size", "300", "--transition", "400"],
            "the transition must lie between",
        ),
        (["superbpe", "{texts}/train", "--max-words", "0"], "--max-words must be at least 1, got 0"),
        (["bpe", "{texts}/train", "--min-frequency", "-1"], "--min-frequency must be at least 0, got -1"),
        (["boundless", "{texts}/train", "--tau", "-1"], "tau must be positive"),
        (["bpe", "{texts}/train", "--pattern", "("], "is not a valid regular expression"),
        (["bpe", "{texts}/train", "--output", "made.json"], "--output must name a folder"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(texts, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    check_refused(VERB, *(argument.format(texts=texts) for argument in arguments), words=words)
    assert not list(tmp_path.iterdir())
