"""Each decoder once with a real model: formats, counts and accounts, and what is promised to be the same."""

import pytest

from tokenry.decoding import SIFT, Cascade, Drafter, MultiTokenDecoding, SIFTConfig
from tokenry.decoding.r2r.small_model import drop_layers
from tokenry.models import LocalText, Sampling, load_model, load_tokenizer

pytestmark = pytest.mark.embedded
PROMPTS = ["The capital of France is", "2, 4, 6, 8,"]
EIGHT = Sampling(max_new_tokens=8)


@pytest.fixture(scope="module")
def large():
    return load_model("embedded")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")


def test_a_cascade_tells_who_answered_and_what_it_cost(large, tokenizer):
    small = LocalText(drop_layers(large, range(8, 24)), tokenizer, name="small")
    answers = Cascade(small, LocalText(large, tokenizer), "average", threshold=0.0).generate(PROMPTS, EIGHT)
    alone = LocalText(large, tokenizer).generate(PROMPTS, EIGHT)
    assert [answer.text for answer in answers] == [text.text for text in alone]
    assert all(answer.deferred and answer.score < 0 for answer in answers)
    assert [answer.large_tokens for answer in answers] == [text.completion_tokens for text in alone]
    assert all(answer.small_tokens for answer in answers)


def test_drafts_change_no_token(large, tokenizer):
    batch = tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="left")
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    written = large.generate(**batch, **options)
    drafter = Drafter(large, k=2, rank=4)
    try:
        decoder = MultiTokenDecoding(drafter)
        found = large.generate(**batch, custom_generate=decoder, **options)
    finally:
        drafter.remove()
    assert found.tolist() == written.tolist()
    assert decoder.account.tokens_per_step >= 1


def test_sift_accounts_for_every_call(large, tokenizer):
    model = LocalText(large, tokenizer, share_prefix=True)
    (result,) = SIFT(model, SIFTConfig(max_stage=1), sampling=Sampling(max_new_tokens=24)).run(
        ["Anna has 3 apples and buys 4 more. How many apples has she now?"]
    )
    assert not result.failure
    assert result.calls[0].role == "SG"
    assert len(result.calls) == 3 + (result.stage == 0)
    read, written = (sum(pair[place] for pair in result.tokens.values()) for place in range(2))
    assert read > 100
    assert 0 < written <= 24 * len(result.calls)
