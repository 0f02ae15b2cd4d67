"""Which tokens a tokenizer can write after others, whatever text is still to come.

    valid(t) = there is a text whose encoding begins with t

Source: valid encodings and cover encodings, arXiv 2410.09303, section 3.
"""

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenry.core.byte_level import ByteVocabulary, backend_tokenizer
from tokenry.core.byte_pairs import BytePairEncoder
from tokenry.core.errors import UserError
from tokenry.decoding.byte_level.pairwise_tokens import PairwiseTokens, ReencodedPairs
from tokenry.decoding.byte_level.pieces import Pieces
from tokenry.decoding.byte_level.piecewise_tokens import PiecewiseTokens
from tokenry.decoding.byte_level.reencoded_pieces import ReencodedPieces


def valid_tokens(
    tokenizer: PreTrainedTokenizerBase | Tokenizer, vocabulary: ByteVocabulary, reencode: bool = False
) -> PairwiseTokens | PiecewiseTokens:
    """Read what a tokenizer can write; `reencode` for the slow reference.

    Raises:
        UserError: it is no byte-pair tokenizer, or its pre-tokenizer drops characters or is unknown.
    """
    model = type(backend_tokenizer(tokenizer).model).__name__
    if model != "BPE":
        raise UserError(
            f"the tokenizer is a {model} model, whose valid sequences cannot be told pair by pair: give a byte-pair tokenizer, or use "
            "invalid='all'."
        )
    encoder, pieces = BytePairEncoder.from_tokenizer(tokenizer), Pieces.of(tokenizer)
    if pieces is None:
        return (ReencodedPairs if reencode else PairwiseTokens)(encoder, vocabulary)
    return (ReencodedPieces if reencode else PiecewiseTokens)(encoder, vocabulary, pieces)
