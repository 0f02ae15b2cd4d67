"""Models with different tokenizers agree on bytes."""

import numpy as np
import pytest

from tests.decoding.byte_level.cutters import GOLDEN, KnownTexts, byte_level, golden_lm
from tokenry.core.errors import UserError
from tokenry.decoding.byte_level.byte_ensemble import ByteEnsemble

ONE, OTHER = (KnownTexts(byte_level(name), "at é", 4, seed) for name, seed in (("gpt2", 0), ("none", 1)))


def test_the_mean_is_that_of_the_probabilities():
    ensemble = ByteEnsemble([ONE.byte_lm(), OTHER.byte_lm()], weights=[3, 1])
    expected = 0.75 * ONE.next_bytes(b"a\xc3") + 0.25 * OTHER.next_bytes(b"a\xc3")
    np.testing.assert_allclose(np.exp(ensemble.next_byte_logprobs(b"a\xc3")), expected, atol=1e-9)


def test_the_geometric_mean_is_that_of_the_log_probabilities():
    ensemble = ByteEnsemble([ONE.byte_lm(), OTHER.byte_lm()], how="geometric")
    expected = np.sqrt(ONE.next_bytes(b"a") * OTHER.next_bytes(b"a"))
    np.testing.assert_allclose(
        np.exp(ensemble.next_byte_logprobs(b"a")), expected / expected.sum(), atol=1e-9
    )


def test_models_of_the_same_texts_with_different_tokenizers_are_one_model():
    same = KnownTexts(byte_level("none"), "at é", 4, 0)
    np.testing.assert_allclose(
        same.byte_lm().next_byte_logprobs(b"at"), ONE.byte_lm().next_byte_logprobs(b"at"), atol=1e-9
    )


def test_an_ensemble_of_one_generates_what_the_model_does():
    lm = ONE.byte_lm()
    assert ByteEnsemble([lm]).generate(b"a", seed=2) == lm.generate(b"a", seed=2)


def test_every_byte_goes_to_all_models_and_forks_go_their_own_ways():
    stream = ByteEnsemble([ONE.byte_lm(), OTHER.byte_lm()]).stream(b"a")
    other = stream.fork()
    stream.push(ord("t"))
    assert [each.text for each in stream.streams] == [b"at", b"at"]
    assert other.text == b"a"


def test_a_byte_that_one_model_does_not_know_is_refused_and_moves_none():
    ensemble = ByteEnsemble([golden_lm(case, "truncate") for case in GOLDEN["cases"][:2]])
    stream = ensemble.stream(b"a")
    with pytest.raises(
        UserError,
        match=r"model 0 of the ensemble cannot go on: no cover: byte 0x62 .* must cover the same bytes",
    ):
        stream.push(ord("b"))
    assert [each.text for each in stream.streams] == [b"a", b"a"]
    with pytest.raises(UserError, match="model 1 of the ensemble cannot go on: no cover: byte 0x72"):
        ensemble.next_byte_logprobs(b"ar")


def test_models_without_a_common_next_byte_have_no_geometric_mean():
    one, other = (KnownTexts(byte_level("gpt2"), letter, 2).byte_lm() for letter in "at")
    with pytest.raises(UserError, match="no next byte is possible for all models"):
        ByteEnsemble([one, other], how="geometric").next_byte_logprobs(b"")


@pytest.mark.parametrize(
    ("count", "options", "words"),
    [
        (0, {}, "an ensemble needs at least one model"),
        (2, {"weights": [1.0]}, "one positive weight for each, got 2 models and weights"),
        (2, {"weights": [1.0, -1.0]}, "one positive weight for each"),
        (1, {"how": "product"}, "how must be one of mean, geometric, got 'product'"),
    ],
)
def test_an_ensemble_that_is_none_is_refused(count, options, words):
    with pytest.raises(UserError, match=words):
        ByteEnsemble([ONE.byte_lm()] * count, **options)


def test_an_ensemble_says_how_it_is_made_of_which_models():
    one, other = ONE.byte_lm(), OTHER.byte_lm()
    ensemble = ByteEnsemble([one, other], weights=[3, 1], how="geometric")
    assert repr(ensemble) == f"ByteEnsemble(geometric of 0.75 × {one!r}, 0.25 × {other!r})"
    assert repr(ensemble.stream(b"a")) == f"EnsembleStream({one.stream(b'a')!r}, {other.stream(b'a')!r})"
