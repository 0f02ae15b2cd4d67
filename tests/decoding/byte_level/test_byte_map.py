"""The self-test of a byte map: sound tokenizers pass, unsound ones are told what is wrong with them."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from tests.decoding.byte_level.cutters import TOKENIZERS, byte_level
from tests.tiny.backends import sentencepiece
from tokenry.decoding.byte_level.byte_map import check_byte_map


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_that_keep_bytes_are_sound(name):
    found = check_byte_map(TOKENIZERS[name]())
    assert found.is_sound
    assert found.misread == ()
    assert json.dumps(found.as_json())


def test_a_token_that_is_decoded_otherwise_is_named():
    tokenizer = Tokenizer.from_str(byte_level("gpt2").to_str())
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("the", "The")])
    found = check_byte_map(tokenizer)
    assert not found.is_sound
    assert {each.token for each in found.misread} == {
        token for token in tokenizer.get_vocab() if "the" in token
    }
    assert "it is read as 'the' and decoded as 'The'" in {each.why for each in found.misread}


def test_missing_bytes_are_listed():
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    found = check_byte_map(tokenizer, texts=["abba", "abc"])
    assert len(found.missing_bytes) == 241
    assert found.lossy_texts == ("abc",)
    assert not found.is_sound


def test_tokens_of_equal_bytes_and_tokens_that_are_never_written_are_counted():
    tokenizer = sentencepiece()
    found = check_byte_map(tokenizer)
    assert (tokenizer.token_to_id("<0x74>"), tokenizer.token_to_id("t")) in found.same_bytes
    assert found.never_written >= len(found.same_bytes)


def test_what_is_rewritten_is_told():
    tokenizer = Tokenizer.from_str(byte_level("gpt2").to_str())
    tokenizer.normalizer = normalizers.Lowercase()
    found = check_byte_map(tokenizer)
    assert found.rewrites == ("Lowercase",)
    assert found.lossy_texts
    assert not found.is_sound


def test_a_unigram_tokenizer_has_a_map_too():
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁a", -1.0), ("b", -2.0), ("a", -3.0)], unk_id=0))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    found = check_byte_map(tokenizer, texts=["ab"])
    assert found.never_written is None
    assert found.lossy_texts == ()
