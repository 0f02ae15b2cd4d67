"""Every verb that reads a tokenizer says when it does not give a text back: in its table, in JSON and on its page, in the same words."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from tests.tiny.models import tiny_model
from tests.tokenization.numbers.test_retokenize_numbers import gpt4_like
from tests.tokenization.transfer.zett.tiny import TEXTS
from tokenry.cli import app
from tokenry.tokenization.premiums import equal_cost
from tokenry.tokenization.tokenizer_files import save_tokenizer
from tokenry.tokenization.training import train_boundless_bpe, train_bpe
from tokenry.tokenization.training.train_any import TrainingPlan, measure_training, train_any

WORDS = (
    "the",
    "cat",
    "sat",
    "dog",
    "ran",
    "sun",
    "is",
    "up",
    "die",
    "der",
    "katze",
    "hund",
    "ist",
    "da",
    "sonne",
)
PARALLEL = {
    "eng": "the cat sat\nthe dog ran\nthe sun is up\n",
    "zho": "貓坐在墊子上\n狗跑了很遠\n太陽升起來了\n",
    "deu": "Die Katze saß\nDer Hund lief\nDie Sonne ist da\n",
}


def bert(*words):
    """Lower case, accents stripped, an unknown token for every other word."""
    names = ["[UNK]", "[SEP]", *words]
    tokenizer = Tokenizer(
        models.WordPiece({name: place for place, name in enumerate(names)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(handle_chinese_chars=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[UNK]", "[SEP]"])
    return tokenizer


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lossy")
    bert(*WORDS).save(str(folder / "bert.json"))
    (folder / "parallel").mkdir()
    for language, text in PARALLEL.items():
        (folder / "parallel" / f"{language}.txt").write_text(text, encoding="utf-8")
    return folder


def tokenry(*arguments):
    found = CliRunner().invoke(app, [*map(str, arguments)])
    assert found.exit_code == 0, found.stderr
    return found


def test_premiums_say_that_a_small_count_is_no_small_cost(desk, tmp_path):
    found = tokenry(
        *("tokenizer", "premiums", desk / "bert.json", "--parallel", desk / "parallel", "--output", tmp_path)
    )
    words = "does not give 3 of 3 texts back (3 unknown tokens): '貓坐在墊子上' comes back as '[UNK]'"
    shown = " ".join(found.stdout.split())
    assert f"Warning: zho: {desk / 'bert.json'} {words}" in shown
    assert "Warning: eng:" not in shown
    assert "text back" in found.stdout
    assert "[UNK]" in found.stdout
    assert "not given" in found.stdout
    (table,) = json.loads((tmp_path / "result.json").read_text())["tables"]
    back = {row["language"]: row["text_back"] for row in table["languages"]}
    assert {language: each["gives_text_back"] for language, each in back.items()} == {
        "eng": True,
        "deu": False,
        "zho": False,
    }
    assert (back["zho"]["changed"], back["zho"]["unknown_tokens"]) == (3, 3)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "does not give 3 of 3 texts back (3 unknown tokens)" in page
    assert "NO: 3 of 3, 3 × [UNK]" in page
    assert "texts do not come back" in page


def test_compare_says_it_for_each_text(desk, tmp_path):
    for output in ("picture.html", "pieces.json"):
        found = tokenry(
            *("tokenizer", "compare", desk / "bert.json", "--parallel", desk / "parallel"),
            *("--output", tmp_path / output),
        )
    words = "bert.json does not give the text back (3 unknown tokens)"
    assert f"Warning: zho: {words}" in " ".join(found.stdout.split())
    assert "NO: 3 ×" in found.stdout
    assert words in (tmp_path / "picture.html").read_text(encoding="utf-8")
    texts = json.loads((tmp_path / "pieces.json").read_text())["texts"]
    (chinese,) = [text["tokenizers"][0] for text in texts if text["text"] == "zho"]
    assert chinese["text_back"]["unknown_tokens"] == 3
    assert not chinese["is_lossless"]


def test_numbers_say_it_before_and_after(tmp_path):
    lossy = gpt4_like()
    lossy.normalizer = normalizers.Lowercase()
    lossy.save(str(tmp_path / "lossy.json"))
    arguments = ("tokenizer", "numbers", tmp_path / "lossy.json", "--text", "In 1234567", "--text", "in 12")
    found = tokenry(*arguments)
    for when in ("before", "after"):
        assert (
            f"Warning: the tokenizer {when} does not give 1 of 2 texts back: 'In 1234567' comes"
            in " ".join(found.stdout.split())
        )
    assert "NO" in found.stdout
    printed = json.loads(tokenry(*arguments, "--json").stdout)
    assert printed["text_back"]["after"]["changed"] == 1
    assert [row["text_back"] for row in printed["texts"]] == ["NO", "yes"]


def test_training_says_that_all_comes_back(desk, tmp_path):
    arguments = ("tokenizer", "train", "bpe", desk / "parallel", "--vocab-size", 280, "--output", tmp_path)
    assert "text back" in tokenry(*arguments).stdout
    assert json.loads(tokenry(*arguments, "--json").stdout)["text_back"]["summary"] == "yes"


def test_training_says_what_does_not_come_back():
    made, _ = train_any(TrainingPlan(vocab_size=262), ["the cat"])
    made.normalizer = normalizers.Lowercase()
    found = measure_training(made, iter(["the cat", "The cat"]))["text_back"]
    assert (found.texts, found.changed) == (2, 1)


def test_a_vocabulary_for_each_language_says_whether_texts_come_back():
    texts = {language: text.split("\n") * 9 for language, text in PARALLEL.items()}
    segments = {
        language: [[line] for line in text.strip().split("\n")] for language, text in PARALLEL.items()
    }
    found = equal_cost(texts, segments, (257, 259, 262, 266, 270), target=30.0)
    assert all(back.gives_back for back in found.text_back.values())
    assert found.as_json()["languages"]["zho"]["text_back"]["texts"] == 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model whose tokenizer lowers case and knows few words."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bert(
            *"abcdefghijklmnopqrstuvwxyz", *(f"##{each}" for each in "abcdefghijklmnopqrstuvwxyz")
        ),
        unk_token="[UNK]",
        eos_token="[SEP]",
    )
    tiny_model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def one_line(text):
    return " ".join(text.split())


def test_zett_says_it_in_training_and_in_transfer(model, tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(["The Cat", *TEXTS]), encoding="utf-8")
    fast = (
        *("--steps", 1, "--batch-size", 4, "--block-size", 16, "--vocabulary-size", 410),
        *("--layers", 1, "--hidden-size", 16, "--heads", 2),
    )
    trained = tokenry(
        *("tokenizer", "zett", "train", model, tmp_path / "text.txt", "--output", tmp_path / "net", *fast)
    )
    words = "tokenizer does not give"
    assert f"Warning: the model's {words}" in one_line(trained.stdout)
    assert words not in trained.stderr
    assert "text back, model's tokenizer" in trained.stdout
    assert not json.loads((tmp_path / "net" / "training.json").read_text())["text_back"]["gives_text_back"]
    transfer = ("tokenizer", "zett", "transfer", model, tmp_path / "net", model, "--output")
    for name, text in (
        ("texts", ("--text", tmp_path / "text.txt", "--most-characters", 200)),
        ("sample texts", ()),
    ):
        found = tokenry(*transfer, tmp_path / name, *text)
        for which in ("old", "new"):
            assert f"Warning: the {which} {words}" in one_line(found.stdout)
            assert f"text back, {which} tokenizer" in found.stdout
        assert f" {name} back" in one_line(found.stdout)
        assert words not in found.stderr
        stored = json.loads((tmp_path / name / "zett.json").read_text())
        assert not stored["text_back"]["old"]["gives_text_back"]
        assert len(stored["notes"]) == 2


def test_charbench_says_it_of_its_words(model, tmp_path):
    (tmp_path / "words.txt").write_text(
        "\n".join(f"{first}{second}{third}d" for first in "ABC" for second in "eio" for third in "stn"),
        encoding="utf-8",
    )
    found = tokenry(
        *("evaluate", "charbench", model, "--words", tmp_path / "words.txt", "--per-length", 4),
        *("--min-length", 4, "--max-length", 4, "--output", tmp_path / "out"),
    )
    words = f"the tokenizer of {model} does not give"
    assert "".join(f"Warning: {words}".split()) in "".join(found.stdout.split())
    assert words not in found.stderr
    assert "Whether the tokenizer gives the words back" in found.stdout
    assert not json.loads((tmp_path / "out" / "result.json").read_text())["text_back"][str(model)][
        "gives_text_back"
    ]
    assert words in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def words_only(*known):
    """A tokenizer that can encode its own words and nothing else."""
    return Tokenizer(models.WordLevel({word: place for place, word in enumerate(("<s>", *known))}))


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """Tokenizers that have no token for some texts, a model with one of them, and texts."""
    folder = tmp_path_factory.mktemp("narrow")
    words_only("cat", "dog").save(str(folder / "words.json"))
    whole = PreTrainedTokenizerFast(tokenizer_object=words_only("cat", "dog"), bos_token="<s>")
    whole.save_pretrained(folder / "model")
    tiny_model(len(whole)).save_pretrained(folder / "model")
    save_tokenizer(train_boundless_bpe(["the cat"] * 3, 262), folder / "boundless")
    save_tokenizer(train_bpe(["the cat"] * 3, 262, special_tokens=["<s>"]), folder / "bytes")
    (folder / "parallel").mkdir()
    for language, text in (("eng", "cat\n"), ("deu", "Katze\n")):
        (folder / "parallel" / f"{language}.txt").write_text(text, encoding="utf-8")
    (folder / "text.txt").write_text("the cat", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("tokenizer premiums {0}/words.json --parallel {0}/parallel", "the tokenizer cannot encode the text"),
        ("tokenizer compare {0}/words.json --parallel {0}/parallel", "the tokenizer cannot encode the text"),
        (
            "tokenizer compare {0}/bytes {0}/words.json --text {0}/text.txt",
            "give it an unknown token, or another text",
        ),
        (
            "tokenizer transplant {0}/model {0}/bytes {0}/out --text {0}/text.txt",
            "the old tokenizer cannot encode 'the cat'",
        ),
        (
            "tokenizer transplant {0}/model {0}/model {0}/out --text {0}/parallel/deu.txt",
            "the old tokenizer cannot encode 'Katze': it has no token for some of it and no unknown token",
        ),
        (
            "tokenizer transplant {0}/model {0}/boundless {0}/out",
            "is a BoundlessBPE tokenizer, whose tokens no tokenizer of",
        ),
        (
            "tokenizer transplant {0}/model {0}/boundless/boundless.json {0}/out",
            "for a model train bpe, unigram or superbpe",
        ),
        ("tokenizer transplant {0}/model {0}/text.txt {0}/out", "is not a tokenizer file"),
        (
            "tokenizer zett train {0}/model {0}/text.txt --output {0}/net",
            "the tokenizer's model must be one of BPE",
        ),
    ],
)
def test_a_tokenizer_that_cannot_read_the_text_is_refused_in_one_sentence(
    narrow, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, arguments.format(narrow).split())
    assert (found.exit_code, found.stdout) == (2, ""), found.stderr
    assert words in found.stderr
    assert not (narrow / "out").exists()
