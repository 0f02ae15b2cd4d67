"""Parallel corpora: training texts in many languages, and parallel segments on which tokens are counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenry.core.io.progress import Progress
from tokenry.core.text.token_counts import Segments
from tokenry.tokenization.premiums.grid_config import SIZES
from tokenry.tokenization.premiums.parallel_text import load_udhr, udhr_languages, udhr_path, udhr_split
from tokenry.tokenization.premiums.tokenizer_grid import GridConfig

# fmt: off
LANGUAGES = [
    "eng", "deu_1996", "fra", "spa", "ita", "rus", "ell_monotonic", "fin", "hun", "tur", "vie", "swh",
    "yor", "amh", "arb", "heb", "hin", "tam", "mya", "tha", "jpn", "kor", "cmn_hans", "kat",
]
# fmt: on


@dataclass(frozen=True)
class Corpus:
    """Texts and settings of one scale.

    Attributes:
        train: training texts of each language.
        evaluation: parallel segments of each language.
        names: English names of the languages.
        base: vocabulary size at which languages are compared.
        largest: largest vocabulary of one language.
        grid: sizes and settings of the grid.
    """

    train: Mapping[str, Sequence[str]]
    evaluation: Mapping[str, Segments]
    names: Mapping[str, str]
    base: int
    largest: int
    grid: GridConfig


def declaration(progress: Progress) -> Corpus:
    """The Universal Declaration of Human Rights in 24 languages: training on the preamble and two thirds of the articles, evaluation on the rest."""
    progress("reading the declaration", 0.0)
    path = udhr_path()
    train, evaluation = udhr_split(load_udhr(path, LANGUAGES))
    names = {code: language.name for code, language in udhr_languages(path, LANGUAGES).items()}
    return Corpus(
        train=train,
        evaluation=evaluation,
        names=names,
        base=512,
        largest=4096,
        grid=GridConfig(
            algorithms=("bpe", "superbpe", "unigram"),
            vocab_sizes=(320, 384, 448, 512, 640, 768, 896, 1024),
            # All text: the articles have the same content in every language.
            train_bytes=10**9,
        ),
    )


def flores(progress: Progress) -> Corpus:
    """FLORES-200, and 300 MB of FineWeb-2 per language by byte premium; both must be accessible. The paper's own training text may differ."""
    from datasets import load_dataset

    codes = {"eng": "eng_Latn", "deu": "deu_Latn", "ell": "ell_Grek", "hin": "hin_Deva", "tam": "tam_Taml"}
    codes |= {"mya": "mya_Mymr", "tha": "tha_Thai", "jpn": "jpn_Jpan", "kor": "kor_Hang", "arb": "arb_Arab"}
    train, evaluation = {}, {}
    for place, (language, code) in enumerate(codes.items()):
        progress(f"reading {code}", place / len(codes))
        rows = load_dataset("openlanguagedata/flores_plus", code, split="devtest")
        evaluation[language] = [[row["text"]] for row in rows]
        name = "HuggingFaceFW/fineweb" if language == "eng" else "HuggingFaceFW/fineweb-2"
        config = "sample-10BT" if language == "eng" else code
        texts, read = [], 0
        for row in load_dataset(name, config, split="train", streaming=True):
            texts.append(row["text"])
            read += len(row["text"].encode())
            if read > 1_200_000_000:  # the largest byte premium is about four
                break
        train[language] = texts
    grid = GridConfig(algorithms=("bpe", "superbpe", "unigram"), vocab_sizes=SIZES, train_bytes=300_000_000)
    return Corpus(train, evaluation, codes, base=32768, largest=114688, grid=grid)
