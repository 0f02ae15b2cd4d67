"""`tokenry compress plan`: the fit and the choices of a table of scores, and what is refused before any work starts."""

import json

import pytest

from tests.verbs.check_verb import check_refused, check_verb, in_terminal, too_wide
from tests.verbs.check_verb import tokenry as called
from tokenry.compression.vision.published_scaling import PUBLISHED_SCORES, PUBLISHED_SIZES, PUBLISHED_TOKENS
from tokenry.verbs._catalogue import verb_of

PLAN = "compress plan"
FAST = ("--bootstrap", "8")
ROWS = [
    {"size": size, "tokens": tokens, "score": score}
    for size, row in zip(PUBLISHED_SIZES, PUBLISHED_SCORES["reasoning"], strict=True)
    for tokens, score in zip(PUBLISHED_TOKENS, row, strict=True)
]


def tokenry(*arguments):
    return called(PLAN, *arguments)


def planned(*arguments):
    result = tokenry(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def as_csv(path, rows=ROWS, columns=("size", "tokens", "score")):
    lines = [",".join(columns), *(",".join(str(row[column]) for column in columns) for row in rows)]
    path.write_text("\n".join(lines))
    return path


def constants(result):
    return {each["name"]: each["value"] for each in result["constants"]}


def test_the_papers_table_is_fitted_and_the_choices_are_the_papers():
    result = planned(*FAST, "--budget", 2e10, "--budget", 2e12, "--sizes", "0.5,1.8,4,7,14")
    assert constants(result)["alpha_beta_ratio"] == pytest.approx(4.7, abs=0.2)
    chosen = [(each["best"]["n_billion"], each["best"]["visual_tokens"]) for each in result["choices"]]
    assert chosen == [(7, 1), (14, 64)]


def test_the_ocr_table_reverses_the_choice():
    result = planned(*FAST, "--table", "ocr", "--budget", 2e10)
    best = result["choices"][0]["best"]
    assert (best["n_billion"], best["visual_tokens"]) == (0.5, 16)
    assert result["tokens_at_any_size"] is None


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_file_of_scores_gives_what_the_same_table_gives(suffix, tmp_path):
    path = tmp_path / f"scores{suffix}"
    if suffix == ".csv":
        as_csv(path, [row | {"note": "x"} for row in reversed(ROWS)], ("note", "score", "tokens", "size"))
    else:
        path.write_text(json.dumps(ROWS))
    expected, found = constants(planned("--bootstrap", 0)), constants(planned(path, "--bootstrap", 0))
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_intervals_choices_and_the_warning_are_shown():
    result = tokenry(*FAST, "--budget", 1e6, "--budget", 2e10, "--quiet")
    assert result.exit_code == 0
    for words in ("alpha / beta", "95 % interval", " to ", "nothing fits", "7B"):
        assert words in result.stdout
    assert "Warning: D cannot be told from these points" in " ".join(result.stdout.split())
    assert result.stderr == ""
    assert too_wide(result.stdout) == []


def test_a_fixed_d_has_no_warning_and_no_interval():
    result = planned(*FAST, "--fix-d", 0.1)
    assert result["warnings"] == []
    assert {each["name"]: each["low"] for each in result["constants"]}["D"] is None


def test_text_and_answer_tokens_cost_too():
    free, paid = (planned("--bootstrap", 0, "--budget", 2e12, *more)["choices"][0]["best"] for more in (
        (), ("--text-tokens", 50, "--decode-tokens", 100),
    ))  # fmt: skip
    assert paid["flops"] == 2 * paid["n_billion"] * 1e9 * (150 + paid["visual_tokens"])
    assert (free["n_billion"], free["visual_tokens"]) != (paid["n_billion"], paid["visual_tokens"])


def test_choices_are_made_among_the_tokens_that_were_named():
    result = planned("--bootstrap", 0, "--budget", 1e13, "--tokens", "9,25")
    assert result["choices"][0]["best"]["visual_tokens"] == 25


def test_a_plan_is_saved_and_drawn_again(tmp_path):
    saved = check_verb(PLAN, *FAST, "--budget", 1e6, "--budget", 2e10, output=tmp_path)
    assert saved["scores"] == saved["settings"]["scores"] == "paper: reasoning"
    assert saved["settings"]["budgets"] == [1e6, 2e10]
    assert saved["settings"]["sizes"] == saved["sizes"]


def test_the_result_is_written_as_it_is_printed(tmp_path):
    printed = planned(*FAST, "--output", tmp_path / "plan.json")
    assert json.loads((tmp_path / "plan.json").read_text()) == printed


def test_a_plan_of_an_earlier_version_is_drawn():
    made = planned(*FAST, "--table", "ocr", "--budget", 1e6)
    earlier = {name: value for name, value in made.items() if name not in ("title", "settings")}
    shown = in_terminal(verb_of("compression plan").lay_out(earlier))
    assert "points of paper: ocr" in shown
    assert "as many visual tokens as there are" in " ".join(shown.split())
    assert "nothing fits" in shown


@pytest.mark.parametrize(("arguments", "words"), [
    (("--budget", "-1"), "the budget must be at least 0 FLOPs per query, got -1.0"),
    (("--sizes", "7,big"), "--sizes takes numbers separated by commas, such as 1,4,16, got '7,big'"),
    (("--tokens", "1.5"), "--tokens takes numbers separated by commas"),
    (("--tokens", "0"), "numbers of visual tokens must be at least 1, got 0"),
    (("--sizes", "0"), "must be above 0, got 0"),
    (("--fix-d", "2"), "--fix-d must be in [0, 1], got 2.0"),
    (("--text-tokens", "-5"), "--text-tokens must be at least 0, got -5"),
    (("missing.csv",), "missing.csv does not exist"),
    (("missing.json",), "missing.json does not exist"),
    (("missing.csv", "--table", "ocr"), "give a file of scores or --table, not both"),
])  # fmt: skip
def test_what_cannot_be_planned_is_refused(arguments, words):
    check_refused(PLAN, *arguments, "--quiet", words=words)


@pytest.mark.parametrize(("name", "text", "words"), [
    ("a.csv", "size,tokens\n7,1", "has no score: a table of scores has the columns size, tokens, score"),
    ("a.csv", "size,tokens,score", "has no rows"),
    ("a.csv", "size,tokens,score\n7,one,0.5", "tokens must be a number, got 'one' in row 2 of"),
    ("a.csv", "size,tokens,score\n7,1", "score must be a number, got None in row 2 of"),
    ("a.csv", "size,tokens,score\n7,1,48.1", "scores must be in [0, 1], got 48.1"),
    ("a.csv", "size,tokens,score\n7,1,nan", "scores must be in [0, 1], got nan"),
    ("a.csv", "size,tokens,score\n7,1,0.5\n7,4,0.6", "cannot be identified from 2 distinct points"),
    ("a.json", "[1, 2]", "must hold a list of objects with the keys size, tokens, score"),
    ("a.json", '[{"size": 7, "tokens": 1}]', "has no score"),
    ("a.json", "{", "is not valid JSON"),
])  # fmt: skip
def test_a_table_that_is_none_is_refused(name, text, words, tmp_path):
    (tmp_path / name).write_text(text)
    check_refused(PLAN, tmp_path / name, "--quiet", words=words)
