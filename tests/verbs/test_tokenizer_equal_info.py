"""`tokenry tokenizer equal-info encode | decode | report`, as the command line runs them."""

import pytest

from tests import tiny
from tests.tiny.chats import write_model
from tests.verbs.check_verb import check_refused, check_verb, tokenry

VERB = "tokenizer equal-info"
WORDS = b"the cat sat on the mat, and so did the dog. "


@pytest.fixture
def text(tmp_path):
    (tmp_path / "corpus").write_bytes(WORDS * 20)
    (tmp_path / "text.txt").write_bytes(WORDS * 3 + bytes(range(256)))
    (tmp_path / "words.txt").write_bytes(WORDS[:30])
    (tmp_path / "empty.txt").write_bytes(b"")
    return tmp_path / "text.txt"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny.llama(vocab_size=257, bos_token_id=256).save_pretrained(folder / "bytes")
    write_model(folder / "tokens")
    return folder


def test_a_file_is_coded_and_decoded(text, tmp_path):
    corpus = ("--corpus", tmp_path / "corpus")
    saved = check_verb(f"{VERB} encode", text, *corpus, output=tmp_path / "encoded")
    assert saved["to"] == str(tmp_path / "text.txt.eqi")
    assert saved["bytes"] == saved["symbols"] == 388
    coded = tmp_path / "text.txt.eqi"
    back = check_verb(
        f"{VERB} decode", coded, *corpus, "--to", tmp_path / "back", output=tmp_path / "decoded"
    )
    assert back["bytes"] == 388
    assert (tmp_path / "back").read_bytes() == text.read_bytes()
    text.unlink()
    assert tokenry(f"{VERB} decode", coded, *corpus).exit_code == 0
    assert text.read_bytes() == (tmp_path / "back").read_bytes()


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("bytes", ()),
        ("tokens", ()),
        ("tokens", ("--units", "tokens", "--window", 18)),
        ("tokens", ("--end", "delay")),
    ],
)
def test_any_model_codes_a_file(models, model, options, text, tmp_path):
    words, m1 = tmp_path / "words.txt", ("--model", models / model, "--device", "cpu")
    assert tokenry(f"{VERB} encode", words, *m1, *options).exit_code == 0
    result = tokenry(f"{VERB} decode", tmp_path / "words.txt.eqi", *m1, "--to", tmp_path / "back")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "back").read_bytes() == words.read_bytes()


def test_the_report_counts_what_greedy_windows_get_wrong(text, tmp_path):
    saved = check_verb(
        f"{VERB} report", text, "--corpus", tmp_path / "corpus", "--shown", 100, output=tmp_path / "out"
    )
    streams = {row["stream"]: row for row in saved["streams"]}
    assert list(streams) == [
        "EqualInfo[16], free",
        "EqualInfo[16], greedy",
        "EqualInfo[16], delay",
        "coder reset only[16]",
        "AC",
        "StaticAC",
        "gzip",
    ]
    assert streams["EqualInfo[16], greedy"]["wrong"] > 0
    assert streams["EqualInfo[16], free"]["wrong"] == streams["EqualInfo[16], delay"]["wrong"] == 0
    assert "".join(piece["text"] for piece in saved["pieces"]["free"]).startswith("the cat sat on the mat")
    assert saved["words"][1]["word"] == " cat"


def test_a_language_model_reports_by_tokens(models, text, tmp_path):
    options = ("--model", models / "tokens", "--units", "tokens", "--window", 24, "--device", "cpu")
    saved = check_verb(f"{VERB} report", tmp_path / "words.txt", *options, output=tmp_path / "out")
    assert saved["bytes"] == 30
    assert saved["precision"] == 14


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("encode nowhere.txt", "nowhere.txt cannot be read (No such file or directory)"),
        ("encode {empty}", "is empty: give a file that holds something"),
        (
            "encode {text} --window 14",
            "--window must be at least 15, got 14: one of 256 symbols at precision 14",
        ),
        ("encode {text} --precision 7", "256 symbols need a precision of at least 8 bits, got 7"),
        ("encode {text} --order 9", "--order must be from 1 to 8, got 9"),
        ("encode {text} --end greedy", "'greedy' is not one of 'free', 'delay'"),
        ("encode {text} --units tokens", "the n-gram counts bytes: give --units bytes, or another --model"),
        ("encode {text} --model x --corpus y", "--corpus is what the n-gram is counted on"),
        ("encode {text} --corpus nowhere", "nowhere cannot be read"),
        ("encode {text} --to {text}", "exists already: name another file"),
        ("encode {text} --model nowhere/at-all", "nowhere/at-all"),
        ("encode {text} --model {model} --units tokens", "tokens are of UTF-8 text, and byte"),
        (
            "encode {text} --model {model} --units tokens --precision 10",
            "precision must be at least 11 bits for the 355 symbols",
        ),
        ("decode {text}", "is no file of equal-info windows"),
        ("decode nowhere.eqi", "nowhere.eqi cannot be read"),
        ("report {empty}", "is empty: give a file that holds something"),
        ("report {text} --token-bits 0", "--token-bits must be at least 1, got 0"),
        ("report {text} --token-bits 40", "--token-bits must be at most 24, got 40"),
    ],
)
def test_wrong_input_is_one_sentence(models, arguments, words, text, tmp_path):
    places = {"empty": tmp_path / "empty.txt", "text": text, "model": models / "tokens"}
    check_refused(f"{VERB} {arguments.split()[0]}", *arguments.format(**places).split()[1:], words=words)


def test_another_model_and_a_torn_file_are_refused(text, tmp_path):
    corpus = ("--corpus", tmp_path / "corpus")
    assert tokenry(f"{VERB} encode", text, *corpus).exit_code == 0
    coded = tmp_path / "text.txt.eqi"
    to = ("--to", tmp_path / "back")
    check_refused(f"{VERB} decode", coded, *to, words="was coded with another M1 (ngram, fingerprint")
    check_refused(f"{VERB} decode", coded, *corpus, words="text.txt exists already: name another file")
    coded.write_bytes(coded.read_bytes()[:-2])
    check_refused(f"{VERB} decode", coded, *corpus, *to, words="is cut off: it has")
    coded.rename(tmp_path / "coded")
    (tmp_path / "coded").write_bytes((tmp_path / "coded").read_bytes())
    check_refused(f"{VERB} decode", tmp_path / "coded", *corpus, words="is cut off")


def test_a_window_of_16_bits_is_refused_for_the_tokens_of_the_embedded_model(monkeypatch, text, tmp_path):
    monkeypatch.setattr(
        "tokenry.models.load_model", lambda name, dtype: tiny.llama(vocab_size=49_152, hidden_size=8)
    )
    check_refused(
        f"{VERB} encode",
        tmp_path / "words.txt",
        *("--model", "embedded", "--units", "tokens", "--device", "cpu"),
        words="--window must be at least 19, got 16: one of 49,152 symbols at precision 18 can need 19 bits",
    )
