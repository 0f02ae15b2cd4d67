"""Long documents with one label each: docstrings of installed packages, whose label is the package. The names of packages are masked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenry.compression.text import ClassifiedTexts, TextSplits, word_tokens
from tokenry.core.text.docstrings import read_docstrings

PACKAGES = ("torch", "transformers", "scipy", "sklearn", "matplotlib", "numpy", "pandas", "datasets")
_NAMES = re.compile(
    rf"\w*({'|'.join(PACKAGES)}|scikit|hugging|pyplot)\w*|\b(np|pd|plt|sp|hf|pt)\b", re.IGNORECASE
)
_MASK = "package"


@dataclass(frozen=True)
class PackageSetting:
    """Which docstrings are read.

    Attributes:
        words: minimum number of words.
        train: maximum number of training documents of a package.
        validation: of validation documents, from other files.
        test: of test documents, from the same other files.
        files: maximum number of files of a package that are read.
        seed: random seed of the files that are held out.
    """

    packages: tuple[str, ...] = PACKAGES
    words: int = 120
    train: int = 200
    validation: int = 50
    test: int = 150
    files: int | None = 400
    seed: int = 0


def package_texts(setting: PackageSetting) -> TextSplits:
    """Read the documents; a package that has fewer gives what it has."""
    parts: dict[str, list[tuple[str, int]]] = {"train": [], "validation": [], "test": []}
    for label, package in enumerate(setting.packages):
        found = read_docstrings([package], held_out_share=0.5, seed=setting.seed, most_files=setting.files)
        train = long_documents(found.train, setting)
        held_out = [text for text in long_documents(found.held_out, setting) if text not in set(train)]
        aside = min(setting.validation, len(held_out) // 3)
        chosen = {
            "train": train[: setting.train],
            "validation": held_out[:aside],
            "test": held_out[aside : aside + setting.test],
        }
        for name, texts in chosen.items():
            parts[name] += [(text, label) for text in texts]
    return TextSplits(setting.packages, **{name: _classified(rows) for name, rows in parts.items()})


def long_documents(texts: Sequence[str], setting: PackageSetting) -> list[str]:
    """Documents with enough words, masked, each once, in a random order."""
    masked = dict.fromkeys(_NAMES.sub(_MASK, text) for text in texts)
    found = [
        text for text in masked if sum(token[0].isalnum() for token in word_tokens(text)) >= setting.words
    ]
    order = np.random.default_rng(setting.seed).permutation(len(found))
    return [found[place] for place in order]


def _classified(rows: Sequence[tuple[str, int]]) -> ClassifiedTexts:
    return ClassifiedTexts([text for text, _ in rows], np.array([label for _, label in rows]))
