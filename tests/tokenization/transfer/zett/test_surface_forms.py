"""A token is spelled by the tokens of the source; what does not fit is cut off and counted."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from tests.golden import golden_json
from tests.tiny.tokenizers import byte_level, sentencepiece, unigram, word_piece
from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import BYTE_CHARACTERS
from tokenry.tokenization.transfer.zett.byte_conversion import to_byte_level
from tokenry.tokenization.transfer.zett.surface_forms import surface_forms

GOLDEN = golden_json("38-zett", "dev-surface.json")
PAD = 2


def source_tokenizer():
    return byte_level(bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def spelled(forms, source):
    return ["".join(source.convert_ids_to_tokens([n for n in row if n != PAD])) for row in forms.tolist()]


def test_the_golden_matrix_is_met_exactly():
    source = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(GOLDEN["source_tokenizer"])),
        pad_token=GOLDEN["pad_token"],
    )
    forms, truncated = surface_forms(GOLDEN["tokens"], source, GOLDEN["maxlen"], GOLDEN["special_tokens"])
    assert forms.tolist() == GOLDEN["matrix"]
    assert truncated == GOLDEN["n_truncated"]


@pytest.mark.parametrize("kind", [byte_level, sentencepiece, word_piece, unigram])
def test_pieces_spell_their_token_whatever_kind_it_comes_from(kind):
    converted, source = to_byte_level(kind()), source_tokenizer()
    plain = [t for n, t in enumerate(converted.tokens) if n not in converted.special_ids and t[0] != "<"]
    forms, truncated = surface_forms(plain, source, max_length=40)
    assert truncated == 0
    assert spelled(forms, source) == plain


@pytest.mark.parametrize("kind", [sentencepiece, word_piece, unigram])
def test_a_converted_tokenizer_of_any_kind_can_be_the_source(kind):
    source = to_byte_level(kind()).tokenizer
    source.pad_token = source.eos_token
    forms, _ = surface_forms(list(BYTE_CHARACTERS), source)
    assert source.convert_ids_to_tokens(forms[:, 0].tolist()) == list(BYTE_CHARACTERS)
    assert (forms[:, 1:] == source.pad_token_id).all()


def test_tokens_of_the_source_are_one_piece():
    source = source_tokenizer()
    tokens = source.convert_ids_to_tokens(list(range(len(source))))
    forms, _ = surface_forms(tokens, source)
    assert forms[:, 0].tolist() == list(range(len(source)))
    assert (forms[:, 1:] == source.pad_token_id).all()


def test_tokens_of_too_many_pieces_are_cut_and_counted():
    source = source_tokenizer()
    forms, truncated = surface_forms(["zqzqz", "zq", "qqqq"], source, max_length=3)
    assert truncated == 2
    assert spelled(forms, source) == ["zqz", "zq", "qqq"]


def test_a_special_token_is_its_own_id_and_padding():
    source = source_tokenizer()
    forms, _ = surface_forms(["</s>", "<s>"], source, max_length=2)
    assert forms.tolist() == [[source.eos_token_id, PAD], [source.bos_token_id, PAD]]


def test_a_special_token_that_the_source_lacks_is_spelled_by_its_bytes():
    source = source_tokenizer()
    forms, _ = surface_forms(["<｜end｜>"], source, max_length=20)
    assert spelled(forms, source) == ["<ï½ľendï½ľ>"]


def test_equal_tokens_have_equal_rows():
    forms, truncated = surface_forms(["zqz", "a", "zqz"], source_tokenizer(), max_length=2)
    assert torch.equal(forms[0], forms[2])
    assert truncated == 2


def test_without_a_pad_token_the_eos_token_fills_up():
    source = byte_level()
    forms, _ = surface_forms(["a"], source, max_length=3)
    assert forms[0, 1:].tolist() == [source.eos_token_id] * 2


def test_a_large_vocabulary_is_the_tokens_one_by_one():
    source = source_tokenizer()
    tokens = [f"token{number}" for number in range(32_768)]
    forms, _ = surface_forms(tokens, source)
    assert forms.shape == (32_768, 7)
    for number in (0, 9, 10, 20_000, 32_767):
        one, _ = surface_forms([tokens[number]], source)
        assert forms[number].tolist() == one[0].tolist()


def test_a_source_without_pad_and_eos_is_refused():
    with pytest.raises(UserError, match=r"neither a pad nor an eos token.*set its pad_token"):
        surface_forms(["a"], byte_level(bos_token="<s>"))


def test_a_length_below_one_is_refused():
    with pytest.raises(UserError, match="max_length must be at least 1, got 0"):
        surface_forms(["a"], source_tokenizer(), max_length=0)


def test_an_empty_vocabulary_is_refused():
    with pytest.raises(UserError, match="the target has an empty vocabulary"):
        surface_forms([], source_tokenizer())


def test_a_source_that_lacks_bytes_of_the_target_is_refused():
    source = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE({"a": 0, "</s>": 1}, [])), eos_token="</s>"
    )
    assert surface_forms(["aa"], source)[0][0, :2].tolist() == [0, 0]
    with pytest.raises(UserError, match="no token for 2 bytes of the target: convert it with to_byte_level"):
        surface_forms(["abc"], source)
