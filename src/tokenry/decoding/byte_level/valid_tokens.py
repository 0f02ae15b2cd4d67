"""Which tokens a tokenizer can write after others, whatever text is still to come.

    valid(t) = there is a text whose encoding begins with t

Source: valid encodings and cover encodings, arXiv 2410.09303, section 3.
"""

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import ByteVocabulary, backend_tokenizer, tokenizer_state
from tokenry.core.text.byte_pairs import BytePairEncoder
from tokenry.decoding.byte_level.composed_text import ComposedText
from tokenry.decoding.byte_level.cut_tokens import CutTokens
from tokenry.decoding.byte_level.pairwise_tokens import PairwiseTokens
from tokenry.decoding.byte_level.pieces import Pieces
from tokenry.decoding.byte_level.piecewise_tokens import PiecewiseTokens
from tokenry.decoding.byte_level.reencoded_tokens import ReencodedPairs, ReencodedPieces
from tokenry.decoding.byte_level.segmented_tokens import SegmentedTokens

ByteRules = PairwiseTokens | PiecewiseTokens | SegmentedTokens


def valid_tokens(
    tokenizer: PreTrainedTokenizerBase | Tokenizer, vocabulary: ByteVocabulary, reencode: bool = False
) -> ByteRules:
    """Read what a tokenizer can write; `reencode` for the slow reference.

    Raises:
        UserError: it is no byte-pair tokenizer, its pre-tokenizer drops characters or is unknown, or an added token is a word of its own.
    """
    backend = backend_tokenizer(tokenizer)
    model = type(backend.model).__name__
    if model != "BPE":
        raise UserError(
            f"the tokenizer is a {model} model, whose valid sequences cannot be told pair by pair: give a byte-pair tokenizer, or use "
            "invalid='all'."
        )
    state, cut = tokenizer_state(backend), CutTokens(vocabulary)
    encoder = BytePairEncoder.from_state(state, vocabulary)
    pieces = Pieces.from_state(state, cut.characters)
    rules = (
        (ReencodedPairs if reencode else PairwiseTokens)(encoder, vocabulary)
        if pieces is None
        else (ReencodedPieces if reencode else PiecewiseTokens)(encoder, vocabulary, pieces)
    )
    composed = ComposedText(vocabulary) if "NFC" in vocabulary.rewrites else None
    return SegmentedTokens(rules, vocabulary, cut, composed) if vocabulary.cut or composed else rules
