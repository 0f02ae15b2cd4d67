"""Docstrings as documents with any number of labels: the sections that they have, told from the text without the headings.

A numpydoc heading (`Returns`, underlined) is taken out with its line; the label says that the section was there.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tokenry.core.text.docstrings import read_docstrings
from tokenry.evaluation.encoders import EncoderData, LabelledTexts

SECTIONS = (
    "Parameters",
    "Returns",
    "Raises",
    "Attributes",
    "See Also",
    "Notes",
    "References",
    "Examples",
)
_HEADING = re.compile(rf"^({'|'.join(SECTIONS)})\n-+[ \t]*(?:\n|\Z)", re.M)


@dataclass(frozen=True)
class SectionSetting:
    """Which docstrings are read.

    Attributes:
        packages: packages to train and test on; whole files are held out.
        outside: packages of the external set.
        longest: maximum number of characters, so that no tokenizer needs truncation.
        train: maximum number of training documents.
        validation: documents for validation.
        test: maximum number of test documents, and of external ones.
        seed: random seed of the files that are held out.
    """

    packages: tuple[str, ...] = ("scipy", "sklearn")
    outside: tuple[str, ...] = ("networkx",)
    longest: int = 500
    train: int = 500
    validation: int = 100
    test: int = 700
    seed: int = 0


def section_data(setting: SectionSetting) -> EncoderData:
    """Read the documents of the task."""
    inside = read_docstrings(setting.packages, held_out_share=0.5, seed=setting.seed)
    outside = read_docstrings(setting.outside, held_out_share=0.0, seed=setting.seed)
    held_out = labelled(inside.held_out, setting.longest, setting.validation + setting.test, setting.seed)
    return EncoderData(
        SECTIONS,
        train=labelled(inside.train, setting.longest, setting.train, setting.seed),
        validation=_part(held_out, slice(setting.validation)),
        test=_part(held_out, slice(setting.validation, None)),
        external=labelled(outside.train, setting.longest, setting.test, setting.seed),
    )


def labelled(docstrings: Iterable[str], longest: int, most: int, seed: int) -> LabelledTexts:
    """Docstrings with at least one section and at most `longest` characters, in a random order, each once."""
    found = [without_headings(text) for text in dict.fromkeys(docstrings)]
    kept = [(text, row) for text, row in found if any(row) and len(text) <= longest]
    order = np.random.default_rng(seed).permutation(len(kept))[:most]
    texts, rows = zip(*(kept[place] for place in order), strict=True)
    return LabelledTexts(list(texts), np.array(rows))


def without_headings(docstring: str) -> tuple[str, Sequence[int]]:
    """The text without headings, and which of the sections it had."""
    there = set(_HEADING.findall(docstring))
    return _HEADING.sub("", docstring), [int(section in there) for section in SECTIONS]


def _part(texts: LabelledTexts, places: slice) -> LabelledTexts:
    return LabelledTexts(texts.texts[places], texts.labels[places])
