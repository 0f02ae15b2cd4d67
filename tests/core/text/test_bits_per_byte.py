"""Bits per byte of plain text, whatever cuts it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests import tiny
from tests.golden import golden_json
from tokenry.core.errors import UserError
from tokenry.core.text.bits_per_byte import TextLoss, bits_difference, scored_spans, text_loss

TEXTS = ["one text", "another, a longer text", "x"]


def byte_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """One token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0} | {character: number + 1 for number, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny.llama(vocab_size=257, num_hidden_layers=1, max_position_embeddings=64)


def by_hand(model: LlamaForCausalLM, ids: list[int]) -> float:
    with torch.no_grad():
        logits = model.eval()(torch.tensor([ids])).logits[0, :-1]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))


def test_every_byte_of_a_text_is_predicted(model):
    tokenizer = byte_tokenizer(bos_token="<s>")
    loss = text_loss(model, tokenizer, TEXTS)
    expected = [by_hand(model, [0, *tokenizer(text)["input_ids"]]) for text in TEXTS]
    assert loss.nll == pytest.approx(expected, rel=1e-5)
    assert loss.tokens.tolist() == loss.text_bytes.tolist() == [len(text) for text in TEXTS]
    assert loss.bits_per_byte.value == pytest.approx(
        sum(expected) / math.log(2) / sum(map(len, TEXTS)), rel=1e-5
    )
    assert loss.perplexity == pytest.approx(math.exp(sum(expected) / sum(map(len, TEXTS))), rel=1e-5)


def test_windows_cover_the_text_once(model):
    tokenizer = byte_tokenizer(bos_token="<s>")
    ids = tokenizer(TEXTS[1])["input_ids"]
    expected = sum(by_hand(model, [0, *ids[start : start + 7]]) for start in range(0, len(ids), 7))
    assert text_loss(model, tokenizer, [TEXTS[1]], max_length=8).nll[0] == pytest.approx(expected, rel=1e-5)


def test_the_batch_size_changes_nothing(model):
    tokenizer = byte_tokenizer(bos_token="<s>")
    one, all_at_once = (text_loss(model, tokenizer, TEXTS, batch_size=size).nll for size in (1, 8))
    assert one == pytest.approx(all_at_once, rel=1e-5)


def test_the_end_of_a_text_begins_it_where_there_is_no_other_token(model):
    begun, ended = byte_tokenizer(bos_token="<s>"), byte_tokenizer(eos_token="<s>")
    assert text_loss(model, begun, TEXTS).nll.tolist() == text_loss(model, ended, TEXTS).nll.tolist()


def test_a_single_text_has_no_standard_error(model):
    estimate = text_loss(model, byte_tokenizer(bos_token="<s>"), TEXTS[:1]).bits_per_byte
    assert math.isnan(estimate.standard_error)


def test_the_mode_of_the_model_is_restored(model):
    model.train()
    text_loss(model, byte_tokenizer(bos_token="<s>"), TEXTS)
    assert model.training


@pytest.mark.parametrize("texts", [[], ["text", ""]])
def test_no_text_is_refused(model, texts):
    with pytest.raises(UserError, match="bits per byte need text"):
        text_loss(model, byte_tokenizer(bos_token="<s>"), texts)


def test_a_tokenizer_without_a_first_token_is_refused(model):
    with pytest.raises(UserError, match="neither a bos nor an eos token"):
        text_loss(model, byte_tokenizer(), TEXTS)


def test_differences_are_paired_text_by_text():
    def loss(bits):
        """Ten texts of 100 bytes, alike but for a little."""
        nll = np.log(2) * 100 * (bits + 1e-4 * np.arange(10))
        return TextLoss(nll, np.full(10, 25), np.full(10, 100))

    found = bits_difference(loss(1.2), loss(1.0))
    assert found.value == pytest.approx(0.2)
    assert found.standard_error == pytest.approx(0, abs=1e-9)
    assert f"{found:+.3f}" == "+0.200 ± 0.000"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(2, 12), st.data())
def test_windows_with_context_score_every_token_but_the_first_once(tokens, length, data):
    stride = data.draw(st.integers(1, length - 1))
    spans = list(scored_spans(tokens, length, stride))
    assert [t for _, end, scored in spans for t in range(scored, end)] == list(range(1, tokens))
    assert all(begin < scored and end - begin <= length for begin, end, scored in spans)


def test_windows_of_the_released_code_are_the_reference_ones():
    for case in golden_json("33-preselect", "dev-windows.json"):
        spans = scored_spans(case["n_tokens"], case["block"], case["stride"], whole=True)
        found = [
            {"begin": begin, "end": end, "scored_targets": [*range(scored, end)]}
            for begin, end, scored in spans
        ]
        assert found == case["items"]


def test_context_is_seen_and_not_scored_again(model):
    tokenizer = byte_tokenizer(bos_token="<s>")
    stream = [0, *tokenizer(TEXTS[1])["input_ids"]]

    def part(begin, end, scored):
        context = by_hand(model, stream[begin:scored]) if scored > begin + 1 else 0.0
        return by_hand(model, stream[begin:end]) - context

    expected = sum(part(*span) for span in scored_spans(len(stream), 8, 3))
    loss = text_loss(model, tokenizer, [TEXTS[1]], max_length=8, stride=3)
    assert loss.nll[0] == pytest.approx(expected, rel=1e-4)
    assert loss.tokens.tolist() == [len(TEXTS[1])]


def test_a_budget_of_tokens_changes_nothing(model):
    tokenizer = byte_tokenizer(bos_token="<s>")
    losses = [text_loss(model, tokenizer, TEXTS, batch_tokens=tokens).nll for tokens in (1, 20, 1000)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] == pytest.approx(losses[2], rel=1e-5)


@pytest.mark.parametrize("stride", [0, 8, 9])
def test_a_stride_that_skips_tokens_is_refused(model, stride):
    with pytest.raises(UserError, match=f"stride must be from 1 to 7.*got {stride}"):
        text_loss(model, byte_tokenizer(bos_token="<s>"), TEXTS, max_length=8, stride=stride)
