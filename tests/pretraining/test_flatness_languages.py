"""Exact languages: reference numbers of a grammar, conditionals against sums over all sentences, the loss that no model can beat."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertForMaskedLM

from tests import tiny
from tests.golden import golden_json
from tokenry.core.errors import UserError
from tokenry.pretraining import HMM, PCFG, linear_probe, population_loss
from tokenry.pretraining.flatness.languages import masked_sentences

GRAMMAR = golden_json("16-flatness", "dev-pcfg.json")
CHAIN = HMM.random(3, 4, seed=1, concentration=1.0, length=4)


def grammar(**options):
    return PCFG(GRAMMAR["rules"], GRAMMAR["start"], GRAMMAR["terminals"], GRAMMAR["nonterminals"], **options)


@pytest.mark.parametrize("number", range(len(GRAMMAR["cases"])))
def test_golden_grammar(number):
    read, case = grammar(), GRAMMAR["cases"][number]
    sentence = case["sentence"]
    assert read.probability(sentence) == pytest.approx(case["prob"], rel=1e-8)
    assert read.inside(sentence) == pytest.approx(case["inside"], rel=1e-8)
    assert read.label(sentence) == case["label"]
    for place, expected in enumerate(case["masked_conditional"]):
        found = read.masked_conditional(sentence, place)
        assert (found is None) == (expected is None)
        np.testing.assert_allclose(found, expected, rtol=1e-8)


PAIRS = PCFG.from_text("S S1 0.25\nS S2 0.5\nS S2 0.25\nS1 A A 1\nS2 A B 1\nA a 1\n\nB b 0.5\nB c 0.5")


def test_equal_rules_add_up_and_single_nonterminals_are_followed():
    assert PAIRS.terminals == ["a", "b", "c"]
    assert PAIRS.probability(["a", "a"]) == pytest.approx(0.25)
    assert PAIRS.probability(["a", "c"]) == pytest.approx(0.375)
    assert PAIRS.label(["a", "c"], among=("S1", "S2")) == "S2"
    assert PAIRS.label(["a", "c", "b"], span=(1, 2)) == "B"
    assert PAIRS.label(["b", "a"]) is None
    np.testing.assert_allclose(PAIRS.masked_conditional(["a", "b"], 1), [0.25, 0.375, 0.375])
    assert PAIRS.masked_conditional(["b", "a"], 1) is None


def test_sampled_sentences_have_the_probabilities_of_the_grammar():
    drawn = PAIRS.sample(800, seed=3)
    share = sum(sentence == ["a", "a"] for sentence in drawn) / 800
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 800) ** 0.5
    assert PAIRS.sample(3, seed=1) == PAIRS.sample(3, seed=1)
    assert all(len(sentence) <= 5 for sentence in grammar(longest=5).sample(20))


@given(
    masked=st.lists(st.booleans(), min_size=4, max_size=4), place=st.integers(0, 3), seed=st.integers(0, 3)
)
@settings(max_examples=6, deadline=None)
def test_conditionals_are_sums_over_all_sentences(masked, place, seed):
    for language in (CHAIN, grammar()):
        ids = torch.from_numpy(CHAIN.sample(1, 4, seed)[0]) % language.vocabulary
        hidden = torch.tensor([masked])
        found = language.masked_conditionals(ids, hidden)[0, place]
        weights = np.zeros(language.vocabulary)
        free = [number for number in range(4) if masked[number] or number == place]
        for tokens in itertools.product(range(language.vocabulary), repeat=len(free)):
            sentence = ids.clone()
            sentence[0, free] = torch.tensor(tokens)
            weights[sentence[0, place]] += probability(language, sentence)
        np.testing.assert_allclose(found, weights / weights.sum(), rtol=1e-7)


def probability(language, sentence):
    if isinstance(language, HMM):
        return float(language.log_probability(sentence).exp())
    return language.probability([language.terminals[token] for token in sentence[0]])


def test_the_probabilities_of_a_chain_sum_to_one_and_its_states_are_found():
    total = sum(
        probability(CHAIN, torch.tensor([tokens])) for tokens in itertools.product(range(4), repeat=3)
    )
    assert total == pytest.approx(1.0)
    clear = HMM(np.array([0.5, 0.5]), np.array([[0.9, 0.1], [0.1, 0.9]]), np.eye(2))
    tokens, states = clear.sample(5, 6)
    np.testing.assert_array_equal(clear.state_posteriors(torch.from_numpy(tokens)).argmax(-1), states)
    np.testing.assert_allclose(clear.masked_conditional([0, 0, 1], 1), [0.5, 0.5])
    assert CHAIN.masked_conditional([0, 1], 0).sum() == pytest.approx(1.0)


def test_masks_hide_a_share_of_every_sentence():
    for batch in masked_sentences(grammar(), 40, mask_share=0.3, most_masks=2):
        length = batch.input_ids.shape[1]
        masked = batch.labels != -100
        assert (masked.sum(1) == min(2, max(1, round(0.3 * length)))).all()
        assert (batch.input_ids[masked] == 3).all()
        assert (batch.conditionals.sum(-1) - 1).abs().max() < 1e-9


class Knows(torch.nn.Module):
    """A model that has the conditionals of a chain."""

    def __init__(self, chain):
        super().__init__()
        self.chain, self.weight = chain, torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids):
        masked = input_ids == self.chain.vocabulary
        found = self.chain.masked_conditionals(input_ids.masked_fill(masked, 0), masked)
        logits = torch.nn.functional.pad(found.log(), (0, 1), value=-torch.inf)
        return type("Output", (), {"logits": logits})


def test_no_model_beats_the_entropy():
    found = population_loss(Knows(CHAIN), CHAIN, 30)
    assert found.excess.value == pytest.approx(0, abs=1e-9)
    assert found.loss.value == pytest.approx(found.entropy.value)
    other = population_loss(tiny.bert(BertForMaskedLM, vocab_size=5), CHAIN, 30)
    assert other.excess.value > 0
    assert other.entropy == found.entropy
    assert other.loss.value - other.entropy.value == pytest.approx(other.excess.value)


def test_a_probe_reads_labels_off_features_that_hold_them():
    drawn = np.random.default_rng(0)
    labels = np.arange(30) % 3
    clear = np.eye(3)[labels] + 0.01 * drawn.normal(size=(30, 3))
    assert linear_probe(clear, labels).accuracy.value == 1.0
    assert linear_probe(drawn.normal(size=(30, 3)), labels).accuracy.value < 0.7


BAD = [
    (lambda: PCFG({"A": [(["a"], 1.0)]}), "no rule for its start 'S'"),
    (lambda: PCFG({"S": [(["a"], 0.5)]}), "the rules of S sum to 0.5"),
    (lambda: PCFG({"S": [(["a", "b"], 1.0)]}), "Chomsky normal form"),
    (lambda: PCFG({"S": [(["a"], 1.5), (["b"], -0.5)]}), "has the probability -0.5"),
    (lambda: PCFG.from_text("S a b"), "line 1 is no rule"),
    (lambda: grammar().inside(["q"]), r"got \['q'\]"),
    (lambda: grammar().inside([]), "got none"),
    (lambda: PCFG({"S": [(["S"], 1.0)]}), "so that no word ever follows"),
    (lambda: grammar().masked_conditional(["q"], 0), r"got \['q'\]"),
    (lambda: grammar().masked_conditional(["x"], 1), "from 0 to 0, got 1"),
    (lambda: PCFG({"S": [(["S", "S"], 0.99), (["a"], 0.01)]}, longest=0).sample(1), "at most 0 words"),
    (lambda: HMM(np.array([0.5, 0.6]), np.eye(2), np.eye(2)), "the rows of initial must be probabilities"),
    (lambda: HMM(np.array([0.5, 0.5]), np.eye(3), np.eye(2)), r"need a transition of \(2, 2\)"),
    (lambda: HMM(np.array([1.0]), np.eye(1), np.eye(1), length=0), "length must be at least 1"),
    (lambda: population_loss(tiny.bert(BertForMaskedLM, vocab_size=4), CHAIN), "give it one more"),
    (lambda: linear_probe(np.zeros((4, 2)), [0, 0, 0, 0]), "at least two classes"),
    (lambda: linear_probe(np.zeros((3, 2)), [0, 0, 1]), "two items each"),
]  # fmt: skip


@pytest.mark.parametrize(("act", "words"), BAD)
def test_what_is_no_language_is_refused_in_one_sentence(act, words):
    with pytest.raises(UserError, match=words):
        act()
