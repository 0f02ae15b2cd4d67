"""Hacks for long texts: reference numbers, what holds for any text, what is counted, and what is refused."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_json
from tests.tiny.tokenizers import character_tokenizer, word_tokenizer
from tokenry.compression.text import (
    HACKS,
    TextHacks,
    stopword_list,
    tokenizer_length_report,
    word_counts,
    word_tokens,
)
from tokenry.core.errors import UserError

CASE = golden_json("37-long-text-hacks", "dev-hacks.json")
SUBSETS = {
    "no_stopwords": ["stopwords"],
    "no_punctuation": ["punctuation"],
    "no_low_frequency": ["low-frequency"],
    "no_recurring": ["recurring"],
    "stop_punct": ["punctuation", "stopwords"],
    "stop_recurring": ["recurring", "stopwords"],
    "all": HACKS,
}
TEXT = "The cat, the CAT and a dog-house: the dog's house!"
WORDS = st.lists(
    st.sampled_from(["a", "A", "the", "cat", "dog-house", "dog's", ",", "!", "東京", "x1"]), max_size=12
)
TEXTS = st.lists(WORDS.map(" ".join), max_size=5)


def hacks(names=HACKS, train=(TEXT,), **options):
    return TextHacks.named(names, ["the", "And"], **options).fit(train)


# --- reference numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SUBSETS)
def test_every_subset_leaves_the_words_of_the_reference(name):
    texts = [doc["text"] for doc in CASE["docs"]]
    subject = TextHacks.named(SUBSETS[name], CASE["stopwords"], CASE["min_count"], keep_empty=True).fit(texts)
    expected = [doc[name] for doc in CASE["docs"]]
    assert list(map(subject.words, texts)) == expected
    assert subject.transform(texts) == [" ".join(words) for words in expected]


def test_words_and_counts_are_those_of_the_reference():
    texts = [doc["text"] for doc in CASE["docs"]]
    assert list(map(word_tokens, texts)) == [doc["tokens"] for doc in CASE["docs"]]
    assert word_counts(texts) == CASE["frequency"]
    assert word_counts(texts, by_documents=True) == CASE["document_frequency"]
    assert TextHacks(stopwords=CASE["stopwords"]).transform(texts) == [
        doc["joined_no_stopwords"] for doc in CASE["docs"]
    ]


# --- what holds for any text --------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(texts=TEXTS, train=TEXTS, names=st.sets(st.sampled_from(HACKS)))
def test_what_is_left_is_a_part_of_the_text_in_its_order_and_shortening_again_changes_nothing(
    texts, train, names
):
    subject = hacks(names, train, keep_empty=True)
    short = subject.transform(texts)
    for text, left in zip(texts, short, strict=True):
        rest = iter(word_tokens(text))
        assert all(word in rest for word in left.split())
    assert subject.transform(short) == short


@settings(deadline=None, max_examples=40)
@given(texts=TEXTS, names=st.sets(st.sampled_from(HACKS)))
def test_what_is_dropped_and_kept_adds_up(texts, names):
    subject = hacks(names, keep_empty=True)
    short = subject.transform(texts)
    report = subject.report()
    assert report.words_before == sum(len(word_tokens(text)) for text in texts)
    assert report.words_after == sum(len(word_tokens(text)) for text in short)
    assert report.words_before - report.words_after == sum(report.dropped.values())
    assert {hack for hack, count in report.dropped.items() if count} <= names


@settings(deadline=None, max_examples=20)
@given(texts=TEXTS, order=st.randoms(use_true_random=False))
def test_a_text_is_shortened_alike_among_any_others(texts, order):
    subject = hacks()
    places = list(range(len(texts)))
    order.shuffle(places)
    short = subject.transform(texts)
    assert subject.transform([texts[place] for place in places]) == [short[place] for place in places]


# --- each hack ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["stopwords"], "cat , CAT a dog-house : dog's house !"),
        (["punctuation"], "The cat the CAT and a dog-house the dog's house"),
        (["low-frequency"], "The cat , the CAT : the !"),
        (["recurring"], "The cat , and a dog-house : dog's house !"),
        ([], "The cat , the CAT and a dog-house : the dog's house !"),
    ],
)
def test_one_hack_alone(names, left):
    assert hacks(names).transform([TEXT]) == [left]


def test_words_that_training_never_saw_are_rare():
    subject = hacks(["low-frequency"], ["old old new"], min_count=1)
    assert subject.transform(["old unseen new, new"]) == ["old new , new"]
    assert subject.counts == {"old": 2, "new": 1}


def test_documents_can_be_counted_instead_of_occurrences():
    train = ["a a b", "b"]
    assert hacks(["low-frequency"], train).transform(["a b"]) == ["a b"]
    assert hacks(["low-frequency"], train, by_documents=True).transform(["a b"]) == ["b"]


def test_an_emptied_text_comes_back_and_is_counted():
    texts = ["the the and", "", "...", "cat"]
    subject = hacks(["stopwords", "punctuation"])
    assert subject.transform(texts) == ["the the and", "", "...", "cat"]
    assert (subject.report().emptied, subject.report().fell_back) == (2, 2)
    assert subject.report().warnings == [
        "2 of 4 texts were kept as they were: the hacks leave nothing of them."
    ]
    bare = hacks(["stopwords", "punctuation"], keep_empty=True)
    assert bare.transform(texts) == ["", "", "", "cat"]
    assert bare.report().warnings == ["the hacks leave nothing of 2 of 4 texts."]


def test_a_language_without_blanks_needs_a_splitter():
    subject = TextHacks(stopwords=["の"])
    assert subject.transform(["東京のタワー"]) == ["東京のタワー"]
    assert "100% of the words are in scripts without blanks" in subject.report().warnings[0]
    split = TextHacks(stopwords=["の"], splitter=list)
    assert split.transform(["東京の塔"]) == ["東 京 塔"]
    assert TextHacks().fit([]).transform([TEXT])
    plain = TextHacks()
    plain.transform([TEXT])
    assert plain.report().warnings == []


def test_texts_that_fit_can_be_left_alone():
    tokenizer = character_tokenizer(adds_bos=True)
    subject = hacks(["stopwords"], only_if_longer=True)
    assert subject.transform(["the cat", "the cat and the dog"], tokenizer, 8) == ["the cat", "cat dog"]
    report = subject.report()
    assert report.left_alone == 1
    assert (report.tokens_before.mean, report.tokens_after.mean) == (14, 8)
    assert (report.tokens_before.truncated, report.tokens_after.truncated) == (0.5, 0)


def test_hacks_go_to_other_processes():
    subject = hacks()
    assert pickle.loads(pickle.dumps(subject)).transform([TEXT]) == subject.transform([TEXT])


# --- lengths and lists --------------------------------------------------------------------------------------------------


def test_the_tokenizer_with_the_fewest_tokens_stands_first():
    texts = ["w1 w2 w3", "w4"]
    rows = tokenizer_length_report(
        {"characters": character_tokenizer(adds_bos=True), "words": word_tokenizer()}, texts, (2, 4, 16)
    )
    assert [row.name for row in rows] == ["words", "characters"]
    assert (rows[0].tokens.mean, rows[0].tokens.median, rows[0].tokens.fertility) == (2, 2, 1)
    assert rows[0].over == {2: 0.5, 4: 0, 16: 0}
    assert rows[1].over == {2: 1, 4: 0.5, 16: 0}


def test_lists_of_stopwords(tmp_path):
    assert {"the", "and"} <= stopword_list("english")
    file = tmp_path / "words.txt"
    file.write_text("yang\n\n dan \n", encoding="utf-8")
    assert stopword_list(str(file)) == {"yang", "dan"}
    pytest.importorskip("wordfreq")
    common = stopword_list("id:20")
    assert len(common) == 20
    assert "yang" in common


def test_a_language_that_nobody_knows_is_refused():
    pytest.importorskip("wordfreq")
    with pytest.raises(UserError, match="wordfreq knows no words of the language 'xx'"):
        stopword_list("xx:100")


# --- what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: TextHacks(min_count=2).transform(["a"]), r"low-frequency \(min_count\) needs the words of the training texts: call fit"),
        (lambda: TextHacks(min_count=2).words("a"), "call fit"),
        (lambda: TextHacks(min_count=0), "min_count must be at least 1, got 0"),
        (lambda: TextHacks(stopwords="the"), "stopwords must be a list or set of words, got str 'the'"),
        (lambda: TextHacks(stopwords=5), "stopwords must be a list or set of words, got int 5"),
        (lambda: TextHacks(stopwords={"the": 1}), "stopwords must be a list or set of words, got dict"),
        (lambda: TextHacks(stopwords=["the", 7]), r"stopwords must be words, got 7 \(int\) among them"),
        (
            lambda: TextHacks.named(["stemming"]),
            "hack must be one of stopwords, punctuation, low-frequency, recurring, got 'stemming'",
        ),
        (lambda: TextHacks().transform("a text"), "texts must be a list of texts, got one text"),
        (lambda: TextHacks().fit(iter([None])), r"texts must be texts, got None \(NoneType\) among them"),
        (lambda: TextHacks().report(), "nothing to report yet: transform texts first"),
        (lambda: TextHacks(only_if_longer=True).transform(["a"]), "only_if_longer needs the tokenizer and its window"),
        (lambda: TextHacks().transform(["a"], word_tokenizer()), "give tokenizer and max_length together"),
        (lambda: stopword_list("klingon"), "stopwords must be a file with one word per line, english, or a language"),
        (lambda: tokenizer_length_report({}, ["a"]), "at least one tokenizer and one window"),
        (lambda: tokenizer_length_report({"words": word_tokenizer()}, []), "there are no documents"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_sentence(call, words):
    with pytest.raises(UserError, match=words):
        call()
