"""Whether a tokenizer gives a text back: one space at a beginning is no difference, everything else is, and it is said in one wording."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny.tokenizers import byte_level, sentencepiece, word_piece
from tokenry.core.text.round_trip import RoundTrip, comes_back, round_trip, unbounded
from tokenry.tokenization.training import train_boundless_bpe

BYTES, LLAMA = byte_level(), sentencepiece()


def characters(*, unknown=None, normalizer=None, pieces=None, decoder=None):
    """A tokenizer of single characters: Latin letters, digits, white space and signs, nothing else."""
    known = [chr(code) for code in (9, 10, *range(32, 127))] + ["▁", *([unknown] if unknown else [])]
    model = models.BPE({token: place for place, token in enumerate(known)}, [], unk_token=unknown)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pieces
    tokenizer.decoder = decoder or decoders.Fuse()
    if unknown:
        tokenizer.add_special_tokens([unknown])
    return tokenizer


# What a tokenizer does to a text: the tokenizer, a text that shows it, and whether that text comes back.
METASPACE = {"pieces": pre_tokenizers.Metaspace(), "decoder": decoders.Metaspace()}
SITUATIONS = {
    "as it is": (characters(), "a  b\n\tc", True),
    "lower case": (characters(normalizer=normalizers.Lowercase()), "The cat", False),
    "lower case where there is none other": (characters(normalizer=normalizers.Lowercase()), "the cat", True),
    "accents stripped": (
        characters(normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])),
        "café",
        False,
    ),
    "unknown tokens": (characters(unknown="[UNK]"), "a 貓 b", False),
    "the unknown token as text": (characters(unknown="[UNK]"), "a [UNK] b", True),
    "unknown characters dropped": (characters(), "a 貓 b", False),
    "runs of spaces collapsed": (characters(normalizer=normalizers.Replace(Regex(" +"), " ")), "a  b", False),
    "line breaks dropped": (characters(normalizer=normalizers.Replace("\n", "")), "a\nb", False),
    "line breaks become spaces": (characters(normalizer=normalizers.Replace("\n", " ")), "a\nb", False),
    "ends stripped, text without": (characters(normalizer=normalizers.Strip()), "a b", True),
    "ends stripped, a space at the end": (characters(normalizer=normalizers.Strip()), "a b ", False),
    "ends stripped, indented code": (characters(normalizer=normalizers.Strip()), "    return", False),
    "a space put before and taken away": (characters(**METASPACE), "a b", True),
    "the text's own space taken away": (characters(**METASPACE), " a b", True),
    "a space put before and left there": (characters(normalizer=normalizers.Prepend(" ")), "a b", True),
    "composed characters": (characters(unknown="?", normalizer=normalizers.NFKC()), "ﬁne", False),
    "words put together with spaces": (word_piece().backend_tokenizer, "café—vu", False),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_text_comes_back_or_it_does_not(situation):
    tokenizer, text, expected = SITUATIONS[situation]
    found = round_trip(tokenizer, [text])
    assert found.gives_back == expected
    assert comes_back(tokenizer, [text, ""]) == [expected, True]
    assert round_trip(PreTrainedTokenizerFast(tokenizer_object=tokenizer), [text]).gives_back == expected


@pytest.mark.parametrize(
    ("situation", "words"),
    [
        ("lower case", "'The cat' comes back as 'the cat'"),
        ("accents stripped", "'café' comes back as 'cafe'"),
        ("unknown tokens", "(1 unknown token): 'a 貓 b' comes back as 'a [UNK] b'"),
        ("unknown characters dropped", "'a 貓 b' comes back as 'a  b'"),
        ("runs of spaces collapsed", "'a  b' comes back as 'a b'"),
        ("line breaks dropped", r"'a\nb' comes back as 'ab'"),
        ("line breaks become spaces", r"'a\nb' comes back as 'a b'"),
        ("ends stripped, a space at the end", "'a b ' comes back as 'a b'"),
        ("ends stripped, indented code", "'    return' comes back as 'return'"),
        ("composed characters", "'ﬁne' comes back as 'fine'"),
        ("words put together with spaces", "'café—vu' comes back as 'café — vu'"),
    ],
)
def test_what_became_of_a_text_is_said(situation, words):
    tokenizer, text, _ = SITUATIONS[situation]
    said = round_trip(tokenizer, [text]).sentence("it")
    assert said.startswith("it does not give the text back")
    assert words in said


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20))
def test_byte_level_and_byte_fallback_give_any_text_back(text):
    assert round_trip(BYTES, [text]).gives_back
    # The sign that stands for a space comes back as one.
    assert round_trip(LLAMA, [text.replace("▁", "_")]).gives_back


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["<s>", "</s>", " ", "  ", "the", "cat", "\n"]), max_size=8))
def test_spaces_put_behind_special_tokens_are_no_difference(parts):
    assert round_trip(LLAMA, ["".join(parts)]).gives_back


def test_spaces_that_are_added_tokens_are_counted_and_not_put():
    tokenizer = characters(normalizer=normalizers.Replace("x", ""))
    tokenizer.add_tokens([AddedToken(" " * count, normalized=False) for count in (4, 3, 2)])
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("   ", "  ")])
    assert comes_back(tokenizer, ["a  b", "a   b", "a\n   b"]) == [True, False, False]
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("  y", "  ")])
    assert comes_back(tokenizer, ["a  y", "a  b"]) == [False, True]


def test_a_space_lost_behind_a_special_token_is_lost():
    tokenizer = characters(normalizer=normalizers.Strip())
    tokenizer.add_special_tokens(["<s>"])
    assert comes_back(tokenizer, [" a", "<s>a", "<s> a", " <s>a"]) == [True, True, False, True]


def test_an_added_token_that_takes_in_the_space_before_it_is_a_difference():
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True)])
    assert comes_back(tokenizer, ["a<mask>", "a <mask>"]) == [True, False]


def test_a_tokenizer_without_a_decoder_is_read_by_the_bytes_of_its_tokens():
    tokenizer = Tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    tokenizer.decoder = None
    assert round_trip(tokenizer, ["the cat – 東京", "</s>a"]).gives_back


def test_a_tokenizer_of_our_own_is_asked_too_and_one_that_only_counts_is_not():
    class Counting:
        def count(self, text):
            return len(text)

    assert round_trip(train_boundless_bpe(["the cat sat"] * 3, 262), ["the cat"]).gives_back
    assert round_trip(Counting(), ["the cat"]) is None


def test_texts_tokens_and_unknown_tokens_are_counted_and_the_first_difference_is_shown():
    found = round_trip(SITUATIONS["unknown tokens"][0], iter(["ab", "", "貓b狗", "the long way 貓"]))
    assert found == RoundTrip(3, 19, 2, 3, "[UNK]", "貓b狗", "[UNK]b[UNK]")
    assert found.cell == "NO: 2 of 3, 3 × [UNK]"
    assert found.sentence("bert") == (
        "bert does not give 2 of 3 texts back (3 unknown tokens): '貓b狗' comes back as '[UNK]b[UNK]'; what is lost is missing from its "
        "figures."
    )


def test_where_all_comes_back_the_cell_says_yes_and_json_has_no_example():
    found = round_trip(BYTES, ["the", "cat"])
    assert found.cell == "yes"
    assert found.as_json() == {
        "gives_text_back": True,
        "summary": "yes",
        "texts": 2,
        "changed": 0,
        "unknown_tokens": 0,
        "example": None,
    }


def test_a_single_text_is_the_text_and_a_long_one_is_shown_where_it_differs():
    found = round_trip(SITUATIONS["lower case"][0], ["the quick brown fox jumps over The lazy dog"])
    assert found.cell == "NO"
    assert found.sentence("it").startswith(
        "it does not give the text back: 'ps over The lazy dog' comes back as"
    )


def test_characters_that_look_alike_are_shown_by_their_numbers():
    found = round_trip(characters(unknown="?", normalizer=normalizers.NFC()), ["e\u0301"])
    assert (
        RoundTrip(1, 1, 1, 0, "", "e\u0301", "é")
        .sentence("it")
        .startswith("it does not give the text back: 'e\\u0301' comes back as '\\xe9'")
    )
    assert not found.gives_back


def test_a_text_that_cannot_be_encoded_does_not_come_back():
    words = Tokenizer(models.WordLevel({"cat": 0}))
    found = round_trip(words, ["cat", "dog"])
    assert (found.changed, found.back) == (1, None)
    assert "it has no tokens for 'dog'" in found.sentence("it")


def test_truncation_and_padding_of_a_file_change_neither_texts_nor_the_tokenizer():
    tokenizer = Tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9, pad_id=0, pad_token="<s>")
    assert round_trip(tokenizer, ["the cat sat on the mat"]).gives_back
    assert len(unbounded(tokenizer).encode("the dog sat").ids) == 3
    assert tokenizer.truncation["max_length"] == 2
    assert unbounded(BYTES.backend_tokenizer) is BYTES.backend_tokenizer
