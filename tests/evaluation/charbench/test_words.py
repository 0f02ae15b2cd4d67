import sys
from collections import Counter

import pytest

import tokenry.evaluation.charbench.words as charbench_words
from tokenry.core.errors import UserError
from tokenry.evaluation.charbench import (
    build_charbench,
    frequent_words,
    load_word_list,
    read_word_list,
    word_frequencies,
    words_of_corpus,
)


@pytest.fixture(scope="module")
def words():
    pytest.importorskip("wordfreq")
    pytest.importorskip("english_words")
    return load_word_list()


def test_the_lists_together_fill_the_benchmark_of_the_paper(words):
    lengths = Counter(map(len, words))
    assert set(lengths) == set(range(4, 11))
    assert min(lengths.values()) >= 25_000


def test_the_words_are_distinct_and_a_fifth_is_capitalised(words):
    assert len(set(map(str.lower, words))) == len(words)
    assert sum(word[0].isupper() for word in words) == round(0.2 * len(words))
    assert all(word[1:].islower() and word.isascii() and word.isalpha() for word in words)


def test_the_first_words_are_drawn_from_the_whole_alphabet(words):
    first = Counter(word[0].lower() for word in words[:5_000])
    assert len(first) == 26


def test_the_list_does_not_depend_on_the_order_in_which_a_set_gives_its_words(monkeypatch):
    lists = [[f"word{chr(97 + i)}" for i in range(26)]] * 2
    lists[1] = lists[1][::-1]
    found = []
    for given in lists:
        monkeypatch.setitem(charbench_words._LISTS, "wordfreq", lambda given=given: given)
        found.append(load_word_list("wordfreq"))
    assert found[0] == found[1] != sorted(found[0])
    assert load_word_list("wordfreq", seed=1) != found[0]


def test_one_list_alone_in_lower_case():
    pytest.importorskip("wordfreq")
    few = load_word_list("wordfreq", min_len=2, max_len=3, capitalize=0.0)
    assert all(word.islower() and 2 <= len(word) <= 3 for word in few)
    with pytest.raises(UserError, match="words of length 3 and 25,000 are needed"):
        build_charbench(few, lengths=[3])


def test_frequent_words_come_first():
    pytest.importorskip("wordfreq")
    found = frequent_words(50)
    frequencies = word_frequencies(found)
    assert frequencies == sorted(frequencies, reverse=True)
    assert word_frequencies(["qqqxqqq"]) == [0.0]
    with pytest.raises(UserError, match=r"wordfreq has .* words of 4 to 4 letters, not 1,000,000"):
        frequent_words(1_000_000, 4, 4)


@pytest.mark.parametrize("package", ["wordfreq", "english-words"])
def test_a_package_that_is_not_there_is_named_with_its_remedy(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    with pytest.raises(
        UserError, match=rf"package {package}, which is not installed: .*tokenry\[words\].* file"
    ):
        load_word_list(package)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "oxford"}, "a source of words must be one of wordfreq, english-words, got 'oxford'"),
        ({"min_len": 0}, "at least one letter"),
        ({"min_len": 5, "max_len": 4}, "min_len <= max_len, got 5 and 4"),
        ({"capitalize": 1.5}, r"capitalize must be in \[0, 1\], got 1.5"),
    ],
)
def test_what_no_list_can_be_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        load_word_list(**options)


def test_a_corpus_gives_words_of_letters_in_every_case():
    found = words_of_corpus(["The cat, the cats; don't x2 café", "under_score The-end"], 3, 10)
    assert sorted(found) == ["The", "cat", "cats", "don", "end", "the"]
    assert found == words_of_corpus(["cats the The cat don", "end"], 3, 10)


def test_a_corpus_without_words_is_refused():
    with pytest.raises(UserError, match="the corpus has no word of 4 to 10 letters"):
        words_of_corpus(["1234 ..."])


def test_a_file_keeps_its_order_and_any_script(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("\ufeffzebra\n\n  apple  \r\nनमस्ते\nzebra\n", encoding="utf-8")
    assert read_word_list(path) == ["zebra", "apple", "नमस्ते"]


def test_composed_characters_count_as_one_on_request(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("cafe\u0301\ncafé\n", encoding="utf-8")
    assert [len(word) for word in read_word_list(path)] == [5, 4]
    assert read_word_list(path, nfc=True) == ["café"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ice\nice cream\n", "line 2 of .* has white space inside .'ice cream'.: give one word per line"),
        (b"\n \n", "holds no words"),
        (b"\xff\xfe\x00", "is not UTF-8: byte 0"),
    ],
)
def test_a_file_that_is_no_word_list_is_refused(tmp_path, content, message):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_word_list(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read as UTF-8 text"):
        read_word_list(tmp_path / "none.txt")
