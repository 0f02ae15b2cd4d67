"""A transplant from names to a folder: load, measure, compose, save."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenry.core.files import require_new
from tokenry.core.progress import Progress
from tokenry.models import load_model, load_tokenizer
from tokenry.runs.texts import read_texts
from tokenry.tokenization.tokenizer_files import load_fast_tokenizer
from tokenry.tokenization.transplant.apply import save_transplant, transplant_tokenizer
from tokenry.tokenization.transplant.auxiliary_space import NAMES, Auxiliary, sentence_encoder
from tokenry.tokenization.transplant.composition import TransplantSettings
from tokenry.tokenization.transplant.report import TransplantReport


def run_transplant(
    model: str | os.PathLike,
    new_tokenizer: str | os.PathLike,
    output: Path,
    progress: Progress,
    *,
    auxiliary: str | None = None,
    text_files: Sequence[Path] = (),
    most_characters: int = 20_000,
    dtype: str | None = None,
    carry_special_tokens: bool = False,
    **settings: Any,
) -> TransplantReport:
    """Give a model another tokenizer and save it to a new folder.

    Args:
        model: `embedded`, a folder, or a name on the hub.
        new_tokenizer: the same, of what has the tokenizer, or a `tokenizer.json`.
        output: a folder that does not exist.
        progress: told what is being done.
        auxiliary: a name of `auxiliary_space`, or the folder of a sentence encoder.
        text_files: measured in bits per byte before and after; a text ends at an empty line.
        most_characters: of each file, from its beginning.
        dtype: of the weights; None for as they are stored.
        carry_special_tokens: see `transplant_tokenizer`.
        **settings: see `transplant_tokenizer`.

    Raises:
        UserError: any of it cannot be read, used or written.
    """
    TransplantSettings(**settings)
    require_new(output)
    texts = [text for file in text_files for text in read_texts(file, most_characters)]
    progress("loading", 0.0)
    old, new = load_tokenizer(model), load_fast_tokenizer(new_tokenizer)
    loaded = load_model(model, dtype)
    progress("composing rows and measuring", 0.2)
    loaded, report = transplant_tokenizer(
        loaded,
        old,
        new,
        auxiliary=_space(auxiliary),
        texts=texts or None,
        carry_special_tokens=carry_special_tokens,
        **settings,
    )
    progress("saving", 0.9)
    save_transplant(loaded, new, report, output)
    return report


def _space(auxiliary: str | None) -> Auxiliary | None:
    return auxiliary if auxiliary is None or auxiliary in NAMES else sentence_encoder(auxiliary)
