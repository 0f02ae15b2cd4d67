"""A ModernBERT classifier small enough to be trained from nothing in a minute or two, and a byte-level tokenizer of any size for it.

It averages over the tokens. A classifier that reads its first token alone, as BERT's does, stays at the most frequent labels for hundreds
of steps when its layers are untrained.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import processors
from transformers import (
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from tokenry.models import TextClassifier
from tokenry.models.text_classifier import MULTI_LABEL, SINGLE_LABEL
from tokenry.tokenization.training.byte_level_training import train_bpe

PAD, BEGIN, END = "[PAD]", "[CLS]", "[SEP]"


@dataclass(frozen=True)
class EncoderSizes:
    """Size of the encoder.

    Attributes:
        width: width of the hidden states.
        heads: attention heads.
        feed_forward: width of the feed-forward layers.
        positions: maximum number of tokens of a text.
        initializer_range: standard deviation of the initial weights; 0.02 is for wide models.
    """

    layers: int = 4
    width: int = 128
    heads: int = 4
    feed_forward: int = 256
    positions: int = 512
    initializer_range: float = 0.05


SMALL = EncoderSizes()


def encoder_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer that writes [CLS] before a text and [SEP] after it."""
    made = train_bpe(texts, vocab_size, special_tokens=[PAD, BEGIN, END])
    made.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}",
        pair=f"{BEGIN} $A {END} $B:1 {END}:1",
        special_tokens=[(token, made.token_to_id(token)) for token in (BEGIN, END)],
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token=PAD, cls_token=BEGIN, sep_token=END)


def tiny_encoder(
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[str],
    multi_label: bool = False,
    sizes: EncoderSizes = EncoderSizes(),
    seed: int = 0,
) -> TextClassifier:
    """An untrained classifier for this tokenizer; the seed draws the same layers for every vocabulary."""
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.feed_forward,
        max_position_embeddings=sizes.positions,
        initializer_range=sizes.initializer_range,
        classifier_pooling="mean",
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        problem_type=MULTI_LABEL if multi_label else SINGLE_LABEL,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ModernBertForSequenceClassification(config)
        # The embeddings last: a table of another size would draw other layers after it.
        torch.manual_seed(seed)
        for part in (model.classifier, model.head, model.model.layers, model.model.embeddings):
            part.apply(model._init_weights)
    return TextClassifier(model.eval(), tokenizer, sizes.positions)
