"""The recipe of FrugalPrompt: verdicts that follow the measurements in both directions, and its data."""

import re

import pytest
import torch

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tests.tiny.chats import write_model
from tokenry.recipes.frugalprompt import (
    ARMS,
    BOTTOM,
    DECOMPX,
    FULL,
    GLOBENC,
    PLAIN,
    PROTECTED,
    RANDOM,
    RELEASED,
    SELF_INFORMATION,
    SHARES,
    FrugalSizes,
    claims,
)
from tokenry.recipes.testbeds.told_facts import draw_facts, draw_sums
from tokenry.recipes.testbeds.word_families import FamilySetting, draw_sentences, shortened


def right(share, items=400):
    """As many ones as the share says, the first ones."""
    return [1.0 if item < share * items else 0.0 for item in range(items)]


def verdicts(decompx=0.99, globenc=1.0, released=0.5, random=0.8, bottom=0.1, facts=-2.0, sums=-1.0):
    accuracy = {DECOMPX: decompx, GLOBENC: globenc, RELEASED: released, RANDOM: random, BOTTOM: bottom}
    read = {arm: dict.fromkeys(SHARES, right(accuracy[arm])) for arm in ARMS}

    def nats(value):
        return [value + 0.01 * (context % 5) for context in range(20)]

    of_facts = {FULL: nats(-1.0), SELF_INFORMATION: nats(facts), RANDOM: [value - 0.001 * (context % 3) for context, value in enumerate(nats(-4.0))], BOTTOM: nats(-8.0)}  # fmt: skip
    of_sums = {FULL: nats(-0.5), PROTECTED: nats(sums), PLAIN: [value - 0.001 * (context % 3) for context, value in enumerate(nats(-3.0))]}  # fmt: skip
    return [claim.verdict for claim in claims(right(0.985), read, of_facts, of_sums)]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        verdicts,
        [
            ({}, set()),
            ({"decompx": 0.9, "globenc": 0.95}, {0}),
            ({"random": 1.0}, {0, 1}),
            ({"bottom": 0.9}, {1}),
            ({"released": 0.8}, {2}),
            ({"globenc": 0.99}, {3}),
            ({"facts": -4.1}, {4}),
            ({"sums": -3.1}, {5}),
        ],
    )


def test_it_runs_small(tmp_path):
    model = write_model(tmp_path / "model")
    family = FamilySetting(
        words=60, family=5, length=8, width=16, heads=2, feed_forward=16, train=40, steps=3, batch_size=4
    )
    check_recipe("frugalprompt", FrugalSizes(family, 10, str(model), facts=2, draws=1, sums=2), tmp_path)


def test_a_sentence_has_more_words_of_the_family_that_is_its_label():
    setting = FamilySetting()
    for text, label in zip(
        *vars(draw_sentences(50, setting, torch.Generator().manual_seed(0))).values(), strict=True
    ):
        words = [int(word[1:]) for word in text.split()]
        family = [sum(word // setting.family == number for word in words) for number in (0, 1)]
        assert len(words) == setting.length
        assert family[label] > family[1 - label]


def test_shortened_batches_keep_their_order_and_their_ends():
    ids = torch.arange(1, 13).repeat(20, 1)
    batch, mask = shortened(ids, torch.Generator().manual_seed(0))
    for row, real in zip(batch, mask.bool(), strict=True):
        left = row[real].tolist()
        assert (left[0], left[-1], left) == (1, 12, sorted(left))
        assert bool((row[~real] == 0).all())
    assert 0 < int((mask.sum(1) < 12).sum()) < 20


@pytest.mark.parametrize("draw", [draw_facts, draw_sums])
def test_the_answer_follows_from_the_context(draw):
    for asked in draw(20, 0):
        if draw is draw_facts:
            assert asked.context.count(asked.answer.strip()) == 1
        else:
            *_, first, second = re.findall(r"\d+", asked.context)
            assert int(first) + int(second) == int(asked.answer)
