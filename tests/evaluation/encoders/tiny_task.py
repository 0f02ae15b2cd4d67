"""A task of labels that stand in the texts, and untrained tiny encoders for it."""

import numpy as np
from transformers import BertForSequenceClassification

from tests import tiny
from tests.tiny.tokenizers import word_tokenizer
from tokenry.evaluation.encoders import EncoderData, LabelledTexts
from tokenry.models import TextClassifier
from tokenry.models.text_classifier import MULTI_LABEL, SINGLE_LABEL

NAMES = ("cyst", "nodule", "effusion")


def encoder(multi_label: bool = True, seed: int = 0, **settings) -> TextClassifier:
    default = {
        "pad_token_id": 0,
        "id2label": dict(enumerate(NAMES)),
        "problem_type": MULTI_LABEL if multi_label else SINGLE_LABEL,
    }
    model = tiny.bert(BertForSequenceClassification, seed, **(default | settings))
    return TextClassifier(model, word_tokenizer(), 32)


def labelled(count: int, multi_label: bool = True, seed: int = 0) -> LabelledTexts:
    """Texts that begin with the words w1, w2 and w3 of their labels."""
    generator = np.random.default_rng(seed)
    labels = (
        generator.integers(0, 2, (count, 3))
        if multi_label
        else np.eye(3, dtype=int)[generator.integers(0, 3, count)]
    )
    texts = [
        " ".join(
            f"w{number}"
            for number in [*(1 + np.flatnonzero(row)), *generator.integers(4, 30, generator.integers(2, 9))]
        )
        for row in labels
    ]
    return LabelledTexts(texts, labels)


def task(multi_label: bool = True, external: bool = True) -> EncoderData:
    train, validation, test, outside = (
        labelled(count, multi_label, seed) for seed, count in enumerate((64, 24, 30, 20))
    )
    return EncoderData(NAMES, train, validation, test, outside if external else None, multi_label)
