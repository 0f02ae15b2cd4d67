"""What `tokenry bytes` is made of: prompts, and results as plain data."""

import json
import math

import pytest

from tests.decoding.byte_level.cutters import KnownTexts, byte_level
from tokenry.core.errors import UserError
from tokenry.runs import byte_probing
from tokenry.runs.byte_probing import next_bytes, read_prompt, sample_bytes, score_bytes

KNOWN = {name: KnownTexts(byte_level("gpt2"), "at é", longest=3, seed=seed) for seed, name in enumerate("ab")}


@pytest.fixture(autouse=True)
def known_models(monkeypatch):
    monkeypatch.setattr(
        byte_probing, "load_byte_lm", lambda name, dtype=None, **options: KNOWN[name].byte_lm()
    )


def test_a_prompt_comes_from_one_place(tmp_path):
    path = tmp_path / "prompt"
    path.write_bytes(b"caf\xc3")
    assert read_prompt("caf") == b"caf"
    assert read_prompt(None, "636166 C3") == read_prompt(None, None, path) == b"caf\xc3"
    with pytest.raises(UserError, match="give the text once"):
        read_prompt("a", "61")


def test_next_bytes_are_those_of_the_texts_and_named():
    found = next_bytes(["a"], b"a", most=257)
    expected = KNOWN["a"].next_bytes(b"a")
    named = {each["byte"]: each["probability"] for each in found["next"]}
    assert named["0x74 't'"] == pytest.approx(expected[0x74])
    assert named["0xC3"] == pytest.approx(expected[0xC3])
    assert named["end"] == pytest.approx(expected[256])
    assert found["log_prob"] == [pytest.approx(math.log(KNOWN["a"].prefix(b"a")))]


def test_two_models_are_their_mean():
    found = next_bytes(["a", "b"], b"a", most=1)["next"][0]
    expected = (KNOWN["a"].next_bytes(b"a") + KNOWN["b"].next_bytes(b"a")) / 2
    assert found["probability"] == pytest.approx(expected.max())


def test_every_result_is_plain_data():
    for result in (
        next_bytes(["a"], b"t"),
        score_bytes("a", "té".encode()),
        sample_bytes(["a", "b"], b"a", samples=2, max_bytes=3),
    ):
        assert json.loads(json.dumps(result, allow_nan=False)) == result
