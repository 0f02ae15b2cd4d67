import json
import re

import pytest

from tests.tokenization.premium_golden import golden
from tokenry.core.errors import UserError
from tokenry.core.text.token_counts import corpus_token_count
from tokenry.tokenization.premiums.equal_cost import equal_cost
from tokenry.tokenization.training.byte_level_training import GPT2_PATTERN

GOLDEN = golden("premiums")
LANGUAGES = ("eng", "deu_1996", "tur", "hin")
TRAIN = {language: GOLDEN["train"][language] for language in LANGUAGES}
EVALUATION = {
    language: [GOLDEN["eval"][language][:1], GOLDEN["eval"][language][1:3], GOLDEN["eval"][language][3:]]
    for language in LANGUAGES
}
SIZES = tuple(GOLDEN["vocab_sizes"])


@pytest.fixture(scope="module")
def found():
    told = []
    found = equal_cost(
        TRAIN,
        EVALUATION,
        SIZES,
        base_size=SIZES[3],
        pattern=GPT2_PATTERN,
        progress=lambda *each: told.append(each),
    )
    assert [share for _, share in told] == sorted(share for _, share in told)
    return found


def test_the_counts_at_the_base_are_those_of_the_reference(found):
    for language in LANGUAGES:
        assert found.fixed[language].sum() == GOLDEN["ctc"][language][3]


def test_the_spread_is_smaller_with_a_vocabulary_of_its_own(found):
    before, after = found.spread()["fixed"], found.spread()["own"]
    assert after["max_min"].value < before["max_min"].value


def test_what_was_measured_is_what_the_tokenizers_cost(found):
    for language, tokenizer in found.tokenizers.items():
        texts = [text for segment in EVALUATION[language] for text in segment]
        assert corpus_token_count(tokenizer, texts) == found.measured[language].sum()
        assert tokenizer.get_vocab_size() == found.trained[language]


def test_a_target_out_of_reach_is_told_and_the_largest_measured_is_taken(found):
    assert found.out_of_reach == ["hin"]
    assert found.sizes["hin"] is None
    assert found.trained["hin"] <= SIZES[-1]


def test_a_budget_is_spent():
    found = equal_cost(TRAIN, EVALUATION, SIZES, budget=2000, pattern=GPT2_PATTERN)
    assert sum(found.sizes.values()) == 2000
    assert found.out_of_reach == []


def test_the_result_can_be_written_as_json(found):
    content = json.loads(json.dumps(found.as_json()))
    assert content["languages"]["hin"]["vocab_size"] is None
    assert content["languages"]["eng"]["tokens_fixed"] == GOLDEN["ctc"]["eng"][3]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": 300, "budget": 2000}, "give a target or a budget, not both"),
        ({"base_size": 333}, "the base size must be one of 300, 340"),
        ({"sizes": (300, 400, 500)}, "3 points cannot fit a curve"),
        ({"sizes": (300, 200, 400, 500)}, "must be positive and increase"),
        ({"sizes": (200, 300, 400, 500)}, "a vocabulary of 200 has no room"),
        ({"largest": 100}, "the largest vocabulary (100) is below the smallest (256)"),
    ],
)
def test_bad_input_is_one_sentence(options, words):
    with pytest.raises(UserError, match=re.escape(words)):
        equal_cost(**{"train": TRAIN, "evaluation": EVALUATION, "sizes": SIZES, **options})
