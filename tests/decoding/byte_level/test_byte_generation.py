"""Sampling bytes after prompts that end anywhere."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from tests.decoding.byte_level.cutters import KnownTexts, byte_level
from tokenry.core.errors import UserError
from tokenry.decoding.byte_level.byte_generation import fill_in_middle, nucleus, tempered
from tokenry.decoding.byte_level.byte_lm import ByteLM

KNOWN = KnownTexts(byte_level("gpt2"), "at é", longest=4)
LM = KNOWN.byte_lm()


def test_the_most_probable_bytes_are_those_of_the_texts():
    text = b"a"
    found = LM.generate(text, temperature=0)
    while (byte := int(KNOWN.next_bytes(text).argmax())) < 256:
        text += bytes([byte])
    assert (found.text, found.why) == (text[1:], "end")


def test_samples_have_the_frequencies_of_the_texts():
    texts = [each.text for each in LM.generate([b"at"] * 400, temperature=1.0)]
    expected = KNOWN.next_bytes(b"at")
    for outcome, probability in enumerate(expected):
        share = sum((text[0] if text else 256) == outcome for text in texts) / len(texts)
        assert share == pytest.approx(probability, abs=4 * np.sqrt(0.25 / len(texts)))


def test_nothing_impossible_is_ever_sampled():
    for each in LM.generate([b""] * 50, temperature=3.0, seed=1):
        assert each.text in KNOWN.texts


def test_each_prompt_of_a_batch_gets_what_it_gets_alone():
    together = LM.generate([b"a", b"t\xc3"], seed=5)
    assert together[0] == LM.generate(b"a", seed=5)
    assert len(together[1].text) > 0


def test_the_log_probability_is_that_of_the_bytes():
    found = LM.generate(b"a", temperature=1.0, seed=3)
    assert found.why == "end"
    assert found.log_prob == pytest.approx(
        np.log(KNOWN.texts[b"a" + found.text] / KNOWN.prefix(b"a")), abs=1e-9
    )


def test_a_text_ends_at_a_stop_string_or_at_its_length():
    whole = LM.generate(b"a", temperature=0).text
    stopped = LM.generate(b"a", temperature=0, stop=[whole[1:3]])
    assert (stopped.text, stopped.why) == (whole[:1], "stop")
    short = LM.generate(b"a", temperature=0, max_bytes=1)
    assert (short.text, short.why) == (whole[:1], "length")


def test_temperature_sharpens_and_top_p_cuts():
    p = np.array([0.5, 0.3, 0.2])
    np.testing.assert_allclose(tempered(p, 1.0), p, atol=1e-6)
    assert tempered(p, 0.5)[0] > 0.5
    assert tempered(p, 0.05).tolist() == [1, 0, 0]
    np.testing.assert_allclose(nucleus(p, 0.6), [0.625, 0.375, 0])
    np.testing.assert_allclose(nucleus(p, 1.0), p)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -0.1}, "temperature must not be negative, got -0.1"),
        ({"temperature": float("nan")}, "temperature must not be negative"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
    ],
)
def test_what_is_out_of_range_is_refused_before_anything_is_sampled(options, words):
    with pytest.raises(UserError, match=words):
        LM.generate(b"a", max_bytes=0, **options)


@pytest.fixture(scope="module")
def fim():
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_str(byte_level("gpt2").to_str())
    tokenizer.add_special_tokens(["<fim_prefix>", "<fim_suffix>", "<fim_middle>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_the_middle_goes_on_from_the_cursor(fim):
    context, prompt = fill_in_middle(fim, b"the ca" + b"\xc3", " sat")
    assert prompt == b"the ca\xc3"
    before, after, middle = fim.convert_tokens_to_ids(["<fim_prefix>", "<fim_suffix>", "<fim_middle>"])
    assert context == [before, after, *fim(" sat")["input_ids"], middle]


def test_with_the_prefix_first_the_middle_begins_after_its_sentinel(fim):
    context, prompt = fill_in_middle(fim, b"the ca", " sat", order="prefix-suffix-middle")
    assert prompt == b""
    assert context[-1] == fim.convert_tokens_to_ids("<fim_middle>")
    with pytest.raises(UserError, match="the prefix ends inside a character"):
        fill_in_middle(fim, b"\xc3", "", order="prefix-suffix-middle")


def test_sentinels_condition_the_bytes_and_never_merge_with_them(fim):
    size = len(fim)
    table = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    lm = ByteLM(lambda some: table[[ids[-1] for ids in some]], fim, context_ids=[0], eos_token_ids=[0])
    context, prompt = fill_in_middle(fim, b"t", " sat")
    found = lm.generate(prompt, max_bytes=3, temperature=0, context_ids=context)
    first = lm.next_byte_logprobs(prompt, context_ids=context)
    assert found.text[0] == first.argmax()
    assert not np.allclose(first, lm.next_byte_logprobs(prompt))


def test_a_sentinel_that_is_no_token_is_named(fim):
    with pytest.raises(UserError, match="the tokenizer has no token '<PRE>'"):
        fill_in_middle(fim, b"a", "b", sentinels=("<PRE>", "<SUF>", "<MID>"))
