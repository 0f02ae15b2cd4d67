import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import ByteVocabulary, to_byte_characters
from tokenry.tokenization.training.boundless_bpe import BoundlessBPE
from tokenry.tokenization.training.byte_level_training import PATTERN
from tokenry.tokenization.training.train_any import TrainingPlan, measure_training, train_any

TEXTS = [
    "to be or not to be that is to be",
    "it is to be and not to be",
    "यह बिल्ली चटाई पर है",
    "กขฃ ๑๒ ё ё",
] * 3
ALGORITHMS = ("bpe", "unigram", "superbpe", "boundless")
TRAINED = {
    algorithm: train_any(TrainingPlan(algorithm, 300, special_tokens=("<s>",)), TEXTS)[0]
    for algorithm in ALGORITHMS
}


def encode(tokenizer, text):
    if isinstance(tokenizer, BoundlessBPE):
        return tokenizer.encode(text)
    return tokenizer.encode(text, add_special_tokens=False).ids


def view(tokenizer):
    return (
        tokenizer.vocabulary
        if isinstance(tokenizer, BoundlessBPE)
        else ByteVocabulary.from_tokenizer(tokenizer)
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=25, deadline=None)
@given(text=st.text().filter(lambda text: "<s>" not in text))
def test_every_tokenizer_gives_any_text_back(algorithm, text):
    tokenizer = TRAINED[algorithm]
    assert view(tokenizer).decode(encode(tokenizer, text)) == text.encode()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=25, deadline=None)
@given(data=st.binary(max_size=50))
def test_every_tokenizer_gives_any_bytes_back(algorithm, data):
    tokenizer = TRAINED[algorithm]
    if isinstance(tokenizer, BoundlessBPE):
        ids = tokenizer.encode(data)
    else:  # a piece of bytes, written as the model sees it
        ids = [token.id for token in tokenizer.model.tokenize(to_byte_characters(data))] if data else []
    assert view(tokenizer).decode(ids) == data


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_special_token_has_the_lowest_id(algorithm):
    assert 0 in view(TRAINED[algorithm]).special


def test_only_superword_tokenizers_have_tokens_that_span_words():
    found = {name: measure_training(each, TEXTS)["superwords"] for name, each in TRAINED.items()}
    assert (found["bpe"], found["unigram"]) == (0, 0)
    assert found["superbpe"] > 0
    assert found["boundless"] > 0


@pytest.mark.parametrize("algorithm", ["bpe", "superbpe"])
def test_texts_that_come_once_are_all_trained_on(algorithm):
    texts = ["zebra zebra zebra zebra", "the cat sat on the mat, the cat sat"]
    plan = TrainingPlan(algorithm, 275)
    of_list, of_iterator = (train_any(plan, given)[0] for given in (texts, iter(texts)))
    assert of_iterator.to_str() == of_list.to_str()
    assert any("zebra" in token for token in of_iterator.get_vocab())


def test_what_is_measured_adds_up():
    found = measure_training(TRAINED["bpe"], iter(TEXTS))
    assert found["texts"] == len(TEXTS)
    assert found["bytes"] == sum(len(text.encode()) for text in TEXTS)
    assert found["tokens"] == sum(len(encode(TRAINED["bpe"], text)) for text in TEXTS)
    assert found["bytes_per_token"] == found["bytes"] / found["tokens"]


def test_marks_stay_with_their_letters():
    assert "\\p{M}" in PATTERN
    tokens = TRAINED["bpe"].pre_tokenizer.pre_tokenize_str("यह बिल्ली")
    assert len(tokens) == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: TrainingPlan("wordpiece"), "the algorithm must be one of bpe, unigram, superbpe, boundless"),
        (lambda: TrainingPlan(vocab_size=200), "a vocabulary of 200 has no room"),
        (lambda: TrainingPlan(vocab_size=300, transition=301), "the vocabulary of 300, got 301"),
        (lambda: train_any(TrainingPlan(), ["", ""]), "the training text is empty"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call()
