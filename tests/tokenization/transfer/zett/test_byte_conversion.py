"""Any tokenizer over bytes: the same tokens at the same ids, and any text comes back."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.golden import golden_json
from tests.tiny.tokenizers import byte_level, permuted, sentencepiece, unigram, word_piece
from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import (
    BYTE_CHARACTERS,
    ByteVocabulary,
    from_byte_characters,
    to_byte_characters,
)
from tokenry.models import load_tokenizer
from tokenry.tokenization.transfer.zett.byte_conversion import (
    LOWEST_SCORE,
    holds_whitespace,
    to_byte_level,
    whitespace_tokens,
)

GOLDEN = golden_json("38-zett", "dev-bytelevel.json")
KINDS = [byte_level, sentencepiece, word_piece, unigram]
MIXED = " a naïve 東京 \n\n\n  foo 😀\t\t\tx हिन्दी"


def converted_kinds():
    return [to_byte_level(kind(), whitespace_consistency=w) for kind in KINDS for w in (False, True)]


CONVERTED = converted_kinds()


def fast(model, meta=True, **special):
    tokenizer = Tokenizer(model)
    if meta:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def llama_style(tokens, merges):
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    names = ["<unk>", "<s>", "</s>", *fallback, *tokens]
    vocabulary = {name: number for number, name in enumerate(names)}
    model = models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>")
    return fast(model, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def written_whole(converted, token):
    ids = [piece.id for piece in converted.tokenizer.backend_tokenizer.model.tokenize(token)]
    return len(ids) == 1 and converted.tokens[ids[0]] == token


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_the_golden_vocabularies_are_converted_exactly(case):
    source = Tokenizer.from_str(json.dumps(case["source_tokenizer"]))
    converted = to_byte_level(PreTrainedTokenizerFast(tokenizer_object=source, **case["special"]))
    assert converted.tokens == case["tokens"]
    assert converted.extra_tokens == case["n_extra_tokens"]
    for each in case["encode"]:
        assert converted.tokenizer.tokenize(each["text"]) == each["tokens"]


@pytest.mark.parametrize("converted", CONVERTED)
@given(text=st.text() | st.text(alphabet=" \n\tab."))
@settings(max_examples=25, deadline=None)
def test_any_text_comes_back_behind_one_space(converted, text):
    ids = converted.tokenizer.encode(text, add_special_tokens=False)
    assert converted.tokenizer.decode(ids) == (f" {text}" if text else "")


@pytest.mark.parametrize("converted", CONVERTED)
def test_the_tokenizer_has_one_token_for_every_id(converted):
    vocabulary = converted.tokenizer.get_vocab()
    assert len(converted.tokenizer) == len(converted.tokens)
    assert sorted(vocabulary.values()) == list(range(len(converted.tokens)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_id_stands_for_the_same_bytes_as_before(kind):
    source = kind()
    view, converted = ByteVocabulary.from_tokenizer(source), to_byte_level(source)
    for number, data in enumerate(view.token_bytes):
        if data and number not in view.fallback:
            assert from_byte_characters(converted.tokens[number]) == data
    assert len(converted.tokens) == len(view.token_bytes) + converted.extra_tokens


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_keep_their_names_and_ids(kind):
    source = permuted(kind()) if kind is byte_level else kind()
    converted = to_byte_level(source)
    expected = {name: source.convert_tokens_to_ids(name) for name in source.all_special_tokens}
    assert {converted.tokens[number]: number for number in converted.special_ids} == expected
    assert converted.tokenizer.special_tokens_map == source.special_tokens_map


@pytest.mark.parametrize("converted", CONVERTED)
def test_a_saved_tokenizer_loads_as_it_was(converted, tmp_path):
    converted.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == converted.tokenizer.get_vocab()
    assert loaded.encode(MIXED) == converted.tokenizer.encode(MIXED)
    assert loaded.special_tokens_map == converted.tokenizer.special_tokens_map


def test_special_tokens_are_found_in_the_middle_of_a_word():
    source = byte_level()
    source.add_special_tokens({"sep_token": AddedToken("<x>", normalized=True)})
    converted = to_byte_level(source)
    assert source.sep_token_id in converted.tokenizer.encode("a<x>b")


def test_the_original_is_left_as_it_is():
    source = sentencepiece()
    before = source.backend_tokenizer.to_str()
    to_byte_level(source, whitespace_consistency=True, special_tokens=byte_level())
    assert source.backend_tokenizer.to_str() == before


def test_combining_marks_stay_with_their_word():
    pieces = CONVERTED[0].tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(" हिन्दी ไทยที่")
    assert [from_byte_characters(piece).decode() for piece, _ in pieces] == [" हिन्दी", " ไทยที่"]


def test_what_merges_made_of_characters_they_make_of_bytes():
    source = sentencepiece()
    converted, model = to_byte_level(source), source.backend_tokenizer.model
    names = {number: name for name, number in source.get_vocab().items()}
    plain = [number for number in names if number >= 3 + 256]
    whole = [n for n in plain if [piece.id for piece in model.tokenize(names[n])] == [n]]
    assert len(whole) > 50
    assert all(written_whole(converted, converted.tokens[number]) for number in whole)


@pytest.mark.parametrize("characters", ["\U0001f600昀", "昀\U0001f600"])
def test_characters_with_the_same_last_bytes_do_not_break_each_other(characters):
    # F0 9F 98 80 and E6 98 80: a merge of 98 and 80 for the first would leave the second in pieces.
    converted = to_byte_level(llama_style(["▁", *characters], []))
    assert all(written_whole(converted, to_byte_characters(each.encode())) for each in characters)


def test_characters_are_made_from_their_first_byte_on():
    converted = to_byte_level(llama_style(["▁", "\U0001f600"], []))
    assert converted.tokens[-2:] == [to_byte_characters(b"\xf0\x9f"), to_byte_characters(b"\xf0\x9f\x98")]
    assert converted.extra_tokens == 2


def test_a_long_token_that_no_merge_makes_is_made_last():
    merges = [("t", "h"), ("th", "e")]
    source = llama_style(["t", "h", "e", "th", "the", "hello", "o", "l"], merges)
    converted = to_byte_level(source)
    assert written_whole(converted, "the")
    assert written_whole(converted, "hello")


def test_a_token_that_no_text_keeps_in_one_piece_needs_no_merges():
    converted = to_byte_level(llama_style(["a", "<h1>"], []))
    assert converted.tokens[3 + 256 + 1] == "<h1>"
    assert "<h" not in converted.tokens


def test_bytes_by_name_become_byte_characters_unless_a_token_stands_for_them():
    converted = to_byte_level(llama_style(["a", "▁"], []))
    assert converted.tokens[3 + 0x0A] == "Ċ"
    assert converted.tokens[3 + 0x61] == "<0x61>"
    assert converted.tokens[3 + 0x20] == "<0x20>"
    assert converted.tokens[3 + 0xFF] == "ÿ"
    assert converted.extra_tokens == 0


def test_a_unigram_model_keeps_its_scores_and_writes_new_bytes_only_where_nothing_else_fits():
    pieces = [("<unk>", 0.0), ("▁a", -1.5), ("b", -2.5), ("<0x63>", 0.0)]
    source = fast(models.Unigram(pieces, 0, byte_fallback=True), unk_token="<unk>")
    converted = to_byte_level(source, whitespace_consistency=True)
    vocabulary = json.loads(converted.tokenizer.backend_tokenizer.to_str())["model"]["vocab"]
    assert vocabulary[1:4] == [["Ġa", -1.5], ["b", -2.5], ["c", LOWEST_SCORE]]
    assert dict(map(tuple, vocabulary))["z"] == LOWEST_SCORE
    assert dict(map(tuple, vocabulary))["ĠĠ"] == 0.0


def test_a_word_of_any_length_is_known_to_word_piece():
    converted = to_byte_level(word_piece())
    assert converted.tokenizer.unk_token not in converted.tokenizer.tokenize("東" * 1000)


def test_added_tokens_that_are_not_special_become_tokens_like_others():
    source = byte_level()
    source.add_tokens([AddedToken("  ", normalized=False), AddedToken("東大", normalized=False)])
    converted = to_byte_level(source)
    assert converted.tokens[len(source) - 2 : len(source)] == ["ĠĠ", to_byte_characters("東大".encode())]
    assert all(written_whole(converted, token) for token in converted.tokens[len(source) - 2 : len(source)])
    assert converted.tokenizer.decode(converted.tokenizer.encode("a  東大  b")) == " a  東大  b"


@pytest.mark.parametrize("kind", KINDS)
def test_consistent_white_space_is_the_same_in_every_vocabulary(kind):
    converted = to_byte_level(kind(), whitespace_consistency=True)
    found = {token for token in converted.tokens if holds_whitespace(token)}
    assert found == set(whitespace_tokens())
    assert len(found) == 135
    assert all(written_whole(converted, token) for token in found)


def test_other_white_space_is_given_up_only_where_that_is_asked_for():
    source = byte_level(["a\t\n\t\tb\t\n\t\tc"] * 5, 300)
    number = source.get_vocab()["ĉĊĉ"]
    assert to_byte_level(source).tokens[number] == "ĉĊĉ"
    assert (
        to_byte_level(source, whitespace_consistency=True).tokens[number] == f"<unused_whitespace__{number}>"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_of_the_base_model_come_at_its_ids(kind):
    base = permuted(byte_level(), seed=3)
    base.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", base.bos_token_id)]
    )
    converted = to_byte_level(kind(), special_tokens=base)
    tokenizer = converted.tokenizer
    limit = len(converted.tokens)
    for name in base.all_special_tokens:
        number = base.convert_tokens_to_ids(name)
        assert tokenizer.convert_tokens_to_ids(name) == min(number, limit - 1)
    assert {converted.tokens[number] for number in converted.special_ids} == set(base.all_special_tokens)
    assert tokenizer.encode("a")[0] == tokenizer.bos_token_id == tokenizer.get_vocab()["<s>"]
    assert tokenizer.eos_token == base.eos_token
    assert "[SEP]" not in converted.tokens


def test_special_tokens_beyond_a_small_vocabulary_come_at_its_end():
    base = byte_level(size=300)
    base.add_special_tokens({"pad_token": "<pad>"})
    base.add_tokens([f"x{number}" for number in range(500)])
    base.add_special_tokens({"sep_token": "<sep>"})
    base.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <sep>", special_tokens=[("<sep>", base.sep_token_id)]
    )
    converted = to_byte_level(fast(models.Unigram([("a", 0.0)], None)), special_tokens=base)
    assert converted.tokens[-2:] == ["<pad>", "<sep>"]
    assert converted.special_ids == (0, 1, len(converted.tokens) - 2, len(converted.tokens) - 1)
    assert (
        converted.tokenizer.encode("a")[-1] == converted.tokenizer.sep_token_id == len(converted.tokens) - 1
    )
    assert converted.tokenizer.decode(converted.tokenizer.encode(MIXED)) == f" {MIXED}<sep>"


def test_equal_tokens_after_conversion_keep_their_ids():
    source = fast(
        models.Unigram([("<unk>", 0.0), ("▁x", -1.0), (" x", -2.0), ("y", -3.0)], 0), unk_token="<unk>"
    )
    converted = to_byte_level(source)
    assert converted.tokens[:4] == ["<unk>", "Ġx", "Ġx", "y"]
    assert converted.tokenizer.encode("x") == [1]
    assert len(converted.tokenizer) == len(converted.tokens)


@pytest.mark.parametrize("kind", ["Unigram", "BPE", "WordPiece"])
def test_a_vocabulary_smaller_than_the_bytes_is_filled_up(kind):
    model = {
        "Unigram": models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0),
        "BPE": models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>"),
        "WordPiece": models.WordPiece({"<unk>": 0, "a": 1}, unk_token="<unk>"),
    }[kind]
    converted = to_byte_level(fast(model, unk_token="<unk>"))
    assert set(BYTE_CHARACTERS) <= set(converted.tokens)
    assert converted.tokenizer.decode(converted.tokenizer.encode(MIXED)) == f" {MIXED}"


def test_ids_without_a_token_stay_free():
    source = fast(models.BPE({"a": 0, "b": 4}, []), meta=False)
    converted = to_byte_level(source)
    assert converted.tokens[:5] == ["a", "<unused__1>", "<unused__2>", "<unused__3>", "b"]
    assert len(converted.tokenizer) == len(converted.tokens)


def test_the_embedded_tokenizer_keeps_its_vocabulary_but_for_bytes_it_lacks():
    source = load_tokenizer("embedded")
    converted = to_byte_level(source)
    assert converted.tokens[: len(source)] == source.convert_ids_to_tokens(list(range(len(source))))
    assert set(converted.tokens[len(source) :]) <= set(BYTE_CHARACTERS)
    assert len(converted.special_ids) == 17


def test_an_empty_vocabulary_is_refused():
    with pytest.raises(UserError, match="empty vocabulary: train it first"):
        to_byte_level(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())))


def test_another_kind_of_model_is_refused():
    source = fast(models.WordLevel({"a": 0}, unk_token="a"), meta=False)
    with pytest.raises(UserError, match="model must be one of BPE, Unigram, WordPiece, got 'WordLevel'"):
        to_byte_level(source)


def test_a_bpe_that_marks_word_ends_is_refused():
    source = fast(models.BPE({"a</w>": 0}, [], end_of_word_suffix="</w>"), meta=False)
    with pytest.raises(UserError, match="marks words in its tokens"):
        to_byte_level(source)


def test_pre_tokenizers_of_the_source_are_forgotten():
    source = byte_level()
    source.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    assert to_byte_level(source).tokenizer.tokenize("the 12") == CONVERTED[0].tokenizer.tokenize("the 12")


def test_a_bare_tokenizer_is_taken_with_the_roles_that_its_special_tokens_name():
    for kind in KINDS:
        whole = kind()
        bare = Tokenizer.from_str(whole.backend_tokenizer.to_str())
        before = bare.to_str()
        converted = to_byte_level(bare)
        assert bare.to_str() == before
        assert converted.tokens == to_byte_level(whole).tokens
        assert converted.tokenizer.eos_token in ("</s>", None)
        assert converted.tokenizer.encode(MIXED) == to_byte_level(whole).tokenizer.encode(MIXED)
    replaced = to_byte_level(byte_level(), special_tokens=sentencepiece().backend_tokenizer)
    assert (replaced.tokenizer.bos_token, replaced.tokenizer.unk_token) == ("<s>", "<unk>")


@pytest.mark.parametrize("replaced", [False, True])
def test_of_equal_tokens_the_one_that_the_original_writes_is_written(replaced):
    original = byte_level(["a    b  c   d"] * 9, 300)
    original.add_tokens([AddedToken(" " * count, normalized=True, special=False) for count in (4, 3, 2)])
    special = {"special_tokens": byte_level(["x"], 260, eos_token="<end>")} if replaced else {}
    converted = to_byte_level(original, **special)
    moved = len(converted.tokens) - converted.extra_tokens - len(original)
    for count in (2, 3, 4):
        (number,) = original.encode(" " * count)
        assert converted.tokenizer.get_vocab()["Ġ" * count] == number + moved
        assert converted.tokens.count("Ġ" * count) == 1 + ("Ġ" * count in original.get_vocab())


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        (Tokenizer(models.BPE()), "the tokenizer has an empty vocabulary"),
        (
            Tokenizer(models.WordLevel({"a": 0})),
            "the tokenizer's model must be one of BPE, Unigram, WordPiece",
        ),
        (Tokenizer(models.BPE({"a</w>": 0}, [], end_of_word_suffix="</w>")), "marks words in its tokens"),
        (Tokenizer(models.BPE({"##a": 0}, [], continuing_subword_prefix="##")), "marks words in its tokens"),
    ],
)
def test_a_bare_tokenizer_that_cannot_be_converted_is_refused(tokenizer, words):
    with pytest.raises(UserError, match=words):
        to_byte_level(tokenizer)
