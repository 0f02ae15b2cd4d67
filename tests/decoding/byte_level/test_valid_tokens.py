"""What can follow a sequence of tokens, against the tokenizers themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.decoding.byte_level.cutters import PRE_TOKENIZERS, TOKENIZERS, byte_level
from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import ByteVocabulary
from tokenry.decoding.byte_level.token_rules import Remembered
from tokenry.decoding.byte_level.valid_tokens import valid_tokens

RULES = {
    name: valid_tokens(make(), ByteVocabulary.from_tokenizer(make())) for name, make in TOKENIZERS.items()
}
SNIPPETS = (
    *"ates'r l.!xHTR1²_/(漢é—😀ा", " ", "  ", "\n", "\t", "23", "456", "the", " the", "'re", "n't", "'LL", "東京", " cat",
)  # fmt: skip
texts = st.lists(st.sampled_from(SNIPPETS), min_size=1, max_size=6).map("".join)


def encoded(name, text):
    return TOKENIZERS[name]().encode(text, add_special_tokens=False).ids


def lead(name):
    return b" " * ByteVocabulary.from_tokenizer(TOKENIZERS[name]()).prepends_space


def given_text(name, ids):
    """The text of some tokens, without the space that the tokenizer puts before it; None inside a character."""
    view = ByteVocabulary.from_tokenizer(TOKENIZERS[name]())
    try:
        return view.decode(ids).decode()[view.prepends_space :]
    except UnicodeDecodeError:
        return None


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=6, deadline=None)
@given(text=texts)
def test_what_the_tokenizer_writes_is_valid_at_every_step(name, text):
    text = "x" + text if "metaspace" in name else text
    tail = ()
    for token in encoded(name, text):
        assert RULES[name].valid(tail)[token]
        tail = RULES[name].after(tail, token)
    assert RULES[name].may_end(tail)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=6, deadline=None)
@given(text=texts)
def test_a_text_may_end_exactly_where_the_tokenizer_writes_what_came_so_far(name, text):
    text = "x" + text if "metaspace" in name else text
    tail, ids = (), encoded(name, text)
    for place, token in enumerate(ids, 1):
        tail = RULES[name].after(tail, token)
        so_far = given_text(name, ids[:place])
        if so_far:
            assert RULES[name].may_end(tail) == (encoded(name, so_far) == ids[:place])


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_valid_tokens_lead_to_texts_that_the_tokenizer_writes_and_never_into_a_dead_end(name, seed):
    random, tail, ids = np.random.default_rng(seed), (), []
    if name in ("sentencepiece", "metaspace", "metaspace, cut"):
        # Where a space is put before a text, the first token is not free.
        ids = [TOKENIZERS[name]().token_to_id("▁t")]
        tail = RULES[name].after(tail, ids[0])
    for _ in range(5):
        possible = np.flatnonzero(RULES[name].valid(tail))
        assert len(possible)
        ids.append(int(random.choice(possible)))
        tail = RULES[name].after(tail, ids[-1])
        text = given_text(name, ids)
        if text and RULES[name].may_end(tail):
            assert encoded(name, text) == ids


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("none", "the cat"),
        ("gpt2", "it'r  "),
        ("right to left", "1234"),
        ("sentencepiece", "t ca"),
        ("metaspace, cut", "t ca"),
    ],
)
def test_encoding_again_finds_the_same_tokens(name, text):
    tokenizer = byte_level(name, 275) if name in PRE_TOKENIZERS else TOKENIZERS[name]()
    view = ByteVocabulary.from_tokenizer(tokenizer)
    rules, reference = (valid_tokens(tokenizer, view, reencode) for reencode in (False, True))
    tails = [()]
    for token in tokenizer.encode(text, add_special_tokens=False).ids:
        tails.append(rules.after(tails[-1], token))
    for tail in tails[-2:]:
        assert (rules.valid(tail) == reference.valid(tail)).all()


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=6, deadline=None)
@given(text=texts)
def test_what_is_settled_stays_whatever_follows(name, text):
    text = "x" + text
    settled = RULES[name].settled(lead(name) + text.encode())
    for more in ("", "a", "e", "1", "22", " ", "\n", "'s", "!", "漢"):
        ids = encoded(name, text + more)
        assert ids[: len(settled)] == settled


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=6, deadline=None)
@given(text=texts)
def test_bytes_are_encoded_as_the_tokenizer_encodes_text(name, text):
    text = "x" + text
    assert RULES[name].encode(lead(name) + text.encode()) == encoded(name, text)


def test_any_bytes_are_encoded():
    rules, view = RULES["gpt2"], ByteVocabulary.from_tokenizer(TOKENIZERS["gpt2"]())
    assert view.decode(rules.encode(b"a\xff\xc3 b\xe2\x80")) == b"a\xff\xc3 b\xe2\x80"


def test_a_character_with_a_token_is_never_written_as_its_bytes():
    tokenizer, rules = TOKENIZERS["sentencepiece"](), RULES["sentencepiece"]
    first, second = (tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in "é".encode())
    assert tokenizer.token_to_id("é") is not None
    assert rules.valid(())[first]
    assert not rules.valid(rules.after((), first))[second]
    assert not rules.may_end(rules.after((), first))


def test_only_lately_used_things_are_remembered():
    asked = []
    square = Remembered(lambda number: asked.append(number) or number**2, most=2)
    assert [square(number) for number in (1, 2, 1, 3, 1, 2)] == [1, 4, 1, 9, 1, 4]
    assert asked == [1, 2, 3, 2]


def test_a_unigram_tokenizer_is_refused_in_one_sentence():
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    with pytest.raises(
        UserError, match="is a Unigram model, whose valid sequences cannot be told pair by pair"
    ):
        valid_tokens(tokenizer, ByteVocabulary.from_tokenizer(tokenizer))
