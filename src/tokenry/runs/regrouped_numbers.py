"""Show how a tokenizer cuts numbers before and after they are regrouped, and save it: what `tokenry tokenizer numbers` does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tokenry.core.errors import UserError
from tokenry.core.files import new_folder, require_new
from tokenry.core.number_tokens import token_texts
from tokenry.core.round_trip import round_trip
from tokenry.runs.quiet import quiet_libraries
from tokenry.tokenization.numbers.retokenize_numbers import retokenize_numbers
from tokenry.tokenization.tokenizer_files import load_any_tokenizer, save_tokenizer
from tokenry.tokenization.training.boundless_bpe import BoundlessBPE

TEXTS = ("8302080+3529456=", "about 1234567.89 in 2024", "0007")


@quiet_libraries()
def regroup_numbers(
    source: str, mode: str, group: int, texts: Sequence[str] = (), output: Path | None = None
) -> dict[str, Any]:
    """Regroup the numbers of a tokenizer.

    Args:
        source: see `load_any_tokenizer`.
        mode: `r2l`, `l2r` or `single`.
        group: digits of a group.
        texts: to show; without any, a few with numbers.
        output: a folder that does not exist, for the new tokenizer.

    Raises:
        UserError: no such tokenizer, one whose numbers cannot be regrouped, or a folder that exists.
    """
    if output is not None:
        require_new(output)
    old = load_any_tokenizer(source)
    if isinstance(old, BoundlessBPE):
        raise UserError(
            f"{source} is a BoundlessBPE tokenizer, whose tokens cross the ends of pieces, so numbers cannot be regrouped: give another."
        )
    new = retokenize_numbers(old, mode, group)
    shown = list(texts or TEXTS)
    back = {"before": round_trip(old, shown), "after": round_trip(new, shown)}
    result = {
        "tokenizer": source,
        "mode": mode,
        "group": group,
        "texts": [
            {
                "text": text,
                "before": token_texts(old, text),
                "after": token_texts(new, text),
                "text_back": found.cell if (found := round_trip(new, [text])) else "–",
            }
            for text in shown
        ],
        "text_back": {when: found and found.as_json() for when, found in back.items()},
        "notes": [
            found.sentence(f"the tokenizer {when}")
            for when, found in back.items()
            if found and not found.gives_back
        ],
        "output": None if output is None else str(output),
    }
    if output is not None:
        with new_folder(output) as partial:
            if isinstance(new, Tokenizer):
                save_tokenizer(new, partial)
            else:
                new.save_pretrained(partial)
    return result
