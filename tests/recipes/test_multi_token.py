"""The recipe of multi-token prediction: its testbed, and verdicts that follow the measurements in both directions."""

import torch

from tests.recipes.check_recipe import check_recipe, check_verdicts
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
