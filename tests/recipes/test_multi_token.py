"""The recipe of multi-token prediction: its testbed, and verdicts that follow the measurements in both directions."""

from dataclasses import replace

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests import tiny
from tests.recipes.check_recipe import check_recipe, check_verdicts
from tests.tiny.tokenizers import word_tokenizer
from tokenry.decoding.multi_token.gated_lora import add_gated_lora
from tokenry.recipes.multi_token import (
    GREEDY,
    LINEAR,
    NO_CONSISTENCY,
    NO_SAMPLER,
    QUADRATIC,
    DraftOutcome,
    DraftSizes,
    claims,
)
from tokenry.recipes.testbeds.chat_texts import ChatTexts
from tokenry.recipes.testbeds.record_language import RecordModel, draw_record, draw_texts, told, written

SMALL = DraftSizes(
    RecordModel(1, 16, 3, 2, 16),
    masks=2,
    rank=1,
    steps=2,
    batch_size=2,
    prompts=8,
    prompt_tokens=4,
    new_tokens=6,
)


TULU = {
    "vocab_size": 128_264,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


def verdicts(pace=3.0, linear=2.0, bare=1.5, other=2.5, moved=0.0, seconds=0.5, same=True):
    """Tokens per step that differ a little from text to text."""

    def around(value):
        return [value + 0.01 * (number % 3) for number in range(12)]

    per_step = {QUADRATIC: pace, LINEAR: linear, NO_SAMPLER: bare, NO_CONSISTENCY: other}
    outcome = DraftOutcome(
        dict.fromkeys(per_step, same),
        {name: around(value + 0.003 * place) for place, (name, value) in enumerate(per_step.items())},
        moved,
        {
            GREEDY: around(1.0),
            QUADRATIC: [value + 1e-4 * number for number, value in enumerate(around(seconds))],
        },
    )
    return [claim.verdict for claim in claims(outcome)]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        verdicts,
        [
            ({}, set()),
            ({"pace": 2.4, "other": 2.2}, {0}),
            ({"same": False}, {0, 4}),
            ({"linear": 3.2}, {1}),
            ({"bare": 3.2}, {2}),
            ({"other": 3.2}, {3}),
            ({"moved": 1e-7}, {4}),
            ({"seconds": 1.2}, {5}),
        ],
    )


def test_records_repeat_what_they_said():
    generator = torch.Generator().manual_seed(0)
    record = (0,) * 8
    for _ in range(20):
        record = draw_record(record, generator)
        words = told(record)
        assert words[0] == "record"
        assert words[-1] == "end"
        assert words.count(words[1]) == 3, "the first name comes back twice"
        assert words[-3] == words[words.index("in") + 1], "so does the town"
    texts = draw_texts(3, 40, generator)
    assert texts.shape == (3, 40)
    assert len(written(texts[0].tolist()).split()) == 40


def test_it_runs_small(tmp_path):
    result = check_recipe("multi-token", SMALL, tmp_path)
    assert "identical" in result.claims[0].measured
    assert result.claims[4].verdict == "shown", "an untrained drafter changes nothing either"


def test_the_scale_of_the_paper_drafts_for_a_chat_model_on_its_own_conversations(tmp_path, monkeypatch):
    """The paper's model is not here: its place is taken by a tiny one, and its size by one without weights."""
    tokenizer = word_tokenizer()
    testbed = "tokenry.recipes.testbeds.chat_texts"
    rows = [{"messages": [{"role": "user", "content": "a b c " * number}]} for number in range(1, 12)]
    monkeypatch.setattr(
        f"{testbed}.load_model", lambda name, dtype: tiny.llama(vocab_size=len(tokenizer)).to(dtype)
    )
    monkeypatch.setattr(f"{testbed}.load_tokenizer", lambda name: tokenizer)
    monkeypatch.setattr(f"{testbed}.load_dataset", lambda name, split: rows)
    check_recipe("multi-token", replace(SMALL, base=ChatTexts(length=8), texts=4), tmp_path)
    with torch.device("meta"):
        llama = LlamaForCausalLM(LlamaConfig(**TULU))
        adapters = add_gated_lora(llama, rank=128, alpha=256)
    assert len(adapters.layers) == 7 * 32
    assert sum(weight.numel() for weight in adapters.parameters()) == 335_544_320
