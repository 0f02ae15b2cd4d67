"""Human texts and what two language models write in their place, a small one made for docstrings and the embedded one in a story; and an encoder
that learns to tell them apart.

Of each passage the model reads the first tokens and writes as many more as the passage has; only what follows the beginning is a text, human or
machine, so that both are of one kind and one length.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from tokenry.core.text.docstrings import read_docstrings
from tokenry.data import BertDetector, paper_split
from tokenry.data.ai_text import SHORTEST
from tokenry.models import ClassifierConfig, LocalText, Sampling
from tokenry.recipes.testbeds.docstring_model import bpe_tokenizer, small_model, train_language_model
from tokenry.recipes.testbeds.prose import read_story
from tokenry.recipes.testbeds.tiny_encoder import EncoderSizes, encoder_tokenizer, tiny_encoder

BEGINNING = 20
"""Tokens of a passage that the model reads."""


@dataclass(frozen=True)
class TextPairs:
    """Texts of both kinds, in pairs of one length that begin in the same place."""

    human: tuple[str, ...]
    machine: tuple[str, ...]

    @property
    def texts(self) -> list[str]:
        """All texts, the human ones first."""
        return [*self.human, *self.machine]

    @property
    def labels(self) -> list[int]:
        """0 for human, 1 for machine."""
        return [0] * len(self.human) + [1] * len(self.machine)


def docstring_pairs(
    packages: Sequence[str],
    pairs: int,
    fresh: int,
    tokens: int,
    vocabulary: int,
    steps: int,
    seed: int,
    progress: Callable[[float], None],
) -> tuple[TextPairs, list[str]]:
    """Docstrings in lower case, and those of a model that was trained on other files of the same packages; and further human ones.

    Args:
        packages: installed packages.
        pairs: maximum number of pairs.
        fresh: maximum number of further human texts.
        tokens: length of a text.
        vocabulary: size of the model's vocabulary.
        steps: training steps of the model.
        progress: called with the share of the training that is done.
    """
    docstrings = read_docstrings(packages, held_out_share=0.5, seed=seed)
    learned, others = (
        [" ".join(text.lower().split()) for text in texts]
        for texts in (docstrings.train, docstrings.held_out)
    )
    tokenizer = bpe_tokenizer(learned[:2000], vocabulary)
    model = small_model(len(tokenizer), seed=seed)
    train_language_model(model, tokenizer, learned, steps, seed=seed, progress=progress)
    random.Random(seed).shuffle(others)
    passages = passages_of(others, tokenizer, tokens)
    further = [tokenizer.decode(passage[BEGINNING:]) for passage in passages[pairs : pairs + fresh]]
    writer = LocalText(model, tokenizer, batch_size=128, name="docstring model")
    return continued(writer, passages[:pairs], seed), further


def story_pairs(model: LocalText, pairs: int, tokens: int, seed: int) -> TextPairs:
    """Passages of a story in the public domain, and the model's own in their place."""
    passages = passages_of([" ".join(read_story())], model.tokenizer, tokens)
    return continued(model, passages[:pairs], seed)


def passages_of(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, tokens: int) -> list[list[int]]:
    """Cut texts into passages of a beginning and `tokens` more; the rest of a text is left out."""
    size = BEGINNING + tokens
    return [
        ids[start : start + size]
        for ids in tokenizer([*texts], add_special_tokens=False, verbose=False)["input_ids"]
        for start in range(0, len(ids) - size + 1, size)
    ]


def continued(model: LocalText, passages: Sequence[list[int]], seed: int) -> TextPairs:
    """Let a model continue the beginning of each passage; a human text is cut to the length of its pair, and short ones are left out."""
    decode = model.tokenizer.decode
    sampling = Sampling(
        max_new_tokens=len(passages[0]) - BEGINNING, temperature=1.0, top_p=0.95, seed=seed, log_probs=False
    )
    written = model.generate([decode(passage[:BEGINNING]) for passage in passages], sampling)
    pairs = [
        (decode(passage[BEGINNING : BEGINNING + found.completion_tokens]), found.text)
        for passage, found in zip(passages, written, strict=True)
        if found.completion_tokens > SHORTEST
    ]
    return TextPairs(tuple(human for human, _ in pairs), tuple(machine for _, machine in pairs))


def trained_detector(
    pairs: TextPairs,
    vocabulary: int,
    sizes: EncoderSizes,
    training: ClassifierConfig,
    seed: int,
    paper_pipeline: bool = False,
) -> BertDetector:
    """An encoder that learned 60 % of the texts from nothing; its tokenizer is made from the same texts."""
    texts, labels = pairs.texts, pairs.labels
    learned, _ = paper_split(texts, labels, seed=seed)
    tokenizer = encoder_tokenizer([texts[place] for place in learned], vocabulary)
    encoder = tiny_encoder(tokenizer, ("human", "machine"), sizes=sizes, seed=seed)
    detector = BertDetector(
        encoder.model, tokenizer, max_tokens=sizes.positions, paper_pipeline=paper_pipeline, name="encoder"
    )
    detector.fit([texts[place] for place in learned], [labels[place] for place in learned], training)
    return detector
