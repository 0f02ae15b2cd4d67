"""A model with its new tokenizer on disk, written whole or not at all, and checked to cut texts as it did before."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.io.files import new_folder, write_json
from tokenry.tokenization.probes import PROBES, encoded


def save_model_folder(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, report_file: str, report: Any
) -> None:
    """Write model, tokenizer and report to a folder that did not exist, whole or not at all.

    Raises:
        UserError: the folder exists, cannot be written, or the tokenizer that is loaded from it cuts texts otherwise.
    """
    with new_folder(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        _require_same_cuts(tokenizer, partial)
        write_json(partial / report_file, report)


def _require_same_cuts(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Load the tokenizer as users will: the class that transformers chooses for the model may rewrite it."""
    loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    for text in PROBES:
        if encoded(loaded, text) != encoded(tokenizer, text):
            raise UserError(
                f"AutoTokenizer makes a {type(loaded).__name__} of this {type(tokenizer).__name__}, and it cuts {text!r} otherwise: give "
                "the new tokenizer as a PreTrainedTokenizerFast."
            )
