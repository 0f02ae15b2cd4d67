"""Exact byte-level probabilities of any tokenized language model: the probability of a byte string, the next byte, streams of bytes.

A cover of x is a valid token sequence that begins with x and whose last token holds the last byte of x:

    P(x)                 = Σ over covers t of x: Π p(t_i | t_<i)
    P(x, next byte = b)  = Σ over covers that go on with b, and over tokens that begin with b after the sequences that end with x

Prompts may end anywhere, inside a token or inside a character. What to do with the probability that a model gives to tokens which its
tokenizer never writes: `truncate` drops it, `renormalize` gives it to the valid tokens and the end of the text (then bytes are exactly
consistent), `all` counts every cut of the text.

Source: Exact Byte-Level Probabilities from Tokenized Language Models for FIM-Tasks and Model Ensembles (arXiv 2410.09303), Lemma 1, section 4.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import PurePath

import numpy as np
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError, require_one_of
from tokenry.core.tensors.gate import name_of, require_readable
from tokenry.core.tensors.output_head import causal_lm
from tokenry.core.text.byte_level import ByteVocabulary, backend_tokenizer
from tokenry.decoding.byte_level.beginnings import Beginnings
from tokenry.decoding.byte_level.byte_model import ByteModel
from tokenry.decoding.byte_level.byte_stream import END, ByteStream, Cover, advance
from tokenry.decoding.byte_level.cover_model import CoverModel
from tokenry.decoding.byte_level.token_rules import AnyTokens, ValidTokens
from tokenry.decoding.byte_level.token_tree import CalledModel, NextTokenModel, TokenTree
from tokenry.decoding.byte_level.utf8 import Text
from tokenry.decoding.byte_level.valid_tokens import ByteRules, valid_tokens

__all__ = ["END", "INVALID", "VALIDATE", "ByteLM", "ByteStream", "Cover"]

INVALID = ("truncate", "renormalize", "all")
VALIDATE = ("pairwise", "reencode", "none")


class ByteLM(ByteModel[ByteStream, Sequence[int]]):
    """A tokenized causal language model as a model of bytes.

    Args:
        model: a causal language model of transformers, or a function from token sequences (tuples of ids) to log-probabilities of the next
            token. Its weights must not change while it is used.
        tokenizer: its fast tokenizer; a byte-pair one, of any kind (any kind at all with `invalid="all"`).
        invalid: what becomes of the probability of tokens that the tokenizer never writes: `truncate`, `renormalize` or `all`.
        validate: how these are found: by pairs of neighbours (`pairwise`), by encoding again (`reencode`: slow, the reference), or not at
            all (`none`: only sequences that end within the text are checked).
        context_ids: tokens before the text, of which no byte is counted; by default the bos token, or else the eos token.
        eos_token_ids: tokens that end a text; by default those of the model's generation config, or else of the tokenizer.

    Raises:
        UserError: the tokenizer changes the bytes of a text, or its valid sequences cannot be told.

    What the tokenizer puts before a text (a space) is given, not predicted: probabilities are those of texts, given that it is there.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[list[tuple[int, ...]]], Tensor],
        tokenizer: PreTrainedTokenizerBase | Tokenizer,
        invalid: str = "truncate",
        validate: str = "pairwise",
        context_ids: Sequence[int] | None = None,
        eos_token_ids: Sequence[int] | None = None,
    ) -> None:
        require_one_of(invalid, INVALID, "invalid")
        require_one_of(validate, VALIDATE, "validate")
        self.invalid, self.validate = invalid, validate
        self.vocabulary = ByteVocabulary.from_tokenizer(tokenizer)
        _require_kept_bytes(self.vocabulary)
        every = AnyTokens(self.vocabulary)
        self._tokenizer = tokenizer
        rules: ValidTokens = every if invalid == "all" else self._encoding
        is_module = isinstance(model, nn.Module)
        if isinstance(model, nn.Module):
            require_readable(model, [len(self.vocabulary.token_bytes) - 1], [], "the tokenizer")
        self.model: NextTokenModel = TokenTree(model) if isinstance(model, nn.Module) else CalledModel(model)
        self.eos_token_ids = list(_last_ids(model, tokenizer) if eos_token_ids is None else eos_token_ids)
        self._beginnings = Beginnings(tokenizer, self.vocabulary, context_ids, needs_token=is_module)
        self._covers = CoverModel(
            self.model,
            self.vocabulary,
            rules,
            every if validate == "none" else rules,
            invalid == "renormalize",
            self.eos_token_ids,
            _title(model, tokenizer, self.vocabulary),
        )

    def __repr__(self) -> str:
        """Model, kind of tokenizer, size of the vocabulary, and what becomes of invalid tokens."""
        return f"ByteLM({self._covers.title}, invalid={self.invalid!r}, validate={self.validate!r})"

    def log_prob(self, text: Text, context_ids: Sequence[int] | None = None) -> float:
        """Log-probability in nats that a text begins with these bytes.

        Raises:
            UserError: there is no cover, or the model gives all of them probability zero.
        """
        return self.stream(text, context_ids).log_prob

    def covers(self, text: Text, context_ids: Sequence[int] | None = None) -> list[Cover]:
        """All covers of a text that have a probability, by their ids."""
        return self.stream(text, context_ids).covers()

    def streams(self, prefixes: Sequence[Text], context_ids: Sequence[int] | None = None) -> list[ByteStream]:
        """Begin several texts with one forward pass for all of them."""
        beginning = self._beginnings.find(context_ids)
        started = [(beginning.lead(data), data) for data in map(self._covers.checked, prefixes)]
        grown = [self._covers.grow(beginning, lead, data) for lead, data in started]
        self.model.hold([node.context for ways in grown for _, nodes in ways for node in nodes])
        streams = []
        for (lead, data), ways in zip(started, grown, strict=True):
            spread = [self._covers.spread(text, nodes) for text, nodes in ways]
            endings = [ending for found, _ in spread for ending in found]
            reaching = [tokens for _, found in spread for tokens in found]
            streams.append(ByteStream(self._covers, beginning, lead, data, endings, reaching))
        return streams

    def next_logprobs(self, streams: Sequence[ByteStream]) -> Float[np.ndarray, "streams 257"]:
        """Next-byte log-probabilities of several streams with one forward pass for all of them, one row each."""
        self.advance(streams)
        return np.stack([stream.next_logprobs() for stream in streams])

    def advance(self, streams: Sequence[ByteStream]) -> None:
        """Compute what streams need for their next byte, with one forward pass for all of them."""
        advance(streams)

    def prefix_log_probs(
        self, text: Text, context_ids: Sequence[int] | None = None
    ) -> Float[np.ndarray, "bytes_and_one"]:
        """Log-probabilities in nats of all beginnings of a text, the empty one first: all sequences in one forward pass.

        A beginning without covers, or with covers of probability zero, has -inf.
        """
        beginning = self._beginnings.find(context_ids)
        log_probs = self._covers.prefix_log_probs(beginning, self._covers.checked(text))
        log_probs = log_probs - self._covers.log_prob_given(beginning)
        log_probs[0] = 0.0
        return log_probs

    def encode(self, text: Text, context_ids: Sequence[int] | None = None) -> list[int]:
        """The tokens that the tokenizer writes for a whole text, valid UTF-8 or not.

        Raises:
            UserError: a byte that no token stands for, or a tokenizer that is no byte-pair one.
        """
        beginning, data = self._beginnings.find(context_ids), self._covers.checked(text)
        # An empty text stays empty.
        return self._encoding.encode(data, beginning.lead(data)) if data else []

    def next_token_logprobs(
        self, sequences: Sequence[Sequence[int]], context_ids: Sequence[int] | None = None
    ) -> Float[np.ndarray, "sequences ids_and_end"]:
        """What the model says about the next token after each sequence, invalid ones too: log-probabilities by id, then of the end."""
        root = self._beginnings.find(context_ids).root
        contexts = [root.then(*sequence) for sequence in sequences]
        self.model.hold(contexts)
        size = len(self.vocabulary.token_bytes)
        found = np.empty((len(contexts), size + 1))
        for place, row in enumerate(self._covers.rows(contexts)):
            found[place, :size] = row[:size]
            found[place, size] = np.logaddexp.reduce(row[self.eos_token_ids])
        return found

    @cached_property
    def _encoding(self) -> ByteRules:
        return valid_tokens(self._tokenizer, self.vocabulary, self.validate == "reencode")


def _title(model: object, tokenizer: PreTrainedTokenizerBase | Tokenizer, vocabulary: ByteVocabulary) -> str:
    """What a model of bytes is called: the model, the kind of the tokenizer, and the size of the vocabulary."""
    if isinstance(model, nn.Module):
        name = PurePath(name_of(causal_lm(model))).name
    else:
        name = getattr(model, "__name__", type(model).__name__)
    kind = type(backend_tokenizer(tokenizer).model).__name__
    return f"{name}, {kind} tokenizer, {len(vocabulary.token_bytes):,} ids"


def _require_kept_bytes(vocabulary: ByteVocabulary) -> None:
    if vocabulary.changing:
        raise UserError(
            f"the tokenizer rewrites a text before it cuts it ({', '.join(vocabulary.changing)}), which cannot be undone, so that no token "
            "sequence has the bytes of the text: give a tokenizer that keeps bytes."
        )


def _last_ids(model: object, tokenizer: PreTrainedTokenizerBase | Tokenizer) -> list[int]:
    """The tokens that end a text."""
    of_model = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = of_model if of_model is not None else getattr(tokenizer, "eos_token_id", None)
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
