"""A model and a tokenizer small enough to train a hypernetwork in seconds."""

import itertools

from transformers import BertForMaskedLM

from tests.tiny.models import bert, tiny_model
from tests.tiny.tokenizers import byte_level
from tokenry.tokenization.transfer.zett.drawn_batches import DrawingConfig
from tokenry.tokenization.transfer.zett.training import HyperNetworkTrainingConfig

WORDS = [
    "the cat",
    "a dog",
    "sat",
    "on the mat",
    "naïve café",
    "and ran",
    "over hills",
    "東京",
    "def add(x):",
]
TEXTS = [" ".join(words) for words in itertools.permutations(WORDS, 3)]
DRAWING = DrawingConfig(
    batch_size=8,
    block_size=24,
    vocabulary_size=420,
    least_vocabulary=410,
    most_vocabulary=430,
    vocabulary_std=5.0,
    pool=32,
)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def tokenizer(**special):
    return byte_level(TEXTS[:60], 330, **(SPECIAL | special))


def causal(tied=True, **settings):
    return tiny_model(330, tied, **settings)


def masked_lm():
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "max_position_embeddings": 64}
    return bert(BertForMaskedLM, vocab_size=330, **sizes)


def config(**changed):
    settings = {
        "steps": 6,
        "identity_steps": 2,
        "warmup_steps": 3,
        "identity_learning_rate": 1e-3,
        "learning_rate": 1e-3,
        "drawing": DRAWING,
        "save_every": 2,
    }
    return HyperNetworkTrainingConfig(**(settings | changed))
