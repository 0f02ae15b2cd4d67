import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenization.premium_golden import golden
from tokenry.core.errors import UserError
from tokenry.core.text.token_counts import corpus_token_count, text_token_counts
from tokenry.tokenization.premiums.many_sizes import counts_by_size, ctc_curve
from tokenry.tokenization.training.byte_level_training import GPT2_PATTERN, train_bpe, train_unigram
from tokenry.tokenization.training.merge_lists import smaller_bpe

GOLDEN = golden("premiums")
SIZES = GOLDEN["vocab_sizes"]
# Runs of one letter make the same token in more than one way: there are then more merges than tokens.
RUNS = st.lists(st.text(alphabet="aab -", max_size=30), min_size=1, max_size=5)


@pytest.mark.parametrize("language", GOLDEN["languages"])
def test_one_training_gives_the_counts_of_the_reference_at_every_size(language):
    found = ctc_curve(GOLDEN["train"][language], GOLDEN["eval"][language], SIZES, pattern=GPT2_PATTERN)
    assert [*found.values()] == GOLDEN["ctc"][language]


@settings(max_examples=60, deadline=None)
@given(RUNS, RUNS, st.lists(st.integers(257, 300), min_size=1, max_size=5, unique=True))
def test_every_size_is_exactly_a_training_of_its_own(texts, others, sizes):
    sizes = sorted(sizes)
    largest = train_bpe(texts, sizes[-1], special_tokens=["<s>"])
    counts = counts_by_size(largest, others, sizes)
    for size in sizes:
        alone = train_bpe(texts, size, special_tokens=["<s>"])
        assert counts[size].tolist() == text_token_counts(alone, others).tolist()
        smaller = smaller_bpe(largest, size)
        assert smaller.get_vocab() == alone.get_vocab()
        assert [each.ids for each in smaller.encode_batch(others)] == [
            each.ids for each in alone.encode_batch(others)
        ]


def test_a_smaller_tokenizer_is_the_one_of_its_own_training():
    texts = GOLDEN["train"]["deu_1996"]
    largest = train_bpe(texts, 500, special_tokens=["<s>"])
    alone = train_bpe(texts, 400, special_tokens=["<s>"])
    assert smaller_bpe(largest, 400).to_str() == alone.to_str()


def test_sizes_beyond_the_text_count_as_the_largest_there_is():
    tokenizer = train_bpe(["ab ab"], 5000)
    found = counts_by_size(tokenizer, ["ab ab ab"], [256, 4000, 5000])
    assert [count.sum() for count in found.values()] == [8, 3, 3]


def test_unigram_is_trained_once_per_size():
    texts = GOLDEN["train"]["eng"]
    found = ctc_curve(texts, texts[:5], [300, 400], algorithm="unigram")
    assert found[400] == corpus_token_count(train_unigram(texts, 400), texts[:5])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ctc_curve(["a"], ["a"], [400, 300]), "must be positive and increase, got 400, 300"),
        (lambda: ctc_curve(["a"], ["a"], [200, 300]), "a vocabulary of 200 has no room for the 256 bytes"),
        (lambda: ctc_curve(["a"], ["a"], [300], "wordpiece"), "must be bpe or unigram, got 'wordpiece'"),
        (lambda: ctc_curve(["a"], [], [300]), "the evaluation text is empty"),
        (lambda: counts_by_size(train_unigram(["ab"], 300), ["a"], [300]), "has no merges"),
        (lambda: counts_by_size(train_bpe(["ab ab"], 300), ["a"], [100]), "a vocabulary of 100 has no room"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call()
