"""The verbs `bytes next | score | generate | self-test`, as the command line runs them."""

import json
import math

import pytest
from tokenizers import Tokenizer, normalizers
from transformers import PreTrainedTokenizerFast

from tests.decoding.byte_level.cutters import KnownTexts, byte_level
from tests.tiny.chats import write_model
from tests.tiny.models import llama as tiny_llama
from tests.tiny.tokenizers import chatml_tokenizer
from tests.verbs.check_verb import check_refused, check_verb, in_terminal, tokenry
from tokenry.report.html import page
from tokenry.verbs.bytes import score, self_test
from tokenry.verbs.bytes._prompt import ByteReading

KNOWN = {name: KnownTexts(byte_level("gpt2"), "at é", longest=3, seed=seed) for seed, name in enumerate("ab")}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("bytes") / "model")


@pytest.fixture
def known_models(monkeypatch):
    """Models `a` and `b` that write short texts with known probabilities."""
    monkeypatch.setattr(ByteReading, "load", lambda self, name, hardware: KNOWN[name].byte_lm())


def answered(verb, *arguments):
    result = tokenry(f"bytes {verb}", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_next_bytes_come_with_what_naive_and_healed_prompts_say(model, tmp_path):
    found = check_verb("bytes next", "What is", "--model", model, "--most", 257, output=tmp_path / "out")
    assert len(found["next"]) == 257
    for column in ("probability", "healed", "naive"):
        assert sum(row[column] for row in found["next"]) == pytest.approx(1.0)
    probabilities = [row["probability"] for row in found["next"]]
    assert probabilities == sorted(probabilities, reverse=True)


def test_a_prompt_may_end_inside_a_character(model, tmp_path):
    found = answered("next", "--hex", "636166C3", "--model", model)
    assert found["prompt"] == "caf\\xc3"
    assert all(row["byte"].startswith("0x") for row in found["next"] if row["probability"] > 0.01)
    (tmp_path / "prompt").write_bytes(b"caf\xc3")
    assert answered("next", "--file", tmp_path / "prompt", "--model", model)["next"] == found["next"]


def test_several_models_are_an_ensemble(model):
    once = answered("next", "What", "--model", model)
    twice = answered("next", "What", "--model", model, "--model", model)
    assert [row["byte"] for row in once["next"]] == [row["byte"] for row in twice["next"]]
    assert "naive" not in twice["next"][0]


@pytest.mark.usefixtures("known_models")
def test_next_bytes_are_those_of_the_texts_and_named():
    found = answered("next", "a", "--model", "a", "--most", 257)
    expected = KNOWN["a"].next_bytes(b"a")
    named = {row["byte"]: row["probability"] for row in found["next"]}
    assert named["0x74 't'"] == pytest.approx(expected[0x74])
    assert named["0xC3"] == pytest.approx(expected[0xC3])
    assert named["end"] == pytest.approx(expected[256])
    assert found["log_prob"] == [pytest.approx(math.log(KNOWN["a"].prefix(b"a")))]


@pytest.mark.usefixtures("known_models")
def test_two_models_are_their_mean():
    found = answered("next", "a", "--model", "a", "--model", "b", "--most", 1)["next"][0]
    expected = (KNOWN["a"].next_bytes(b"a") + KNOWN["b"].next_bytes(b"a")) / 2
    assert found["probability"] == pytest.approx(expected.max())


def test_a_text_is_scored_character_by_character(model, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("Is it 7é?", encoding="utf-8")
    found = check_verb("bytes score", "--file", path, "--model", model, output=tmp_path / "out")
    assert "".join(unit["text"] for unit in found["units"]) == "Is it 7é?"
    assert found["exact"]
    assert sum(unit["bits"] for unit in found["units"]) == pytest.approx(10 * found["bits_per_byte"])
    assert found["bits_per_byte"] <= found["bits_per_byte_of_tokens"] + 1e-6


def test_texts_are_generated_and_the_same_seed_gives_the_same(model, tmp_path):
    arguments = ("The ans", "--model", model, "--samples", 3, "--max-bytes", 5, "--seed", 1)
    found = check_verb("bytes generate", *arguments, output=tmp_path / "out")
    assert len(found["samples"]) == 3
    assert all(len(sample["hex"]) <= 10 for sample in found["samples"])
    assert found == answered("generate", *arguments)


@pytest.mark.usefixtures("known_models")
def test_an_ensemble_goes_on_from_a_text(tmp_path):
    arguments = ("--model", "a", "--model", "b", "--samples", 2, "--max-bytes", 3, "--stop", "t")
    output = tmp_path / "generated.json"
    found = answered("generate", "a", *arguments, "--output", output)
    assert json.loads(output.read_text()) == found
    assert found["settings"]["stop"] == ["t"]
    assert len(found["samples"]) == 2


def test_the_tables_name_what_they_show(model):
    assert "naive" in tokenry("bytes next", "What", "--model", model).stdout
    assert "bits per byte (exact)" in tokenry("bytes score", "What", "--model", model).stdout
    assert "ended by" in tokenry("bytes generate", "What", "--model", model, "--max-bytes", 2).stdout
    assert "sound" in tokenry("bytes self-test", model).stdout


def test_a_text_is_drawn_in_the_colours_of_its_bits():
    units = [
        {"text": letter, "bits": bits, "bits_of_tokens": 1.0} for letter, bits in (("a", 0.5), ("<", 3.25))
    ]
    data = {
        "per": "character",
        "exact": False,
        "bits_per_byte": 1.875,
        "bits_per_byte_of_tokens": 1.0,
        "units": units,
    }
    blocks = score.lay_out(data)
    shown = in_terminal(blocks)
    assert "1.8750 bits per byte (not exact), 1.0000 by tokens" in shown
    assert "'<'" in shown
    assert "3.250" in shown
    drawn = page("surprisal", "Surprise", blocks, {})
    assert 'data-name="bits"' in drawn
    assert "--0:3.25" in drawn


def test_a_sound_byte_map_passes(model, tmp_path):
    found = check_verb("bytes self-test", model, output=tmp_path / "out")
    assert found["is_sound"]
    assert found["misread"] == []


def test_an_unsound_byte_map_fails_and_says_why(tmp_path):
    tokenizer = Tokenizer.from_str(chatml_tokenizer().backend_tokenizer.to_str())
    tokenizer.normalizer = normalizers.Lowercase()
    tiny_llama().save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    result = tokenry("bytes self-test", tmp_path, "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "NOT sound" in result.stdout
    assert "Lowercase" in result.stdout
    assert not json.loads((tmp_path / "out" / "result.json").read_text())["is_sound"]


def test_of_many_tokens_without_bytes_the_first_are_shown():
    data = {
        "tokenizer": "other",
        "is_sound": False,
        "misread": [{"id": number, "token": f"<{number}>", "why": "odd"} for number in range(60)],
        **{name: [] for name in ("missing_bytes", "same_bytes", "lossy_texts", "unlike", "rewrites")},
        **dict.fromkeys(("tokens", "special", "cut"), 0),
        "never_written": None,
        "unkept": "",
        "no_cover": "",
    }
    shown = in_terminal(self_test.lay_out(data))
    assert "NOT sound: byte map of other" in shown
    assert "<49>" in shown
    assert "<50>" not in shown
    assert "The first 50 of 60; the JSON has all." in shown


@pytest.mark.parametrize(
    ("verb", "arguments", "words"),
    [
        ("next", (), "give the text once, as an argument, with --hex or with --file; got it 0 times"),
        ("next", ("a", "--hex", "61"), "got it 2 times"),
        ("next", ("a", "--hex", "61", "--file", "x"), "got it 3 times"),
        ("next", ("--hex", "6"), "--hex takes pairs of hexadecimal digits"),
        ("next", ("--hex", "zz"), "as in 636166C3; got 'zz'"),
        ("next", ("--file", "no-such-file"), "the file no-such-file does not exist"),
        ("next", ("a", "--most", 0), "--most must be at least 1, got 0"),
        ("next", ("a", "--invalid", "drop"), "'drop' is not one of 'truncate', 'renormalize', 'all'"),
        ("next", ("a", "--validate", "never"), "'never' is not one of 'pairwise', 'reencode', 'none'"),
        ("next", ("a", "--device", "nowhere"), "device 'nowhere' is not there: this machine has"),
        ("score", ("a", "--dtype", "int8"), "'int8' is not one of 'float32', 'bfloat16', 'float16'"),
        ("score", ("a", "--per", "word"), "'word' is not one of 'byte', 'character'"),
        ("score", ("",), "an empty text has no surprisal"),
        ("generate", ("a", "--temperature", -1), "temperature must not be negative"),
        ("generate", ("a", "--top-p", 0), "top-p must be in (0, 1]"),
        ("generate", ("a", "--samples", 0), "--samples must be at least 1"),
        ("generate", ("a", "--max-bytes", 0), "--max-bytes must be at least 1, got 0"),
        ("generate", ("a", "--seed", -1), "--seed must be at least 0, got -1"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(model, verb, arguments, words):
    check_refused(f"bytes {verb}", *arguments, "--model", model, words=words)
