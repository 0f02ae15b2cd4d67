"""The paper's preprocessing against reference stems and stages, and its split."""

import pytest

from tests.golden import golden_json
from tokenry.core.errors import UserError
from tokenry.data import PorterStemmer, paper_split, preprocess_paper
from tokenry.data.paper_pipeline import paper_stages

SLUG = "24-ai-text-detection"


def test_stems_are_those_of_nltk():
    stemmer = PorterStemmer(mode="nltk")
    expected = golden_json(SLUG, "dev-stem.json")
    assert {word: stemmer.stem(word) for word in expected} == expected


@pytest.mark.parametrize("case", golden_json(SLUG, "dev-preprocess.json")["cases"])
def test_every_stage_is_the_reference_one(case):
    stopwords = golden_json(SLUG, "dev-preprocess.json")["stopwords"]
    stages = paper_stages(case["text"], stopwords)._asdict()
    assert stages == {name: case[name] for name in stages}
    assert preprocess_paper([case["text"]], stopwords) == [case["final"]]


def test_english_stop_words_are_left_out_unless_others_are_given():
    assert preprocess_paper(["This is the cat"]) == ["cat"]
    assert preprocess_paper(["This is the cat"], ()) == ["thi is the cat"]


def test_the_split_keeps_the_shares_and_no_text_stands_on_both_sides():
    texts = [f"text {place % 80}" for place in range(100)]
    labels = [place % 80 % 2 for place in range(100)]
    learned, tested = paper_split(texts, labels, seed=3)
    assert len(learned) == 48
    assert len(tested) == 32
    assert not {texts[place] for place in learned} & {texts[place] for place in tested}
    assert sum(labels[place] for place in learned) == 24
    assert (learned, tested) == paper_split(texts, labels, seed=3)
    assert learned != paper_split(texts, labels, seed=4)[0]


@pytest.mark.parametrize(("call", "words"), [
    (lambda: PorterStemmer("lancaster"), "mode must be one of nltk, martin, original, got 'lancaster'"),
    (lambda: paper_split(["a", "b"], [0, 1], train=1.0), "train must be between 0 and 1"),
    (lambda: paper_split(["a", "b"], ["human", "ai"]), "labels are 0 (human) or 1 (machine), got 'human'"),
])  # fmt: skip
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(UserError) as raised:
        call()
    assert words in str(raised.value)
