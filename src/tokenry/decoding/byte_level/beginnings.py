"""Where a text begins: the tokens before it, and the space that the tokenizer puts there."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import ByteVocabulary, backend_tokenizer
from tokenry.decoding.byte_level.token_tree import Context


@dataclass(frozen=True)
class Beginning:
    """The tokens before a text, and whether the tokenizer puts a space between them and the text."""

    root: Context
    vocabulary: ByteVocabulary
    prepends: bool

    def lead(self, data: bytes) -> bytes:
        """What is put before a text: a space, or nothing."""
        return self.vocabulary.lead(data, self.prepends)


class Beginnings:
    """The beginnings of texts under one tokenizer.

    Args:
        tokenizer: transformers or `tokenizers`.
        context_ids: tokens before a text where none are named; None for the bos token, or else the eos token.
        needs_token: whether the model needs a token before a text. A function knows how a text begins.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | Tokenizer,
        vocabulary: ByteVocabulary,
        context_ids: Sequence[int] | None,
        needs_token: bool,
    ) -> None:
        self._vocabulary, self._empty = vocabulary, Context()
        named = (getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id"))
        known = [token for token in named if token is not None]
        own = tuple(known[:1]) if needs_token else ()
        # What stands before a text without being part of it: nothing, what the tokenizer puts there, the token that begins a text.
        self._before_a_text = {
            (),
            tuple(backend_tokenizer(tokenizer).encode("").ids),
            *((token,) for token in known),
        }
        self._default = self._find(own if context_ids is None else tuple(context_ids))

    def find(self, context_ids: Sequence[int] | None) -> Beginning:
        """The beginning after some tokens; after the default ones for None.

        Raises:
            UserError: one of them is no token.
        """
        return self._default if context_ids is None else self._find(tuple(context_ids))

    def _find(self, ids: tuple[int, ...]) -> Beginning:
        vocabulary = self._vocabulary
        size = len(vocabulary.token_bytes)
        unknown = [token for token in ids if not 0 <= token < size]
        if unknown:
            raise UserError(
                f"context_ids holds {unknown[0]}, which is no token: ids go from 0 to {size - 1}."
            )
        if ids in self._before_a_text:
            prepends = vocabulary.prepends_space
        else:
            after_cut = ids[-1] in vocabulary.special or ids[-1] in vocabulary.cut_ids
            prepends = after_cut and vocabulary.prepends_within
        return Beginning(self._empty.then(*ids), vocabulary, prepends)
