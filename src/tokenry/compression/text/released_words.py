"""The words of FrugalPrompt's released code, kept apart: its rules for pieces, by the kind of tokenizer, and its way of cutting.

    wordpiece        a piece that begins with ## belongs to the piece before it
    sentencepiece    so does one that does not begin with ▁, unless it is a special token or ASCII punctuation (which stands alone, and
                     takes the unmarked pieces after it)

Scores are summed; those of WordPiece are then scaled to [0, 1] once more, special tokens among them. The kept words are joined by blanks,
and may be none. Use `PromptCompressor`, which cuts the text itself, for anything but comparisons.

Source: FrugalPrompt (arXiv 2510.16439), the notebook of its repository.
"""

import string
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.attribution.globenc import min_max
from tokenry.core.errors import require_at_least, require_one_of
from tokenry.core.tensors.choices import kept_counts, top_k_indices

SCHEMES = ("wordpiece", "sentencepiece")
SPECIAL = frozenset(("[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]", "<s>", "</s>", "<pad>", "<mask>", "<unk>"))
_MARK = "▁"


def merge_pieces(
    pieces: Sequence[str], scores: Float[Tensor, "pieces"], scheme: str
) -> tuple[list[str], Float[Tensor, "words"]]:
    """Join pieces to words, and sum their scores; special tokens stay, each alone."""
    require_one_of(scheme, SCHEMES, "scheme")
    words: list[str] = []
    word_of_piece = []
    for piece in pieces:
        if words and _goes_on(piece, scheme):
            words[-1] += piece.removeprefix("##") if scheme == "wordpiece" else piece
        else:
            words.append(piece)
        word_of_piece.append(len(words) - 1)
    total = scores.new_zeros(len(words)).index_add(0, torch.tensor(word_of_piece, dtype=torch.long), scores)
    return words, total


def _goes_on(piece: str, scheme: str) -> bool:
    if scheme == "wordpiece":
        return piece.startswith("##")
    return not piece.startswith(_MARK) and piece not in SPECIAL and piece not in string.punctuation


def released_word_scores(
    pieces: Sequence[str], raw_scores: Float[Tensor, "pieces"], scheme: str
) -> tuple[list[str], Float[Tensor, "words"]]:
    """Words with their final scores: the scores of the pieces of a sentence scaled to [0, 1], summed, and of WordPiece scaled again."""
    words, scores = merge_pieces(pieces, min_max(raw_scores), scheme)
    return words, min_max(scores) if scheme == "wordpiece" else scores


def keep_words(
    words: Sequence[str],
    scores: Float[Tensor, "words"],
    share: float | int,
    lowest: bool = False,
    min_keep: int = 0,
) -> list[str]:
    """The share of the words with the highest scores (or the lowest), in their order, without special tokens and marks.

    The released text is `" ".join(keep_words(...))`.
    """
    require_at_least(0, min_keep=min_keep)
    own = [number for number, word in enumerate(words) if word not in SPECIAL]
    kept = max(int(kept_counts(torch.tensor([len(own)]), share, "half_even")), min(min_keep, len(own)))
    signal = scores[own] if own else scores[:0]
    places = top_k_indices(-signal if lowest else signal, kept).tolist()
    return [words[own[place]].removeprefix(_MARK) for place in places]
