"""SIFT: the stages of the sheet's examples, what is asked together, what is spent, and what becomes of texts that are missing."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.decoding.sift.scripted import PROMPTS, Scripted, script
from tests.golden import golden_json
from tests.tiny.tokenizers import character_tokenizer, chatml_tokenizer
from tokenry.core.errors import UserError
from tokenry.core.text.answers import boxed_answer, equal_answers, math_v2_equal
from tokenry.decoding import SIFT, SIFTConfig, self_consistency
from tokenry.models import LocalText, Sampling
from tokenry.models.text_model import GREEDY

GOLDEN = golden_json("17-sift", "dev-sift.json")
AS_RELEASED = {"extract": boxed_answer, "equivalent": math_v2_equal}
ANSWERS = st.sampled_from(["1", "2", "1.0", None, "word"])
SCRIPTS = st.fixed_dictionaries(dict.fromkeys(("S1", "QS1", "S2", "QS2", "S3", "QS3", "Q"), ANSWERS))


def sift(backend, **config):
    return SIFT(backend, SIFTConfig(**config), prompts=PROMPTS)


def run(scripts, said=(), **config):
    """The results by name, and the backend."""
    backend = Scripted(scripts, said)
    results = sift(backend, **config).run([f"<{name}>" for name in scripts])
    return dict(zip(scripts, results, strict=True)), backend


def names(result):
    return [call.name for call in result.calls]


@pytest.mark.parametrize("case", GOLDEN["pipeline"], ids=lambda case: f"stage {case['result']['stage']} of {case['max_stage']}")  # fmt: skip
def test_golden_questions_go_through_the_stages(case):
    backend = Scripted({"q": case["scripted"]})
    (result,) = SIFT(backend, SIFTConfig(case["max_stage"]), prompts=PROMPTS, **AS_RELEASED).run(["<q>"])
    assert result.stage == case["result"]["stage"]
    assert result.answer == case["result"]["answer"]
    assert names(result) == case["result"]["calls"]


@pytest.mark.parametrize(("equal", "stage"), [(math_v2_equal, 1), (equal_answers, 0)])
def test_two_missing_answers_agree_only_as_released(equal, stage):
    backend = Scripted({"q": script() | {"S1": None, "QS1": None}})
    (result,) = SIFT(backend, SIFTConfig(1), prompts=PROMPTS, extract=boxed_answer, equivalent=equal).run(
        ["<q>"]
    )
    assert result.stage == stage


@settings(max_examples=40, deadline=None)
@given(
    st.lists(SCRIPTS, min_size=1, max_size=5),
    st.integers(1, 3),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
)
def test_calls_and_tokens_add_up_for_any_script(scripts, max_stage, repeats):
    more = {f"{name}{stage}": None for name in ("S", "QS") for stage in range(4, 9)}
    scripts = {f"q{number}": more | answers for number, answers in enumerate(scripts)}
    results, backend = run(scripts, max_stage=max_stage, repeats=repeats)
    for result in results.values():
        tried = Counter(prediction.stage for prediction in result.predictions)
        plain = int(result.stage == 0)
        assert len(result.calls) == 3 * (tried[1] + tried[2]) + 4 * tried[3] + plain
        assert tried[1] == 1
        assert tried[2] <= repeats[0] * (max_stage > 1)
        assert tried[3] <= repeats[1] * (max_stage > 2)
        assert [prediction.equal for prediction in result.predictions] == [False] * (len(result.predictions) - 1) + [not plain]  # fmt: skip
        assert len(result.stickers) == len(result.predictions)
    calls = [call for result in results.values() for call in result.calls]
    assert len(calls) == len(backend.texts)
    spent = [sum(pair) for result in results.values() for pair in result.tokens.values()]
    assert sum(spent) == sum(text.prompt_tokens + text.completion_tokens for text in backend.texts)


def test_a_stage_is_one_batch_and_only_what_is_unequal_goes_on():
    results, backend = run({"a": script(1), "b": script(2), "c": script(3), "d": script()})
    assert {name: result.stage for name, result in results.items()} == {"a": 1, "b": 2, "c": 3, "d": 0}
    roles = [(len(batch), *sorted(set(batch))) for batch in backend.batches]
    assert roles == [(4, "SG"), (8, "P"), (3, "FO"), (6, "P"), (2, "IG"), (2, "FO"), (4, "P"), (1, "P")]


def test_what_is_accepted_is_the_answer_from_both():
    results, _ = run({"q": script() | {"S1": "0.5", "QS1": "1/2"}})
    assert results["q"].answer == "1/2"
    assert results["q"].predictions[0].alone.answer == "0.5"


def test_the_same_question_is_answered_each_time_it_stands_there():
    backend = Scripted({"a": script(2), "b": script(1)})
    results = sift(backend).run(["<a>", "<b>", "<a>"])
    assert [result.stage for result in results] == [2, 1, 2]
    assert results[0] == results[2]


def test_a_repeated_stage_inverts_the_newest_reasoning():
    backend = Scripted({"q": script(5)})
    (result,) = sift(backend, repeats=(2, 2)).run(["<q>"])
    # Stickers 1; 2, 3; then the inverse of QS3 is sticker 3 again, and its correction sticker 4; at last sticker 5.
    assert [sticker.raw for sticker in result.stickers] == [f"[q {number}]" for number in range(1, 6)]
    assert result.stage == 3
    assert len(result.calls) == 3 + 3 + 3 + 4 + 4


# --- stickers that are not fit ------------------------------------------------------------------------------------------


def test_an_empty_sticker_is_corrected_at_once():
    results, backend = run({"q": script(2)}, {"q SG": " \n"})
    assert backend.batches[1] == ["FO"]
    assert names(results["q"])[:2] == ["SG", "FO"]
    assert results["q"].stickers[0].text == " \n"
    assert results["q"].stickers[0].is_complete is False


def test_without_any_sticker_the_plain_answer_is_left():
    results, _ = run({"q": script(1)}, {"q SG": "", "q FO": ""})
    assert names(results["q"]) == ["SG", "FO", "P_Q"]
    assert (results["q"].answer, results["q"].stage) == ("9", 0)


def test_a_typed_sticker_that_lacks_a_number_is_not_tried():
    backend = Scripted({"q": script(1), "r": script(1)})
    plain, lacking = sift(backend, typed=True).run(["<q>", "<r> has 31 pears"])
    assert names(plain) == ["SG", "P_S1", "P_QS1"]
    assert names(lacking) == ["SG", "FO", "P_Q"], "no reasoning to invert either"


# --- consistency -------------------------------------------------------------------------------------------------------

WARM = Sampling(64, temperature=0.6)


def voting(answers):
    """Says one answer after another, in every prediction."""
    turn = iter(answers * 99)

    def generate(texts):
        return [f"\\boxed{{{next(turn)}}}" if text[0] == "P" else "[q 1]" for text in texts]

    return generate


@pytest.mark.parametrize(
    ("consistency", "calls"), [("prediction", 1 + 3 + 3), ("sticker", 3 + 3 + 3), ("sift", 9)]
)
def test_samples_are_voted_on(consistency, calls):
    config = SIFTConfig(consistency=consistency, samples=3)
    (result,) = SIFT(voting(["4", "4", "4"]), config, prompts=PROMPTS, sampling=WARM).run(["<q>"])
    assert (result.stage, result.answer, len(result.calls)) == (1, "4", calls)


def test_the_majority_of_each_side_is_compared():
    config = SIFTConfig(1, consistency="prediction", samples=3)
    (result,) = SIFT(voting(["4", "5", "4"]), config, prompts=PROMPTS, sampling=WARM).run(["<q>"])
    (prediction,) = result.predictions
    assert (prediction.alone.answer, prediction.beside.answer, result.stage) == ("4", "4", 1)


def test_sticker_consistency_corrects_and_inverts_every_sticker():
    config = SIFTConfig(consistency="sticker", samples=2)
    (result,) = SIFT(voting(["1", "2", "3", "4"]), config, prompts=PROMPTS, sampling=WARM).run(["<q>"])
    assert Counter(call.role for call in result.calls) == {
        "SG": 2,
        "FO": 4,
        "IG": 2,
        "P_S": 6,
        "P_QS": 6,
        "P_Q": 1,
    }


def test_runs_of_sift_are_voted_on_with_seeds_of_their_own():
    seen = []

    class Seeded(Scripted):
        def generate(self, prompts, sampling=GREEDY):
            seen.append(sampling.seed)
            return super().generate(prompts, sampling)

    sampling = Sampling(64, temperature=0.6, seed=3)
    config = SIFTConfig(1, consistency="sift", samples=2)
    SIFT(Seeded({"q": script(1)}), config, prompts=PROMPTS, sampling=sampling).run(["<q>"])
    assert seen == [3, 3, 4, 4]


def test_plain_answers_are_voted_on_with_a_budget_for_each_question():
    answers = {"a": iter("1121"), "b": iter("31")}

    class Changing(Scripted):
        def _text(self, role, call, name, stage):
            return f"\\boxed{{{next(answers[name])}}}"

    results = self_consistency(Changing({"a": {}, "b": {}}), ["<a>", "<b>"], [4, 2], prompts=PROMPTS)
    assert [result.answer for result in results] == ["1", "3"]
    assert [names(result) for result in results] == [["P_Q"] * 4, ["P_Q"] * 2]
    assert [result.stage for result in results] == [0, 0]


# --- what is missing, and what is capped ---------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["SG", "S1", "QS1", "FO", "IG", "QS3"])
def test_a_call_that_fails_ends_the_stages_of_its_question_alone(call):
    results, _ = run({"a": script(), "b": script(3)}, {f"a {call}": None})
    assert (results["a"].answer, results["a"].stage) == ("9", 0)
    assert results["a"].failure == f"a {call} was not written."
    assert (results["b"].stage, results["b"].failure) == (3, "")


def test_a_plain_answer_that_fails_is_none():
    results, _ = run({"a": script()}, {"a Q": None})
    assert (results["a"].answer, results["a"].text, results["a"].failure) == (
        None,
        "",
        "a Q was not written.",
    )


def test_a_function_that_raises_on_one_text_loses_that_text_only():
    scripted = Scripted({"a": script(1), "b": script(1)})

    def function(texts):
        if any("SG <b>" in text for text in texts):
            raise RuntimeError("out of luck")
        return [text.text for text in scripted.generate(texts)]

    first, second = sift(function).run(["<a>", "<b>"])
    assert (first.stage, first.failure) == (1, "")
    assert (second.answer, second.failure) == ("9", "function raised RuntimeError: out of luck")


def test_a_cap_on_calls_keeps_what_is_finished():
    results, backend = run({"a": script(1), "b": script(2), "c": script()}, max_calls=11)
    assert len(backend.texts) == 11
    assert {name: result.stage for name, result in results.items()} == {"a": 1, "b": 0, "c": 0}
    assert "the cap of 11 calls is reached: raise max_calls" in results["c"].failure
    assert results["b"].predictions[0].beside.answer == "11", "what it had is there"


def test_a_cap_on_tokens_is_not_passed():
    backend = Scripted({"a": script(), "b": script()})
    config = SIFTConfig(max_tokens=300)
    results = SIFT(backend, config, prompts=PROMPTS, sampling=Sampling(30)).run(["<a>", "<b>"])
    assert sum(sum(pair) for result in results for pair in result.tokens.values()) <= 300
    assert "the cap of 300 tokens would be passed" in results[1].failure


def test_a_model_that_gives_up_in_the_middle_keeps_what_is_finished():
    class Leaving(Scripted):
        def generate(self, prompts, sampling=GREEDY):
            if prompts[0].startswith("FO"):
                raise UserError("no server answers.")
            return super().generate(prompts, sampling)

    first, second = sift(Leaving({"a": script(1), "b": script()})).run(["<a>", "<b>"])
    assert (first.stage, second.stage, second.failure) == (1, 0, "no server answers.")


# --- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "words"), [
    ({"max_stage": 0}, "max_stage must be 1, 2 or 3, got 0"),
    ({"repeats": (1, 0)}, r"repeats must be two numbers of at least 1, for stage 2 and stage 3, got \(1, 0\)"),
    ({"consistency": "votes"}, "consistency must be one of none, sticker, prediction, sift, got 'votes'"),
    ({"samples": 0}, "samples must be at least 1, got 0"),
    ({"max_calls": 0}, "max_calls must be at least 1, got 0"),
    ({"consistency": "sift"}, "at temperature 0 they are all the same: raise the temperature"),
])  # fmt: skip
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        sift(Scripted({}), **options)


@pytest.mark.parametrize("ask", [lambda queries: sift(Scripted({})).run(queries), lambda queries: self_consistency(Scripted({}), queries, 2)])  # fmt: skip
def test_an_empty_question_is_refused(ask):
    with pytest.raises(UserError, match="question 1 is empty"):
        ask(["<a>", " \n"])
    assert ask([]) == []


@pytest.mark.parametrize("samples", [0, [1], [1, 0]])
def test_every_question_has_an_answer_to_vote_with(samples):
    with pytest.raises(UserError, match="samples must be a number of at least 1, or one for each of the 2"):
        self_consistency(Scripted({}), ["<a>", "<b>"], samples)


def test_a_wrong_number_of_texts_is_counted():
    with pytest.raises(UserError, match="<lambda> returned 1 texts, and 2 were asked for"):
        sift(lambda texts: ["[a 1]"]).run(["<a>", "<b>"])


def test_nothing_is_hidden_if_no_text_can_be_written():
    class Absent(Scripted):
        def generate(self, prompts, sampling=GREEDY):
            raise UserError("no server answers.")

    with pytest.raises(UserError, match="no server answers"):
        sift(Absent({})).run(["<a>"])
    with pytest.raises(UserError, match="the cap of 5 tokens would be passed"):
        SIFT(Scripted({}), SIFTConfig(max_tokens=5), prompts=PROMPTS, sampling=Sampling(30)).run(["<a>"])


def test_a_prompt_that_is_too_long_is_named_and_not_cut():
    model = LocalText(tiny.gpt2(vocab_size=98, n_positions=64), character_tokenizer(), name="small")
    sampling = Sampling(8, log_probs=False)
    with pytest.raises(
        UserError, match=r"sticker generation \(SG\) of question 1 has 64 tokens, and small has 64 positions"
    ):
        SIFT(model, prompts=PROMPTS, sampling=sampling).run(["<a>", "x" * 61])
    # The sticker does not fit beside its query; the plain answer does.
    (result,) = SIFT(model, prompts=PROMPTS, sampling=sampling).run(["x" * 50])
    assert "prediction from question and sticker (P_QS) of question 0 has" in result.failure
    assert names(result)[-1] == "P_Q"


def test_a_chat_model_answers_and_what_it_reads_and_writes_is_counted():
    tokenizer = chatml_tokenizer()
    model = tiny.llama(vocab_size=len(tokenizer), initializer_range=0.5)
    texts = [LocalText(model, tokenizer, batch_size=2, share_prefix=share) for share in (False, True)]
    queries = ["Ann has 3 pears and finds 2. How many?", "Bob has 4 figs. How many?"]
    found = [SIFT(text, sampling=Sampling(6, log_probs=False)).run(queries) for text in texts]
    assert found[0] == found[1], "a prefix that is read once changes nothing"
    for result in found[0]:
        assert names(result)[:3] == ["SG", "P_S1", "P_QS1"]
        assert all(call.prompt_tokens > 0 and 1 <= call.completion_tokens <= 6 for call in result.calls)
