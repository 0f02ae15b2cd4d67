"""The verb `tokenizer transplant`: a folder that loads, and results that say what became of the tokens."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from typer.testing import CliRunner

from tests.tiny.models import tiny_model
from tests.tiny.tokenizers import CODE, TEMPLATE, byte_level, sentencepiece
from tests.verbs.check_verb import check_refused, in_terminal, too_wide
from tokenry.cli import app
from tokenry.report.html import page
from tokenry.tokenization.tokenizer_files import save_tokenizer
from tokenry.tokenization.training import train_bpe
from tokenry.verbs._catalogue import verb_of
from tokenry.verbs.tokenizer import transplant

FAST = ("--auxiliary", "characters")


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    old, new = byte_level(), byte_level(CODE, bos_token="<begin>", eos_token="</s>")
    old.chat_template = TEMPLATE
    tiny_model(len(old)).save_pretrained(folder / "model")
    old.save_pretrained(folder / "model")
    new.save_pretrained(folder / "new")
    (folder / "text.txt").write_text("the cat sat on the mat\n\nthe dog sat\n\n\n", encoding="utf-8")
    return folder


def tokenry(*arguments):
    return CliRunner().invoke(app, ["tokenizer", "transplant", *map(str, arguments)])


def test_the_saved_model_loads_with_its_new_tokenizer(desk, tmp_path):
    result = tokenry(desk / "model", desk / "new", tmp_path / "out", *FAST)
    assert result.exit_code == 0, result.stderr
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size >= len(tokenizer) == len(AutoTokenizer.from_pretrained(desk / "new"))
    assert tokenizer.chat_template == TEMPLATE


def test_the_table_tells_counts_and_bits_per_byte(desk, tmp_path):
    result = tokenry(desk / "model", desk / "new", tmp_path / "out", *FAST, "--text", desk / "text.txt")
    rows = (
        "copied",
        "composed",
        "of them both",
        "left to the fallback",
        "texts that do not come back",
        "the worst of them",
        "bits per byte before",
        "bits per byte after",
    )
    places = [result.stdout.find(words) for words in rows]
    assert -1 not in places
    assert places == sorted(places)
    assert "Warning: the chat template writes <s>" in " ".join(result.stdout.split())


def test_json_is_all_there_is_on_stdout_and_holds_what_is_saved(desk, tmp_path):
    options = ("--method", "retok", "--seed", 3, "--text", desk / "text.txt", "--json")
    result = tokenry(desk / "model", desk / "new", tmp_path / "out", *options)
    printed = json.loads(result.stdout)
    assert printed["bits_per_byte"]["before"]["texts"] == 2
    assert printed == json.loads((tmp_path / "out" / "result.json").read_text())
    stored = json.loads((tmp_path / "out" / "transplant.json").read_text())
    assert printed["settings"].items() >= stored.pop("settings").items()
    assert "--carry-special-tokens adds it" in printed["notes"][0]
    assert "carry_special_tokens=True adds it" in stored.pop("notes")[0]
    assert printed.items() >= stored.items()
    assert (printed["settings"]["seed"], printed["settings"]["most_characters"]) == (3, 20_000)


def test_what_is_drawn_at_once_is_drawn_again_from_what_is_saved(desk, tmp_path):
    result = tokenry(desk / "model", desk / "new", tmp_path / "out", *FAST, "--text", desk / "text.txt")
    assert result.exit_code == 0, result.stderr
    saved = json.loads((tmp_path / "out" / "result.json").read_text())
    assert verb_of(saved["kind"]) is transplant
    blocks = transplant.lay_out(saved)
    assert too_wide(in_terminal(blocks)) == []
    drawn = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert drawn == page(saved["kind"], saved["title"], blocks, saved["settings"])
    assert "bits per byte after" in drawn


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "best"), "--method must be one of tokenadapt"),
        (("--global-weight", "2"), "--global-weight must be in"),
        (("--temperature", "-1"), "--temperature must be 0 or more"),
        (("--top-k", "0"), "--top-k must be at least 1"),
        (("--auxiliary", "nowhere"), "nowhere holds no sentence encoder"),
        (("--text", "missing.txt"), "missing.txt cannot be read as UTF-8 text"),
        (("--match", "ids"), "--match must be one of bytes, string"),
        (("--fallback", "zero"), "--fallback must be one of mean, random"),
        (("--most-characters", "0"), "--most-characters must be at least 1, got 0"),
        (("--dtype", "int4"), "'int4' is not one of 'float32', 'bfloat16', 'float16'"),
        (("--atoms", "0"), "--atoms must be at least 1, got 0"),
        (("--pad-to-multiple-of", "0"), "--pad-to-multiple-of must be at least 1, got 0"),
        (("--leave-one-out", "-1"), "--leave-one-out must be at least 0, got -1"),
        (("--threshold", "nan"), "--threshold must be a cosine, got nan"),
        (("--seed", "-1"), "--seed must be at least 0, got -1"),
        (("--device", "nowhere"), "device 'nowhere' is not there"),
    ],
)
def test_bad_usage_is_one_sentence_and_writes_nothing(desk, tmp_path, options, words):
    arguments = (desk / "model", desk / "new", tmp_path / "out")
    check_refused("tokenizer transplant", *arguments, *options, words=words)
    assert not (tmp_path / "out").exists()


def test_a_bare_tokenizer_file_gets_the_special_tokens_that_are_carried(desk, tmp_path):
    arguments = (desk / "model", desk / "new" / "tokenizer.json", tmp_path / "out", *FAST)
    result = tokenry(*arguments, "--carry-special-tokens", "--text", desk / "text.txt")
    assert result.exit_code == 0, result.stderr
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


def test_a_file_that_is_no_tokenizer_is_refused(desk, tmp_path):
    result = tokenry(desk / "model", desk / "text.txt", tmp_path / "out")
    assert result.exit_code == 2
    assert "text.txt is not a tokenizer file" in result.stderr


def test_a_folder_that_exists_is_never_overwritten(desk):
    result = tokenry(desk / "model", desk / "new", desk / "model")
    assert result.exit_code == 2
    assert "exists already: name a new folder" in result.stderr


@pytest.mark.parametrize("name", ["out.json", "out.html"])
def test_a_name_of_a_file_is_no_name_of_a_model(desk, tmp_path, name):
    arguments = (desk / "model", desk / "new", tmp_path / name)
    check_refused("tokenizer transplant", *arguments, words="must name a folder, which holds the model too")


def test_a_file_without_text_is_refused(desk, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    result = tokenry(desk / "model", desk / "new", tmp_path / "out", "--text", tmp_path / "empty.txt")
    assert result.exit_code == 2
    assert "holds no text" in result.stderr


def lossy(*words):
    """A tokenizer of lower-case words, with an unknown token for every other."""
    names = ["[UNK]", "[SEP]", *words]
    tokenizer = Tokenizer(
        models.WordPiece({name: place for place, name in enumerate(names)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[UNK]", "[SEP]"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[SEP]")


@pytest.mark.parametrize("which", ["old", "new"])
def test_a_tokenizer_that_does_not_give_the_users_text_back_is_named_the_old_one_too(desk, tmp_path, which):
    bad = lossy("the", "cat", "sat", "on", "mat")
    tiny_model(len(bad)).save_pretrained(tmp_path / "model")
    bad.save_pretrained(tmp_path / "model")
    given = (tmp_path / "model", desk / "new") if which == "old" else (desk / "model", tmp_path / "model")
    options = (*FAST, "--text", desk / "text.txt")
    found = tokenry(*given, tmp_path / "out", *options)
    assert found.exit_code == 0, found.stderr
    words = f"the {which} tokenizer does not give 1 of 2 texts back (1 unknown token): 'the dog sat' comes back as 'the [UNK] sat'"
    assert words in " ".join(found.stdout.split())
    assert words not in found.stderr
    assert f"text back, {which} tokenizer" in found.stdout
    assert "NO: 1 of 2, 1 × [UNK]" in found.stdout
    stored = json.loads((tmp_path / "out" / "transplant.json").read_text())
    assert [stored["text_back"][each]["gives_text_back"] for each in ("old", "new")] == [
        which == "new",
        which == "old",
    ]
    assert any(words in note for note in stored["notes"])


def test_a_tokenizer_that_was_trained_with_special_tokens_needs_no_word_about_them(desk, tmp_path):
    (tmp_path / "text.txt").write_text("the cat sat on the mat\n" * 9, encoding="utf-8")
    arguments = ("bpe", tmp_path / "text.txt", "--vocab-size", 270, "--output", tmp_path / "made")
    for special, stop in (
        (("<s>", "</s>"), "</s>"),
        (("<stop>",), "<stop>"),
        (("<|end_of_text|>", "<x>"), "<|end_of_text|>"),
    ):
        named = [option for each in special for option in ("--special", each)]
        trained = CliRunner().invoke(app, ["tokenizer", "train", *map(str, arguments), *named])
        assert trained.exit_code == 0, trained.stderr
        output = tmp_path / stop.strip("<|>/")
        found = tokenry(desk / "model", tmp_path / "made", output, *FAST, "--text", desk / "text.txt")
        assert found.exit_code == 0, found.stderr
        assert AutoTokenizer.from_pretrained(output).eos_token == stop


def test_special_tokens_take_the_roles_that_the_old_tokenizer_gives_them(tmp_path):
    old = byte_level(bos_token="<begin>", eos_token="<end>")
    tiny_model(len(old)).save_pretrained(tmp_path / "model")
    old.save_pretrained(tmp_path / "model")
    new = train_bpe(["the cat"] * 3, 262, special_tokens=["<end>", "<begin>", "<other>"])
    save_tokenizer(new, tmp_path / "new")
    (tmp_path / "text.txt").write_text("the cat", encoding="utf-8")
    for place, source in enumerate((tmp_path / "new", tmp_path / "new" / "tokenizer.json")):
        found = tokenry(
            tmp_path / "model", source, tmp_path / f"out{place}", *FAST, "--text", tmp_path / "text.txt"
        )
        assert found.exit_code == 0, found.stderr
        made = AutoTokenizer.from_pretrained(tmp_path / f"out{place}")
        assert (made.bos_token, made.eos_token) == ("<begin>", "<end>")


def test_what_is_never_written_is_counted_and_named(desk, tmp_path):
    sentencepiece(CODE).save_pretrained(tmp_path / "new")
    found = tokenry(desk / "model", tmp_path / "new", tmp_path / "out", *FAST)
    assert found.exit_code == 0, found.stderr
    assert "never written" in found.stdout
    stored = json.loads((tmp_path / "out" / "transplant.json").read_text())
    assert stored["counts"]["never_written"] == len(stored["never_written"]) > 10
    assert sum(stored["counts"].values()) == stored["new_tokens"]
