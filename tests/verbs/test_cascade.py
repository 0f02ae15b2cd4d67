"""`tokenry cascade`: a rule fitted on logged answers or on two models, curves of rules, and answers of the cascade."""

import json

import numpy as np
import pytest

from tests import tiny
from tests.tiny.chats import sums, write_model, write_rows
from tests.tiny.server import tiny_server
from tests.tiny.tokenizers import CHATML, character_tokenizer
from tests.verbs.check_verb import check_refused, check_verb, tokenry
from tokenry.decoding import FittedRule
from tokenry.models import LocalText
from tokenry.verbs.cascade._answers import _parameters

FAST = ("--draws", 20)
MODELS = ("--items", 6, "--max-new-tokens", 4, "--dtype", "float32", "--device", "cpu")


def logged(path, count=120, seed=0, **changed):
    """Answers whose first token tells whether they are right."""
    generator, rows = np.random.default_rng(seed), []
    for _ in range(count):
        right = bool(generator.random() < 0.5)
        tokens = (-generator.exponential(0.2, generator.integers(2, 12))).tolist()
        tokens[0] -= 0 if right else 4
        costs = {"small_seconds": 0.1, "large_seconds": 1.0, "prompt_tokens": 5, "large_tokens": 8}
        rows.append(
            {"logprobs": tokens, "small": int(right), "large": int(generator.random() < 0.8)}
            | costs
            | changed
        )
    return write_rows(path, rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cascade")


@pytest.fixture(scope="module")
def answers(folder):
    return logged(folder / "answers.jsonl")


@pytest.fixture(scope="module")
def models(folder):
    return (
        write_model(folder / "small"),
        write_model(folder / "large"),
        write_rows(folder / "rows.jsonl", sums(24)),
    )


def served():
    """What stands behind an endpoint: its tokens are characters, so that its log-probabilities are those of its text."""
    tokenizer = character_tokenizer()
    tokenizer.chat_template = CHATML
    size = {"vocab_size": len(tokenizer), "initializer_range": 0.5, "max_position_embeddings": 512}
    return LocalText(tiny.llama(**size), tokenizer)


# --- logged answers ----------------------------------------------------------------------------------------------------


def test_a_rule_is_fitted_on_logged_answers_and_drawn_again(answers, tmp_path):
    saved = check_verb(
        "cascade fit",
        "--logged",
        answers,
        "--rule",
        "quantile:alpha=0",
        "--budget",
        0.4,
        *FAST,
        output=tmp_path / "fit",
    )
    fitted = FittedRule.load(tmp_path / "fit/rule.json")
    assert fitted.as_json() == saved["fitted"]
    assert fitted.deferred == pytest.approx(0.4, abs=0.02)
    assert saved["fitted"]["auc"]["value"] > saved["fitted"]["random"]
    assert saved["answers"] == str(answers)


def test_a_risk_and_an_early_rule_are_recorded(answers, tmp_path):
    more = ("--rule", "sum", "--risk", 0.1, "--first", 1, "--without-logprobs", "keep")
    fitted = check_verb("cascade fit", "--logged", answers, *more, *FAST, output=tmp_path / "fit")["fitted"]
    assert (fitted["first"], fitted["without_logprobs"], fitted["target"]["risk"]) == (1, "keep", 0.1)
    assert fitted["kept_wrong"]["conformal"] <= 0.1


def test_a_rule_of_length_is_warned_of_and_so_are_few_examples(tmp_path):
    rows = [{"logprobs": [-0.5] * (2 + place % 9), "small": place % 2, "large": 1} for place in range(60)]
    arguments = ("--logged", write_rows(tmp_path / "rows.jsonl", rows), "--rule", "sum")
    saved = check_verb("cascade fit", *arguments, *FAST, output=tmp_path / "fit")
    shown = " ".join(tokenry("report", tmp_path / "fit").stdout.split())
    assert "The score follows the length of the answer (rank correlation -1.00)" in shown
    assert "The threshold was chosen on 30 examples" in shown
    assert "better than deferring at random: not shown" in shown
    assert saved["fitted"]["lengths"]["spearman"] == pytest.approx(-1)


@pytest.mark.parametrize("axis", ["rate", "flops", "seconds"])
def test_rules_are_compared_over_rates_and_costs(axis, answers, tmp_path):
    sizes = ("--small-parameters", 1e6, "--large-parameters", 1e7)
    rules = ("--rule", "sum", "--rule", "quantile", "--axis", axis)
    saved = check_verb("cascade curve", "--logged", answers, *rules, *sizes, *FAST, output=tmp_path / "curve")
    assert [row["rule"] for row in saved["rules"]] == ["sum", "quantile"]
    assert [line["rule"] for line in saved["curves"]] == ["sum", "quantile", "oracle"]
    last = saved["curves"][0]["x"][-1]
    assert last == pytest.approx(
        {"rate": 1, "seconds": 1.1, "flops": 2e7 * 13 + 2e6 * (5 + 6.1)}[axis], rel=0.05
    )
    assert saved["curves"][0]["mean"] < saved["curves"][-1]["mean"]
    oracle = saved["curves"][-1]["quality"]
    assert all(np.array(line["quality"]).max() <= max(oracle) + 1e-9 for line in saved["curves"])


def test_a_fitted_rule_is_checked_on_new_answers(answers, folder, tmp_path):
    tokenry(
        "cascade fit",
        "--logged",
        answers,
        "--rule",
        "quantile:alpha=0",
        "--budget",
        0.3,
        *FAST,
        "--output",
        tmp_path / "fit",
    )
    rule = ("--fitted", tmp_path / "fit/rule.json", "--rule", "sum")
    again = check_verb("cascade curve", "--logged", answers, *rule, *FAST, output=tmp_path / "again")
    assert again["checked"]["seen"] is True
    fresh = logged(folder / "fresh.jsonl", seed=5)
    found = check_verb("cascade curve", "--logged", fresh, *rule, *FAST, output=tmp_path / "fresh")
    assert found["checked"]["seen"] is False
    assert found["checked"]["deferred"] == pytest.approx(0.3, abs=0.15)
    assert [row["rule"] for row in found["rules"]] == ["sum", "fitted rule"]


def test_qualities_may_stand_in_a_file_of_their_own(answers, tmp_path):
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    apart = write_rows(tmp_path / "logprobs.jsonl", [{"logprobs": row["logprobs"]} for row in rows])
    quality = write_rows(
        tmp_path / "quality.jsonl", [{"small": row["small"], "large": row["large"]} for row in rows]
    )
    arguments = ("--rule", "sum", *FAST, "--json", "--quiet")
    one = tokenry("cascade fit", "--logged", answers, *arguments, "--output", tmp_path / "one")
    other = tokenry(
        "cascade fit", "--logged", apart, "--quality", quality, *arguments, "--output", tmp_path / "other"
    )
    assert json.loads(one.stdout)["fitted"] == json.loads(other.stdout)["fitted"]
    write_rows(quality, [{"small": 1, "large": 1}] * 3)
    check_refused(
        "cascade fit", "--logged", apart, "--quality", quality, "--output", tmp_path / "fit",
        words="has 3 qualities for the 120 answers in",
    )  # fmt: skip


# --- two models --------------------------------------------------------------------------------------------------------


def test_two_models_answer_and_the_cascade_runs_on_their_rule(models, tmp_path):
    small, large, rows = models
    pair = ("--small", small, "--large", large, "--data", rows, "--items", 20, *MODELS[2:])
    saved = check_verb(
        "cascade fit", *pair, "--rule", "average", "--budget", 0.5, *FAST, output=tmp_path / "fit"
    )
    assert saved["fitted"]["small"]["weights"] == saved["fitted"]["large"]["weights"], (
        "both are the same tiny model"
    )
    logs = [json.loads(line) for line in (tmp_path / "fit/answers.jsonl").read_text().splitlines()]
    assert len(logs) == 20
    assert set(logs[0]) == {
        "logprobs",
        "small",
        "large",
        "prompt_tokens",
        "large_tokens",
        "small_seconds",
        "large_seconds",
    }

    questions = write_rows(
        tmp_path / "questions.jsonl", [{"messages": row["messages"]} for row in sums(5, seed=3)]
    )
    rule = tmp_path / "fit/rule.json"
    found = check_verb("cascade run", rule, questions, *MODELS[2:], output=tmp_path / "run")
    assert [answer["prompt"] for answer in found["answers"]] == [
        row["messages"][0]["content"] for row in sums(5, seed=3)
    ]
    for answer in found["answers"]:
        assert answer["deferred"] == (answer["score"] < saved["fitted"]["threshold"])
        assert bool(answer["large_tokens"]) == answer["deferred"]
    texts = tmp_path / "questions.txt"
    texts.write_text("What is 1 + 2?\n\nWhat is 3 + 4?\n")
    everything = check_verb(
        "cascade run", rule, texts, "--threshold", 0.1, *MODELS[2:], output=tmp_path / "all"
    )
    assert [answer["deferred"] for answer in everything["answers"]] == [True, True]


def test_both_models_may_be_encoder_decoders(folder, models, tmp_path):
    """FLAN-T5 and its kind have no chat template; what they read is work of the encoder, what they write of the decoder."""
    tokenizer, pair = character_tokenizer(), []
    for role, make in (("small", tiny.t5), ("large", tiny.bart)):
        pair += [f"--{role}", folder / make.__name__]
        make(vocab_size=len(tokenizer)).save_pretrained(pair[-1])
        tokenizer.save_pretrained(pair[-1])
    asked = (*pair, "--data", models[2], "--items", 8, *MODELS[2:], "--rule", "average", *FAST)
    fitted = check_verb("cascade fit", *asked, output=tmp_path / "fit")["fitted"]
    assert fitted["small"]["weights"] != fitted["large"]["weights"]
    prompts = tmp_path / "questions.txt"
    prompts.write_text("What is 1 + 2?\nWhat is 3 + 4?\n")
    texts = []
    for threshold in (-99, 99):
        told = ("--threshold", threshold, *MODELS[2:], "--json", "--quiet")
        found = json.loads(tokenry("cascade run", tmp_path / "fit/rule.json", prompts, *told).stdout)[
            "answers"
        ]
        assert [answer["deferred"] for answer in found] == [threshold > 0] * 2
        texts.append([answer["text"] for answer in found])
    assert texts[0] != texts[1]


def test_of_an_encoder_decoder_the_encoder_reads_and_the_decoder_writes():
    tokenizer = character_tokenizer()
    model = tiny.t5(vocab_size=len(tokenizer))
    parts = tuple(part.num_parameters() for part in (model.get_encoder(), model.get_decoder()))
    assert _parameters(LocalText(model, tokenizer), None) == parts
    assert _parameters(LocalText(model, tokenizer), 1e6) == (1e6, 1e6)
    llama = tiny.llama()
    assert _parameters(LocalText(llama, tokenizer), None) == (llama.num_parameters(),) * 2
    assert np.isnan(_parameters(object(), None)).all()


def test_both_models_may_be_endpoints(models, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    text = served()
    questions = write_rows(
        tmp_path / "questions.jsonl", [{"messages": row["messages"]} for row in sums(3, seed=3)]
    )
    with tiny_server(text) as server:
        pair = ("--small", f"{server.address}#one", "--large", f"{server.address}#other")
        data = ("--data", models[2], "--items", 16, "--max-new-tokens", 4)
        server.moods.append("400")
        saved = check_verb("cascade fit", *pair, *data, "--rule", "average", *FAST, output=tmp_path / "fit")
        assert saved["missing"] == 1
        assert saved["fitted"]["small"] == {"name": "one", "weights": None, "tokenizer": None}
        rule = (tmp_path / "fit/rule.json", questions)
        found = check_verb("cascade run", *rule, *pair, "--max-new-tokens", 4, output=tmp_path / "run")
        assert len(found["answers"]) == 3
        check_refused(
            "cascade run",
            *rule,
            *pair[:2],
            "--large",
            f"{server.address}#third",
            words="the large model is third",
        )


@pytest.mark.parametrize(
    ("mood", "words"),
    [
        ("no log-probs", "gives no log-probabilities of its tokens"),
        ("other tokens", "its log-probs are of other tokens"),
    ],
)
def test_an_endpoint_without_log_probabilities_of_its_text_is_refused(mood, words, models, tmp_path):
    text = served()
    with tiny_server(text, *[mood] * 12) as server:
        pair = ("--small", f"{server.address}#one", "--large", models[1])
        data = ("--data", models[2], "--items", 2, *MODELS[2:])
        check_refused("cascade fit", *pair, *data, "--output", tmp_path / "fit", words=words)


def test_a_rule_refuses_other_models(answers, models, tmp_path):
    small, _, _ = models
    tokenry(
        "cascade fit",
        "--logged",
        answers,
        "--rule",
        "sum",
        *FAST,
        "--output",
        tmp_path / "fit",
        "--small",
        "gpt",
        "--large",
        "gpt-large",
    )
    (tmp_path / "prompts.txt").write_text("Hi")
    check_refused(
        "cascade run", tmp_path / "fit/rule.json", tmp_path / "prompts.txt", "--small", small, "--large", small, *MODELS[4:],
        words="but the rule was fitted for gpt: fit a rule for this model",
    )  # fmt: skip


# --- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "words"), [
    ((), "a cascade has two models: give --small and --large, or --logged"),
    (("--small", "m"), "a cascade has two models"),
    (("--small", "m", "--large", "m", "--quality", "q.jsonl"), "--quality goes with --logged"),
    (("--logged", "missing.jsonl"), "the file missing.jsonl does not exist"),
    (("--logged", "ANSWERS", "--budget", 1.5), "--budget must be in [0, 1], got 1.5"),
    (("--logged", "ANSWERS", "--budget", 0.1, "--risk", 0.1), "a threshold is chosen for a budget or for a risk"),
    (("--logged", "ANSWERS", "--rule", "median"), "there is no deferral rule 'median'"),
    (("--logged", "ANSWERS", "--first", 0), "--first must be at least 1, got 0"),
    (("--logged", "ANSWERS", "--items", 0), "--items must be at least 1, got 0"),
    (("--small", "http://localhost:1/v1", "--large", "http://localhost:1/v1#m"), "an endpoint is given as URL#MODEL"),
])  # fmt: skip
def test_a_fit_that_cannot_be_is_refused(arguments, words, answers, tmp_path):
    given = [answers if argument == "ANSWERS" else argument for argument in arguments]
    check_refused("cascade fit", *given, "--output", tmp_path / "fit", "--quiet", words=words)


@pytest.mark.parametrize(("row", "words"), [
    ({"small": 1, "large": 1}, "answer 9 has no list of numbers under logprobs"),
    ({"logprobs": [-1, "x"], "small": 1, "large": 1}, "answer 9 has no list of numbers under logprobs"),
    ({"logprobs": [0.5], "small": 1, "large": 1}, "a log-probability must be at most 0, got 0.5 for token 0 of output 8"),
    ({"logprobs": [-1], "large": 1}, "answer 9 has no number under small, got None"),
    ({"logprobs": [-1], "small": 1, "large": 1, "large_tokens": "many"}, "answer 9 has no number under large_tokens"),
])  # fmt: skip
def test_a_logged_answer_that_is_none_is_refused(row, words, tmp_path):
    rows = [{"logprobs": [-1.0], "small": 1, "large": 0}] * 8
    check_refused(
        "cascade fit",
        "--logged",
        write_rows(tmp_path / "a.jsonl", [*rows, row]),
        "--output",
        tmp_path / "fit",
        words=words,
    )


def test_an_axis_needs_its_costs(answers, tmp_path):
    bare = write_rows(
        tmp_path / "bare.jsonl",
        [{"logprobs": [-1.0, -place], "small": place % 2, "large": 1} for place in range(40)],
    )
    rule = ("--rule", "sum")
    check_refused(
        "cascade curve",
        "--logged",
        bare,
        *rule,
        "--axis",
        "seconds",
        words="has no small_seconds for answer 1",
    )
    check_refused(
        "cascade curve",
        "--logged",
        answers,
        *rule,
        "--axis",
        "flops",
        words="give --small-parameters and --large-parameters",
    )


@pytest.mark.parametrize(("name", "text", "words"), [
    ("p.txt", "\n", "holds no prompts: give one per line"),
    ("p.jsonl", '{"question": "Hi"}', "row 1 has neither a text under prompt nor messages"),
])  # fmt: skip
def test_prompts_that_are_none_are_refused(name, text, words, answers, tmp_path):
    tokenry("cascade fit", "--logged", answers, "--rule", "sum", *FAST, "--output", tmp_path / "fit")
    (tmp_path / name).write_text(text)
    check_refused("cascade run", tmp_path / "fit/rule.json", tmp_path / name, words=words)
    check_refused("cascade run", answers, tmp_path / name, words="is not valid JSON")
