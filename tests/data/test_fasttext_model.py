"""fastText's classifier read and applied by numpy: against reference numbers, and against fasttext itself where it is installed."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tests.golden import golden_arrays, golden_json
from tokenry.core.errors import UserError
from tokenry.data import FastTextModel
from tokenry.data.fasttext_model import MAGIC, fnv_hashes

needs_fasttext = pytest.mark.skipif(
    importlib.util.find_spec("fasttext") is None, reason="fasttext is not installed (tokenry[data])"
)
DIFFICULT = [
    "",
    "  ",
    "w1 </s> w2 w3",
    "w1\u00a0w2 w3",
    "__label__1 w1 w2",
    "__label__9 w1",
    "x\0y w1",
    "\tw1\rw2\x0bw3\x0cw4\x1cw5",
    "y" * 500 + " w1",
    "日本 é1 w1",
    "never seen",
]


def test_probabilities_are_the_reference_ones():
    stored = golden_json("33-preselect", "dev-fasttext.json")
    matrices = golden_arrays("33-preselect", "dev-fasttext.npz")
    model = FastTextModel.of_matrices(
        stored["words"],
        stored["labels"],
        matrices["input_matrix"].numpy(),
        matrices["output_matrix"].numpy(),
        stored["bucket"],
        stored["word_ngrams"],
    )
    expected = np.array(stored["probabilities"])
    np.testing.assert_allclose(model.probabilities(stored["texts"]), expected, atol=1e-6)
    one_by_one = [model.probabilities([text])[0] for text in stored["texts"]]
    np.testing.assert_allclose(one_by_one, expected, atol=1e-6)


def test_long_and_short_words_are_hashed_alike():
    def by_hand(word):
        value = 2166136261
        for byte in word:
            signed = byte if byte < 128 else byte - 256
            value = ((value ^ (signed & 0xFFFFFFFF)) * 16777619) & 0xFFFFFFFF
        return value - (1 << 32) if value >= 1 << 31 else value

    words = [b"", b"a", "é日".encode(), b"x" * 31, b"x" * 32, b"x" * 33, "ä".encode() * 40]
    assert fnv_hashes(words).tolist() == [by_hand(word) for word in words]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model of fasttext with word trigrams, and its file."""
    import fasttext

    folder = tmp_path_factory.mktemp("fasttext")
    draws = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(60)] + ["é1", "日本"])
    lines = [
        f"__label__{number % 2} {' '.join(draws.choice(words[: 40 if number % 2 else 62], size=12))}\n"
        for number in range(200)
    ]
    (folder / "lines.txt").write_text("".join(lines), encoding="utf-8")
    model = fasttext.train_supervised(
        str(folder / "lines.txt"), epoch=3, lr=0.5, wordNgrams=3, dim=10, bucket=500, thread=12, verbose=0
    )
    model.save_model(str(folder / "model.bin"))
    return model, folder / "model.bin"


@needs_fasttext
def test_a_file_gives_what_fasttext_predicts(trained):
    theirs, path = trained
    ours = FastTextModel.read(path)
    texts = [*DIFFICULT, "w1 w2 w3 w4 w5", "w60 w61 é1 w1"]
    expected = np.zeros((len(texts), 2))
    for number, text in enumerate(texts):
        for label, probability in zip(*theirs.predict(text, k=2), strict=True):
            expected[number, ours.labels.index(label)] = probability
    np.testing.assert_allclose(ours.probabilities(texts), expected, atol=1e-5)


@needs_fasttext
def test_what_is_no_such_model_is_refused(trained, tmp_path):
    content = trained[1].read_bytes()
    cases: dict[str, tuple[bytes | None, str]] = {
        "text.bin": (b"no model at all", "is no fastText model"),
        "empty.bin": (b"", "is no fastText model"),
        "old.bin": (MAGIC + b"\x0b\0\0\0" + content[8:], "of version 11, and 12 is read"),
        "header.bin": (content[:20], "is a damaged fastText model"),
        "dictionary.bin": (content[:200], "is a damaged fastText model"),
        "cut.bin": (content[:-9], "is a damaged fastText model"),
        "missing.bin": (None, "cannot be read as a fastText model"),
    }
    for name, (written, words) in cases.items():
        if written is not None:
            (tmp_path / name).write_bytes(written)
        with pytest.raises(UserError, match=words):
            FastTextModel.read(tmp_path / name)


@needs_fasttext
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "hs"}, "is no fastText classifier with softmax"),
        ({"minn": 2, "maxn": 3}, "reads pieces of words"),
        (None, "is a quantised fastText model"),
    ],
)
def test_models_of_other_kinds_are_refused(trained, tmp_path, options, words):
    import fasttext

    lines: Path = trained[1].with_name("lines.txt")
    model = fasttext.train_supervised(
        str(lines), epoch=1, dim=10, bucket=400, wordNgrams=2, thread=12, verbose=0, **(options or {})
    )
    if options is None:
        model.quantize(input=str(lines))
    model.save_model(str(tmp_path / "other.bin"))
    with pytest.raises(UserError, match=words):
        FastTextModel.read(tmp_path / "other.bin")


def test_lone_surrogates_and_lost_bytes_are_text_too():
    model = FastTextModel(["</s>", "a"], ["__label__1", "__label__0"], np.array([[1.0, 0.0], [0.0, 2.0]]), 1)
    found = model.probabilities(["\ud800 a", "a"])
    assert np.isfinite(found).all()
