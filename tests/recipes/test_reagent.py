"""The recipe of ReAGent: verdicts that follow the measurements in both directions, and its data."""

import pytest
import torch

from tests.recipes.check_recipe import check_recipe, check_verdicts
from tests.tiny.chats import write_model
from tokenry.recipes.reagent import ATTENTION, GRADIENT, RANDOM, REAGENT, SINGLE, ReagentSizes, claims
from tokenry.recipes.testbeds.evidence_twice import COPIED, EvidenceSetting, draw_evidence


def verdicts(both=90.0, soft_nc=0.9, rank=2.0):
    def cases(value, number):
        return [value + 0.01 * ((case * number) % 5) for case in range(10)]

    hits = {REAGENT: cases(both, 1), SINGLE: cases(20.0, 2), RANDOM: cases(1.0, 3)}
    soft = {REAGENT: cases(soft_nc, 1), **{name: cases(0.5, 2) for name in (ATTENTION, GRADIENT, RANDOM)}}
    ranks = {REAGENT: cases(rank, 1), RANDOM: cases(9.0, 2)}
    return [claim.verdict for claim in claims(hits, soft, ranks)]


def test_every_claim_can_be_shown_and_can_fail():
    check_verdicts(
        verdicts, [({}, set()), ({"both": 20.0}, {0}), ({"soft_nc": 0.5}, {1, 3, 4}), ({"rank": 9.0}, {2})]
    )


def test_it_runs_small(tmp_path):
    model = write_model(tmp_path / "model")
    sizes = ReagentSizes(
        str(model), prompts=2, masks=4, cases=3, rounds=2, setting=EvidenceSetting(steps=3, batch_size=4, hidden=16)
    )  # fmt: skip
    check_recipe("reagent", sizes, tmp_path)


def test_each_class_stands_in_a_context_twice():
    evidence = draw_evidence(50, 14, torch.Generator().manual_seed(0))
    for context, answer, copies in zip(evidence.contexts, evidence.answers, evidence.copies, strict=True):
        assert (context == answer).nonzero()[:, 0].tolist() == sorted(copies.tolist())
        assert int((context < 26).sum()) == 4


@pytest.mark.parametrize(("text", "answer"), COPIED)
def test_the_copied_word_stands_once_and_early(text, answer):
    assert text.count(answer.strip()) == 1
    assert text.index(answer.strip()) < 0.6 * len(text)
    assert not text.endswith(" ")
