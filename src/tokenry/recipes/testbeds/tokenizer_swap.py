"""A model, its old and its new tokenizer, and two kinds of text: docstrings, for which the new tokenizer was trained, and prose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tokenry.core.io.progress import Progress
from tokenry.core.text.docstrings import read_docstrings
from tokenry.models import EMBEDDED_TITLE, load_model, load_tokenizer, preferred_device
from tokenry.recipes.testbeds.prose import read_story
from tokenry.tokenization.special_roles import TEXT_ROLES
from tokenry.tokenization.transfer.transplant.auxiliary_space import (
    Auxiliary,
    SpelledTokens,
    auxiliary_space,
    sentence_encoder,
)
from tokenry.tokenization.transfer.transplant.vocabulary_match import match_vocabularies

DOCSTRINGS, PROSE = "docstrings", "prose"


@dataclass(frozen=True)
class TokenizerSwap:
    """A model, its old and its new tokenizer, and texts on which both are measured.

    Attributes:
        model: model with its old tokenizer.
        old: the model's own tokenizer.
        new: the tokenizer that replaces it.
        texts: texts of each kind, several because standard errors are over texts.
        auxiliary: space in which tokens are compared.
        name: name of the model, the tokenizers and the space.
    """

    model: PreTrainedModel
    old: PreTrainedTokenizerBase
    new: PreTrainedTokenizerBase
    texts: Mapping[str, Sequence[str]]
    auxiliary: Auxiliary
    name: str


def embedded_swap(progress: Progress) -> TokenizerSwap:
    """The embedded model, and a tokenizer trained on docstrings."""
    progress("reading docstrings", 0.0)
    docstrings = read_docstrings(("sklearn", "scipy"))
    old = load_tokenizer()
    progress("training the tokenizer", 0.02)
    new = train_byte_level_bpe(docstrings.train[:3000], 8192, old)
    progress("comparing tokens by their characters", 0.06)
    model = load_model().eval()
    texts = {
        DOCSTRINGS: passages_of_length(docstrings.held_out, 12, 750),
        PROSE: passages_of_length(read_story(), 12, 750),
    }
    return TokenizerSwap(
        model,
        old,
        new,
        texts,
        _computed("characters", model, old, new),
        f"{EMBEDDED_TITLE}, byte-level BPE 8192",
    )


def qwen_swap(progress: Progress) -> TokenizerSwap:
    """The pair of the repository's notes on a GPU; a sentence encoder as the auxiliary space."""
    from huggingface_hub import snapshot_download

    name, tokenizer, encoder = "Qwen/Qwen2.5-3B", "fhai50032/QTK-81K", "BAAI/bge-m3"
    old, new = load_tokenizer(name), load_tokenizer(tokenizer)
    model = load_model(name, "bfloat16").to(preferred_device()).eval()
    encode = sentence_encoder(
        snapshot_download(encoder, allow_patterns=["*.json", "*.safetensors", "*.model"])
    )
    texts = {
        DOCSTRINGS: passages_of_length(read_docstrings(("sklearn", "scipy")).held_out, 100, 2000),
        PROSE: passages_of_length(read_story(), 15, 2000),
    }
    return TokenizerSwap(
        model, old, new, texts, _computed(encode, model, old, new), f"{name}, {tokenizer}, {encoder}"
    )


def train_byte_level_bpe(
    texts: Sequence[str], vocab_size: int, like: PreTrainedTokenizerBase
) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE tokenizer with the special tokens of another one; digits stay single."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = sorted(
        (number, token.content) for number, token in like.added_tokens_decoder.items() if token.special
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[content for _, content in special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    roles = {role: getattr(like, role) for role in TEXT_ROLES if getattr(like, role)}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def _computed(
    auxiliary: Auxiliary, model: PreTrainedModel, old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase
) -> Auxiliary:
    """Compute the vectors of all tokens once for several methods."""
    matched = match_vocabularies(old, new)
    space = auxiliary_space(auxiliary, matched, model)
    new_tokens = SpelledTokens(
        matched.new_texts, [[0]] * len(matched.new_texts), range(len(matched.new_texts))
    )
    return space.old, space.vectors(new_tokens)


def passages_of_length(texts: Sequence[str], number: int, length: int) -> list[str]:
    """Passages of one length at equal distances, each from the beginning of a word."""
    joined = "\n\n".join(texts)
    starts = np.linspace(0, len(joined) - 2 * length, number).astype(int).tolist()
    return [joined[start:].split(maxsplit=1)[1][:length] for start in starts]
