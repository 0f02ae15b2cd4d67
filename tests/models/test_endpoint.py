"""A model behind a server, on a server of the standard library that also misbehaves."""

import pickle
import re
import sys
from contextlib import nullcontext

import pytest

from tests import tiny
from tests.tiny.server import KEY, tiny_server
from tests.tiny.tokenizers import CHATML, character_tokenizer
from tokenry.core.errors import UserError
from tokenry.models import Endpoint, LocalText, Sampling, TextModel
from tokenry.models.endpoint import _AnswerError, _require_tokens_of, _Token

CHAT = [[{"role": "user", "content": "Yes or no?"}], [{"role": "user", "content": "How many?"}]]
SHORT = Sampling(max_new_tokens=6)


@pytest.fixture(scope="module")
def text():
    tokenizer = character_tokenizer()
    tokenizer.chat_template = CHATML
    return LocalText(
        tiny.llama(vocab_size=len(tokenizer), initializer_range=0.5, max_position_embeddings=512), tokenizer
    )


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def endpoint(server, **options):
    return Endpoint(server.address, "tiny", **({"retries": 2, "timeout": 20, "concurrency": 1} | options))


@pytest.mark.parametrize("prompts", [CHAT, ["The cat", "a"]], ids=["conversations", "texts"])
def test_an_endpoint_says_what_the_model_behind_it_says(text, prompts):
    with tiny_server(text) as server:
        model = endpoint(server, concurrency=4)
        found, expected = model.generate(prompts, SHORT), text.generate(prompts, SHORT)
    assert isinstance(model, TextModel)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.text, ours.prompt_tokens, ours.finish_reason) == (
            theirs.text,
            theirs.prompt_tokens,
            theirs.finish_reason,
        )
        assert ours.log_probs == pytest.approx(theirs.log_probs[: len(ours.log_probs)], abs=1e-4)
    assert model.calls == 2
    assert model.tokens == sum(one.prompt_tokens + one.completion_tokens for one in expected)
    assert {request["path"] for request in server.requests} == {
        "/v1/completions" if prompts is not CHAT else "/v1/chat/completions"
    }


def test_settings_reach_the_server_and_samples_come_in_one_request(text):
    with tiny_server(text) as server:
        sampling = Sampling(5, temperature=1.5, top_p=0.9, stop=("zz",), samples=3, seed=7, log_probs=False)
        found = endpoint(server).generate(CHAT[:1], sampling)
    asked = server.requests[0]
    assert (asked["n"], asked["seed"], asked["stop"], asked["temperature"], asked["top_p"]) == (
        3,
        7,
        ["zz"],
        1.5,
        0.9,
    )
    assert "logprobs" not in asked
    assert len(found) == 3
    assert all(one.log_probs is None and one.completion_tokens > 0 for one in found)


@pytest.mark.parametrize(
    "mood", ["429", "500", "broken", "page", "strange", "none", "other tokens", "filtered"]
)
def test_what_passes_is_tried_again(text, mood):
    with tiny_server(text, mood, mood) as server:
        found = endpoint(server).generate(CHAT[:1], SHORT)
    assert found[0].text == text.generate(CHAT[:1], SHORT)[0].text
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("tokens", "fits"),
    [
        (["caf", "\ufffd", "\ufffd", " au lait"], True),
        (["caf", "é", " au lait", "<end>"], True),
        (["caf", "\ufffd", "\ufffd", " noir"], False),
    ],
)
def test_tokens_that_cut_a_character_are_those_of_the_text(tokens, fits):
    given = [_Token(token=token, logprob=-1.0) for token in tokens]
    with nullcontext() if fits else pytest.raises(_AnswerError, match="other tokens"):
        _require_tokens_of("café au lait", given)


WORDS = {
    "429": r"tiny at http://127.0.0.1:\d+/v1 refused too many requests, 3 times: lower concurrency",
    "500": r"tiny at http://127.0.0.1:\d+/v1 failed: Error code: 500",
    "400": r"tiny at http://127.0.0.1:\d+/v1 failed: Error code: 400",
    "broken": "gave a broken answer: Expecting",
    "page": "gave a broken answer: it is no JSON",
    "strange": "gave a broken answer: choices is not what it should be",
    "none": "answered with 0 of 1 choices",
    "other tokens": r"gave a broken answer: its log-probs are of other tokens \('\?!.*than its text",
    "filtered": r"gave a broken answer: it has no text \(finish_reason content_filter\)",
}


@pytest.mark.parametrize("mood", WORDS)
def test_one_prompt_that_fails_stands_in_its_place_with_the_reason(text, mood):
    with tiny_server(text, "", *[mood] * (1 if mood == "400" else 3)) as server:
        found = endpoint(server).generate([CHAT[0], CHAT[1], CHAT[0]], SHORT)
    assert [one.finish_reason == "failed" for one in found] == [False, True, False]
    assert found[0] == found[2]
    assert found[1].text == ""
    assert re.search(WORDS[mood], found[1].failure)


def test_an_answer_that_is_late_is_given_up(text):
    with tiny_server(text, "", "late", "late") as server:
        found = endpoint(server, timeout=0.3, retries=1).generate(CHAT, SHORT)
    assert found[0].text
    assert "gave no answer within 0.3 s, 2 times: raise timeout" in found[1].failure


def test_missing_choices_are_asked_for_again(text):
    with tiny_server(text, "few", "few") as server:
        found = endpoint(server).generate(CHAT[:1], Sampling(5, temperature=1.0, samples=3, seed=1))
    assert [request.get("n", 1) for request in server.requests] == [3, 2, 1]
    assert [request["seed"] for request in server.requests] == [1, 2, 3]
    assert len(found) == 3
    assert all(one.finish_reason != "failed" for one in found)


def test_no_log_probs_are_none_and_the_text_is_there(text):
    with tiny_server(text, "no log-probs") as server:
        found = endpoint(server).generate(CHAT[:1], SHORT)[0]
    assert found.log_probs is None
    assert found.text


def test_a_cap_on_calls_keeps_what_is_finished(text):
    with tiny_server(text) as server:
        model = endpoint(server, max_calls=1)
        found = model.generate(CHAT, SHORT)
        assert found[0].text
        assert found[1].failure == "the cap of 1 calls is reached: raise max_calls to go on."
        with pytest.raises(UserError, match="the cap of 1 calls is reached"):
            model.generate(CHAT, SHORT)
    assert len(server.requests) == 1


def test_a_cap_on_tokens_is_not_passed_by_answers(text):
    with tiny_server(text) as server:
        model = endpoint(server, max_tokens=200, concurrency=3)
        found = model.generate(CHAT * 6, SHORT)
    failed = [one for one in found if one.finish_reason == "failed"]
    assert 0 < len(failed) < 12
    assert "the cap of 200 tokens would be passed" in failed[0].failure
    assert sum(one.completion_tokens for one in found) <= model.tokens


def test_a_cap_on_tokens_needs_answers_that_count_them(text):
    with (
        tiny_server(text, *["no usage"] * 9) as server,
        pytest.raises(UserError, match="does not say how many tokens it took"),
    ):
        endpoint(server, max_tokens=100).generate(CHAT[:1], SHORT)


def test_no_server_no_model_and_no_key_are_said_at_once(text):
    with pytest.raises(UserError, match=r"no server answers at http://127.0.0.1:9/v1: check the address"):
        Endpoint("http://127.0.0.1:9/v1", "tiny", retries=0).generate(CHAT)
    with (
        tiny_server(text, *["404"] * 3) as server,
        pytest.raises(UserError, match=r"there is no tiny at http.*check the model's name"),
    ):
        endpoint(server).generate(CHAT * 4)
    assert len(server.requests) == 1
    with (
        tiny_server(text, key=KEY) as server,
        pytest.raises(UserError, match="wants a key: set the environment variable OPENAI_API_KEY"),
    ):
        endpoint(server).generate(CHAT)


def test_the_key_is_used_and_appears_nowhere(text, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    with tiny_server(text, "", "500", "500", "500", key=KEY) as server:
        model = endpoint(server, key_variable="MY_KEY")
        found = model.generate(CHAT, SHORT)
    assert found[0].text
    assert "***" in found[1].failure
    with (
        tiny_server(text, key="another") as server,
        pytest.raises(UserError, match="does not accept the key in the environment variable MY_KEY") as error,
    ):
        endpoint(server, key_variable="MY_KEY").generate(CHAT)
    assert KEY not in str(error.value) + repr(found) + repr(model)
    with pytest.raises(TypeError):
        pickle.dumps(model)


def test_a_users_name_in_the_address_is_not_shown():
    assert (
        repr(Endpoint("http://me:secret@localhost:1/v1", "tiny"))
        == "<Endpoint: tiny at http://localhost:1/v1>"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_url": "localhost:8000"}, "base_url must be an address such as http://localhost:8000/v1"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"max_calls": 0}, "max_calls must be at least 1"),
        ({"retries": -1}, "retries must be at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        Endpoint(**({"base_url": "http://localhost:1/v1", "model": "tiny"} | options))


def test_the_package_is_asked_for_by_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"pip install 'tokenry\[endpoint\]'"):
        Endpoint("http://localhost:1/v1", "tiny")
