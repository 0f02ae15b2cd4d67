"""Composing the tokens of a small vocabulary by every method, and leaving shared ones out."""

import pytest
import torch

from tests.tiny.models import tiny_model
from tests.tiny.tokenizers import CODE, byte_level
from tokenry.core.errors import UserError
from tokenry.tokenization.transfer.transplant import composition
from tokenry.tokenization.transfer.transplant.auxiliary_space import auxiliary_space
from tokenry.tokenization.transfer.transplant.composition import (
    OldTokens,
    compose,
    wanted_left_out,
    wanted_new,
)
from tokenry.tokenization.transfer.transplant.settings import METHODS, TransplantSettings
from tokenry.tokenization.transfer.transplant.vocabulary_match import match_vocabularies

OLD, NEW = byte_level(), byte_level(CODE)
MATCHED = match_vocabularies(OLD, NEW)
SPACE = auxiliary_space("characters", MATCHED, tiny_model(len(OLD)))
UNIQUE = (MATCHED.shared < 0).nonzero()[:, 0]
TOKENS = OldTokens(SPACE.old, MATCHED.shared[MATCHED.shared >= 0].unique())
WANTED = wanted_new(UNIQUE, MATCHED, SPACE)
INFORMED = [method for method in METHODS if method not in ("mean", "random")]


def composed(method="tokenadapt", wanted=WANTED, **settings):
    return compose(wanted, TOKENS, TransplantSettings(method, **settings))


@pytest.mark.parametrize("method", INFORMED)
def test_every_informed_method_composes_every_token_that_is_text(method):
    found = composed(method).mixture.composed
    text = torch.tensor([MATCHED.new_texts[number] is not None for number in UNIQUE.tolist()])
    assert found[text].all()


@pytest.mark.parametrize("method", ["mean", "random"])
def test_the_controls_compose_nothing(method):
    assert not composed(method).mixture.composed.any()


@pytest.mark.parametrize("method", ["focus", "omp"])
def test_focus_and_omp_combine_shared_tokens_only(method):
    mixture = composed(method).mixture
    assert set(mixture.indices[mixture.weights != 0].tolist()) <= set(TOKENS.shared.tolist())


def test_the_estimates_of_every_token_are_counted():
    assert composed().estimates == {"local": 0, "global": 0, "both": len(UNIQUE)}
    assert composed(global_weight=0.0).estimates["local"] == len(UNIQUE)
    assert composed(global_weight=1.0).estimates["global"] == len(UNIQUE)


def test_pieces_alone_and_neighbours_alone_are_the_ends_of_the_mixture():
    matrix = torch.randn(len(OLD), 6)
    ends = [composed(global_weight=weight).mixture.rows(matrix) for weight in (0.0, 1.0)]
    between = composed(global_weight=0.25).mixture.rows(matrix)
    assert torch.allclose(between, 0.75 * ends[0] + 0.25 * ends[1], atol=1e-5)


@pytest.mark.parametrize("method", INFORMED)
def test_a_token_that_is_left_out_is_never_part_of_itself(method):
    ids, wanted = wanted_left_out(MATCHED, SPACE, 2000, seed=0)
    mixture = composed(method, wanted).mixture
    assert MATCHED.shared[ids].equal(wanted.itself)
    used = (mixture.indices == wanted.itself[:, None]) & (mixture.weights != 0)
    assert len(ids) > 10
    assert not used.any()


def test_at_most_so_many_tokens_are_left_out_and_always_the_same():
    first, second, other = (wanted_left_out(MATCHED, SPACE, 5, seed)[0].tolist() for seed in (0, 0, 1))
    assert len(first) == 5
    assert first == second != other


def test_omp_in_blocks_is_omp_at_once(monkeypatch):
    at_once = composed("omp", atoms=4).mixture
    monkeypatch.setattr(composition, "_OMP_BLOCK", 3)
    in_blocks = composed("omp", atoms=4).mixture
    assert in_blocks.indices.equal(at_once.indices)
    assert torch.allclose(in_blocks.weights, at_once.weights, atol=1e-5)


@pytest.mark.parametrize("method", ["focus", "omp"])
def test_without_shared_tokens_only_pieces_and_neighbours_are_left(method):
    alone = OldTokens(SPACE.old, torch.zeros(0, dtype=torch.long))
    with pytest.raises(UserError, match="share no token that has an auxiliary vector"):
        compose(WANTED, alone, TransplantSettings(method))
    assert compose(WANTED, alone, TransplantSettings()).mixture.composed.all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "wechsel"}, "method must be one of tokenadapt, retok, focus, omp, mean, random"),
        ({"global_weight": 1.5}, r"global_weight must be in \[0, 1\], got 1\.5"),
        ({"global_weight": -0.1}, r"global_weight must be in \[0, 1\], got -0\.1"),
        ({"temperature": -0.1}, "temperature must be 0 or more, got -0.1"),
        ({"temperature": float("nan")}, "temperature must be 0 or more, got nan"),
        ({"threshold": float("nan")}, "threshold must be a cosine, got nan"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"atoms": 0}, "atoms must be at least 1, got 0"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of must be at least 1, got 0"),
        ({"leave_one_out": -1}, "leave_one_out must be at least 0, got -1"),
        ({"match": "ids"}, "match must be one of bytes, string"),
        ({"fallback": "zero"}, "fallback must be one of mean, random"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        TransplantSettings(**settings)
