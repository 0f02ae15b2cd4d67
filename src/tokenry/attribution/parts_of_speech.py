"""The part of speech of every token of a vocabulary, so that ReAGent replaces nouns by nouns, as its released code does.

    classes = parts_of_speech(tokenizer)
    attribute(model, input_ids, method="reagent:sampler=pos", classes=classes)

Every token is decoded and tagged alone, once for a vocabulary; a tagger knows little about a piece of a word, and says NN.

Source: the released code of ReAGent (arXiv 2402.00794), with NLTK's averaged perceptron.
"""

from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Int
from nltk.tag.perceptron import PerceptronTagger
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError


def parts_of_speech(
    tokenizer: PreTrainedTokenizerBase, tag: Callable[[str], str] | None = None
) -> Int[Tensor, "vocabulary"]:
    """Number the tokens of a vocabulary by their part of speech.

    Args:
        tag: names the part of speech of a word; None for NLTK's English tagger, whose data is not downloaded here.

    Raises:
        UserError: the data of NLTK's tagger is not installed.
    """
    named = tag or _nltk()
    words = [word.strip() for word in tokenizer.batch_decode([[token] for token in range(len(tokenizer))])]
    of_word = {word: named(word) if word else "" for word in dict.fromkeys(words)}
    numbers = {name: number for number, name in enumerate(dict.fromkeys(of_word.values()))}
    return torch.tensor([numbers[of_word[word]] for word in words])


@cache
def _nltk() -> Callable[[str], str]:
    try:
        tagger = PerceptronTagger()
    except LookupError as error:
        raise UserError(
            "parts of speech need the data of NLTK's tagger, which is not installed: run python -m nltk.downloader "
            "averaged_perceptron_tagger_eng once, or give a tagger of your own as tag=."
        ) from error
    return lambda word: str(tagger.tag([word])[0][1])
