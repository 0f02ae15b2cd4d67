import re
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenization.premium_golden import golden
from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import from_byte_characters
from tokenry.core.text.token_counts import corpus_token_count
from tokenry.tokenization.training.boundless_bpe import BoundlessBPE, Event
from tokenry.tokenization.training.boundless_training import may_join, train_boundless_bpe
from tokenry.tokenization.training.byte_level_training import PATTERN, byte_level_pieces, train_bpe

GOLDEN = golden("boundless")
TEXTS = [
    "to be or not to be, that is to say to be at all; to be or not to be is to be",
    "the cat is at the mat and the dog is at the mat and the cat is at the log",
    "यह बिल्ली चटाई पर है और यह कुत्ता चटाई पर है और यह है",
    "هذا هو القط وهذا هو الكلب وهذا هو البيت",
    "แมวอยู่บนเสื่อ แมวอยู่บนเสื่อ 123 123",
]
SMALL = st.lists(st.text(alphabet="ab  ,c\u0301é", max_size=40), min_size=1, max_size=4)
SIZES = st.integers(257, 300)
TAUS = st.sampled_from([None, 0.9, 0.6, 0.4])


def pieces_of(text):
    return [from_byte_characters(piece) for piece, _ in byte_level_pieces(PATTERN).pre_tokenize_str(text)]


def single(data):
    return [bytes([byte]) for byte in data]


def merged(row, left, right):
    done, place = [], 0
    while place < len(row):
        here = tuple(row[place : place + 2]) == (left, right)
        done.append(left + right if here else row[place])
        place += 2 if here else 1
    return done


def pairs_of(row, times=1, among=None):
    counts, previous = Counter(), None
    for pair in pairwise(row):
        again = pair[0] == pair[1] and pair == previous
        if not again and (among is None or set(pair) <= among):
            counts[pair] += times
        previous = None if again else pair
    return counts


def recounted(texts, vocab_size, tau, free_deleted):
    """Training by counting everything at each step."""
    documents = [pieces_of(text) for text in texts]
    counts = Counter(piece for document in documents for piece in document)
    words = {word: single(word) for word in counts}
    vocabulary, unlocked, gone, events = set(single(range(256))), set(), set(), []

    def best(found):
        found = {pair: number for pair, number in found.items() if b"".join(pair) not in vocabulary}
        pair = min(found, key=lambda pair: (-found[pair], pair), default=None)
        return pair, found.get(pair, 0)

    while len(vocabulary) < vocab_size:
        inside, across, tokens = Counter(), Counter(), Counter()
        for word, row in words.items():
            inside += pairs_of(row, counts[word])
            for token in row:
                tokens[token] += counts[word]
        for document in documents:
            across += pairs_of(document, among=unlocked)
        (word_pair, word_count), (super_pair, super_count) = best(inside), best(across)
        if not word_count and not super_count:
            break
        if super_count >= word_count:
            documents = [merged(document, *super_pair) for document in documents]
            if free_deleted or super_pair[0] != super_pair[1]:
                unlocked.add(b"".join(super_pair))
            vocabulary.add(b"".join(super_pair))
            events.append(Event("supermerge", *super_pair))
            continue
        for word, row in words.items():
            words[word] = merged(row, *word_pair)
            if len(words[word]) == 1 and len(row) > 1 and may_join(word):
                unlocked.add(word)
        vocabulary.add(b"".join(word_pair))
        events.append(Event("merge", *word_pair))
        for part in dict.fromkeys(word_pair):
            share = word_count / tokens[part]
            if tau is not None and len(part) > 1 and share >= tau and part not in gone:
                for word, row in words.items():
                    broken = [single(token) if token == part else [token] for token in row]
                    words[word] = [token for each in broken for token in each]
                gone.add(part)
                events.append(Event("delete", part))
                if free_deleted:
                    vocabulary.discard(part)
                    unlocked.discard(part)
    return events


def replayed(tokenizer, text):
    """Encoding by looking at the whole text for each event in turn: all that apply have been found in the order of the events."""
    chunks = [single(piece) for piece in pieces_of(text)]
    for event in tokenizer.events:
        if event.kind == "merge":
            chunks = [merged(chunk, event.left, event.right) for chunk in chunks]
        elif event.kind == "delete":
            chunks = [
                [part for token in chunk for part in (single(token) if token == event.left else [token])]
                for chunk in chunks
            ]
        else:
            place = 0
            while place < len(chunks) - 1:
                if chunks[place] == [event.left] and chunks[place + 1] == [event.right]:
                    chunks[place : place + 2] = [[event.token]]
                place += 1
    return [token for chunk in chunks for token in chunk]


@pytest.fixture(scope="module")
def trained():
    return train_boundless_bpe(TEXTS, 330, special_tokens=["<s>", "</s>"])


def as_golden(event):
    return [event.kind, *(part.decode("latin-1") for part in (event.left, event.right) if part)]


@pytest.mark.parametrize("case", GOLDEN)
def test_events_and_encodings_are_those_of_the_released_code(case):
    tokenizer = train_boundless_bpe(
        case["texts"], case["vocab_size"], case["tau"], case["pattern"], free_deleted=False
    )
    assert [as_golden(event) for event in tokenizer.events] == case["events"]
    assert tokenizer.vocab_size == case["vocab_size"]
    for each in case["encode"]:
        assert [token.decode("latin-1") for token in tokenizer.tokens(each["text"])] == each["tokens"]


@settings(max_examples=100, deadline=None)
@given(SMALL, SIZES, TAUS, st.booleans())
def test_every_event_is_that_of_a_full_recount(texts, vocab_size, tau, free_deleted):
    tokenizer = train_boundless_bpe(texts, vocab_size, tau, free_deleted=free_deleted)
    assert [*tokenizer.events] == recounted(texts, vocab_size, tau, free_deleted)


@settings(max_examples=100, deadline=None)
@given(SMALL, SMALL, TAUS, st.booleans())
def test_encoding_replays_the_events_in_their_order(texts, others, tau, free_deleted):
    tokenizer = train_boundless_bpe(texts, 300, tau, free_deleted=free_deleted)
    for text in others:
        assert tokenizer.tokens(text) == replayed(tokenizer, text)


def test_the_cases_reach_every_kind_of_event():
    tokenizer = train_boundless_bpe(TEXTS, 400, tau=0.6)
    assert {event.kind for event in tokenizer.events} == {"merge", "delete", "supermerge"}
    assert [*tokenizer.events] == recounted(TEXTS, 400, 0.6, free_deleted=True)


@settings(max_examples=25, deadline=None)
@given(st.text())
def test_any_text_comes_back(trained, text):
    assert trained.decode(trained.encode(text)).decode() == text


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_come_back(trained, data):
    assert trained.decode(trained.encode(data)) == data


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_of_a_text_are_cut_as_the_text_is(trained, text):
    assert trained.encode(text.encode()) == trained.encode(text)


def test_ids_are_special_tokens_then_bytes_then_what_was_made(trained):
    assert trained.vocabulary.special == {0, 1}
    assert trained.vocabulary.token_bytes[2:258] == tuple(single(range(256)))
    assert trained.vocab_size == 330
    assert min(trained.encode("to be")) >= 2
    assert max(trained.encode("to be")) >= 258


def test_deleted_tokens_make_room_for_others():
    freed = train_boundless_bpe(TEXTS, 325, tau=0.6)
    kept = train_boundless_bpe(TEXTS, 325, tau=0.6, free_deleted=False)
    deletions = sum(event.kind == "delete" for event in freed.events)
    assert deletions > 5
    assert freed.vocab_size == kept.vocab_size == 325
    made = {event.token for event in freed.events if event.kind != "delete"}
    assert len(made) > 325 - 256


def test_a_deleted_token_is_in_no_encoding():
    tokenizer = train_boundless_bpe(TEXTS, 325, tau=0.6)
    gone = {event.token for event in tokenizer.events if event.kind == "delete"}
    gone -= set(tokenizer.vocabulary.token_bytes)
    assert gone
    assert not gone & {token for text in TEXTS for token in tokenizer.tokens(text)}


@settings(max_examples=25, deadline=None)
@given(SMALL, st.integers(257, 290), TAUS, st.booleans())
def test_a_smaller_vocabulary_is_a_shorter_training(texts, vocab_size, tau, free_deleted):
    largest = train_boundless_bpe(texts, 300, tau, special_tokens=["<s>"], free_deleted=free_deleted)
    alone = train_boundless_bpe(texts, vocab_size, tau, special_tokens=["<s>"], free_deleted=free_deleted)
    assert largest.smaller(vocab_size) == alone


def test_superwords_save_tokens(trained):
    superwords = [event.token for event in trained.events if event.kind == "supermerge"]
    assert b" to be" in superwords
    plain = train_bpe(TEXTS, 330, special_tokens=["<s>", "</s>"])
    assert corpus_token_count(trained, TEXTS) < corpus_token_count(plain, TEXTS)


def test_what_is_saved_is_loaded(trained, tmp_path):
    trained.save(tmp_path / "tokenizer.json")
    assert BoundlessBPE.load(tmp_path / "tokenizer.json") == trained


@pytest.mark.parametrize(
    ("piece", "joins"),
    [
        (" to", True),
        ("don\u2019t", True),
        ("snake_case", True),
        (" बिल्ली", True),
        (" a", True),
        ("a", False),
        ("a ", False),
        (" 12", False),
        ("to,", False),
        ("\u0301ab", False),
        (" _", False),
        ("ab\n", False),
        ("", False),
    ],
)
def test_only_pieces_of_letters_join(piece, joins):
    assert may_join(piece.encode()) is joins


def test_a_broken_character_joins_nothing():
    assert not may_join("नम".encode()[:-1])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: train_boundless_bpe(TEXTS, 255), "a vocabulary of 255 has no room for the 256 bytes"),
        (lambda: train_boundless_bpe(TEXTS, 300, tau=0.0), "tau must be positive, got 0.0"),
        (lambda: train_boundless_bpe(TEXTS, 300, pattern="(("), "is not a valid regular expression"),
        (lambda: train_boundless_bpe(TEXTS, 300).smaller(100), "a vocabulary of 100 has no room"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call()


def test_another_file_is_refused(tmp_path):
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(UserError, match="is not a BoundlessBPE tokenizer"):
        BoundlessBPE.load(tmp_path / "other.json")
