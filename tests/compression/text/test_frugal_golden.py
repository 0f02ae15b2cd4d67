"""FrugalPrompt's released words and LexRank: the authors' numbers."""

import numpy as np
import pytest
import torch

from tests.golden import golden_json
from tokenry.attribution.globenc import min_max
from tokenry.compression.text import (
    keep_words,
    lexrank,
    lexrank_similarity,
    merge_pieces,
    released_idf,
    released_word_scores,
    sentence_words,
)

CASES = golden_json("19-frugalprompt", "dev-frugal.json")


@pytest.mark.parametrize("case", CASES["compress"], ids=lambda case: case["scheme"])
def test_words_and_cuts_are_those_of_the_notebook(case):
    raw = torch.tensor(case["raw_scores"], dtype=torch.float64)
    pieces = min_max(raw)
    assert pieces.tolist() == pytest.approx(case["piece_scores"])
    words, scores = merge_pieces(case["pieces"], pieces, case["scheme"])
    assert words == case["merged_tokens"]
    assert scores.tolist() == pytest.approx(case["merged_scores"])
    words, scores = released_word_scores(case["pieces"], raw, case["scheme"])
    assert scores.tolist() == pytest.approx(case["final_scores"])
    for kept in case["kept"]:
        share = kept["percentage"] / 100
        top, bottom = (keep_words(words, scores, share, lowest=lowest) for lowest in (False, True))
        assert (len(top), " ".join(top), " ".join(bottom)) == (kept["k"], kept["top"], kept["bottom"])


@pytest.mark.parametrize("case", CASES["lexrank"], ids=lambda case: len(case["sentences"]))
def test_lexrank_is_that_of_the_library(case):
    sentences = case["sentences"]
    assert [sentence_words(sentence) for sentence in sentences] == case["tokens"]
    np.testing.assert_allclose(lexrank_similarity(sentences), case["similarity_idf1"], atol=1e-4)
    np.testing.assert_allclose(lexrank(sentences), case["scores_idf1"], atol=1e-4)
    np.testing.assert_allclose(lexrank(sentences, None), case["scores_idf1_continuous"], atol=1e-4)
    official = lexrank(sentences, idf=released_idf(" ".join(sentences)))
    np.testing.assert_allclose(official, case["scores_official"], atol=1e-4)
