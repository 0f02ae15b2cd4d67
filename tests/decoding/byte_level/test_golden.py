"""Exact bytes against the reference: an independent enumeration of all covers in float64."""

import numpy as np
import pytest

from tests.decoding.byte_level.cutters import GOLDEN, golden_lm
from tokenry.decoding.byte_level.byte_baselines import healed_next_byte, naive_next_byte
from tokenry.decoding.byte_level.byte_ensemble import ByteEnsemble
from tokenry.decoding.byte_level.byte_generation import nucleus, tempered

MODES = ["truncate", "tr", "all"]


def close(found, expected):
    np.testing.assert_allclose(found, _numbers(expected), rtol=1e-8, atol=1e-9)


def _numbers(values):
    return np.array(
        [-np.inf if value is None else value for value in np.atleast_1d(np.array(values, object))], float
    )


@pytest.mark.parametrize("validate", ["pairwise", "reencode"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_covers_and_next_bytes_are_those_of_the_reference(case, mode, validate):
    lm = golden_lm(case, mode, validate=validate)
    for prompt in case["prompts"]:
        expected, stream = prompt[mode], lm.stream(bytes.fromhex(prompt["x_hex"]))
        covers = stream.covers()
        assert [list(cover.ids) for cover in covers] == expected["covers"]
        close([cover.log_prob for cover in covers], expected["cover_logp"])
        close([stream.log_prob], expected["logp_prefix"])
        close(stream.next_logprobs(), expected["next_logp"])
        close([stream.leak], expected["mass_after_minus_before"])


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_encodings_and_baselines_are_those_of_the_reference(case):
    lm = golden_lm(case, "truncate")
    for prompt in case["prompts"]:
        text = bytes.fromhex(prompt["x_hex"])
        assert lm.encode(text) == prompt["encode"]
        close(naive_next_byte(lm, text), prompt["naive_next_logp"])
        close(healed_next_byte(lm, text), prompt["healed_next_logp"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_streams_are_those_of_the_reference(case, mode):
    lm = golden_lm(case, mode)
    for given in case["streams"]:
        text, expected = bytes.fromhex(given["x_hex"]), given[mode]
        stream, log_probs, covers = lm.stream(), [], []
        for byte in text:
            stream.push(byte)
            log_probs.append(stream.log_prob)
            covers.append(len(stream.covers()))
        close(log_probs, expected["logp_prefix"])
        close(lm.prefix_log_probs(text)[1:], expected["logp_prefix"])
        assert covers == expected["n_covers"]


@pytest.mark.parametrize("given", GOLDEN["ensemble"])
def test_the_ensemble_is_that_of_the_reference(given):
    ensemble = ByteEnsemble([golden_lm(case, given["mode"]) for case in GOLDEN["cases"][:2]])
    close(np.exp(ensemble.next_byte_logprobs(bytes.fromhex(given["x_hex"]))), given["mean_next_prob"])


@pytest.mark.parametrize("given", GOLDEN["sampling"])
def test_sampling_is_that_of_the_reference(given):
    after_temperature = tempered(np.array(given["p"]), given["temperature"])
    close(after_temperature, given["after_temperature"])
    close(nucleus(after_temperature, given["top_p"]), given["after_top_p"])
