"""The gradual search and its control: reference walks, ledgers that resume, and searches that contradict themselves."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_json
from tokenry.compression.text import gradual_search, optuna_search
from tokenry.core.errors import UserError

GRIDS = {"lr": [1e-5, 2e-5, 3e-5, 5e-5], "bs": [8, 16, 32]}
START = {"lr": 1e-5, "bs": 32}


def f1(c):
    score = -((math.log10(c["lr"]) + 4.6) ** 2) - 0.1 * (math.log2(c["bs"]) - 4) ** 2
    return round(score - (c.get("dropout", 0.1) - 0.1) ** 2, 12)


def f2(c):
    lr, bs = math.log10(c["lr"]), math.log2(c["bs"])
    return round(-((lr + 3.3) ** 2) - 0.3 * (bs - 5) ** 2 + 0.2 * bs * (lr + 4) / 5, 12)


class Counted:
    """An objective that counts its calls and can be killed at one of them."""

    def __init__(self, kill_at=None):
        self.calls, self.kill_at = [], kill_at

    def __call__(self, config):
        if self.kill_at is not None and len(self.calls) == self.kill_at:
            raise KeyboardInterrupt
        self.calls.append(config)
        return f1(config)


def search(evaluate=f1, **options):
    return gradual_search(evaluate, GRIDS, ["lr", "bs"], START, **({"ledger": None} | options))


# --- the walk -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", golden_json("37-long-text-hacks", "dev-search.json"))
def test_the_walk_of_the_reference(case):
    expected, objective = case["result"], {"f1": f1, "f2": f2}[case["objective"]]
    found = gradual_search(
        objective, case["grids"], case["order"], case["start"], ledger=None, **case["options"]
    )
    assert [trial.config for trial in found.trials] == [trial["config"] for trial in expected["trace"]]
    assert [trial.score for trial in found.trials] == pytest.approx(
        [trial["score"] for trial in expected["trace"]], rel=1e-12
    )
    assert found.best == expected["best"]
    assert found.best_score == pytest.approx(expected["best_score"], rel=1e-12)
    assert (len(found.trials), found.grids) == (expected["n_trials"], expected["grids"])


def test_a_grid_grows_at_both_ends_by_one_budget():
    up = search(lambda c: c["lr"], extend={"lr": 2}, max_extend=3, max_passes=1)
    assert up.grids["lr"] == pytest.approx([1e-5, 2e-5, 3e-5, 5e-5, 1e-4, 2e-4, 4e-4])
    assert up.best["lr"] == pytest.approx(4e-4)
    down = search(lambda c: -c["bs"], extend={"bs": 2}, max_extend=2)
    # The first try goes up and fails, with one unit of the budget.
    assert down.grids["bs"] == [4, 8, 16, 32, 64]
    assert down.best["bs"] == 4
    assert all(type(value) is int for value in down.grids["bs"])


def test_whole_numbers_stay_whole():
    found = gradual_search(
        lambda c: -c["bs"], {"bs": [1, 2]}, ["bs"], {"bs": 1}, extend={"bs": 2}, max_extend=9, ledger=None
    )
    assert found.grids["bs"] == [1, 2]


def test_ties_keep_the_present_value_and_other_hyper_parameters_stay():
    found = search(lambda c: 0.0)
    assert found.best == START
    assert found.ended == "settled"
    assert len(found.trials) == 3
    assert gradual_search(f1, GRIDS, ["lr"], START, ledger=None).best["bs"] == 32


def test_why_it_ended():
    assert search().ended == "settled"
    assert search(max_passes=1).ended == "passes"
    assert search(max_trials=2).ended == "trials"


@settings(deadline=None, max_examples=40)
@given(
    scores=st.lists(st.integers(0, 5), min_size=12, max_size=12),
    places=st.tuples(st.integers(0, 3), st.integers(0, 2)),
    most=st.integers(1, 12),
)
def test_the_best_of_different_trials_within_their_number_wins(scores, places, most):
    table = dict(zip([(lr, bs) for lr in GRIDS["lr"] for bs in GRIDS["bs"]], scores, strict=True))
    start = {"lr": GRIDS["lr"][places[0]], "bs": GRIDS["bs"][places[1]]}
    found = gradual_search(
        lambda c: table[c["lr"], c["bs"]], GRIDS, ["bs", "lr"], start, max_trials=most, ledger=None
    )
    asked = [tuple(sorted(trial.config.items())) for trial in found.trials]
    assert len(set(asked)) == len(asked) <= most
    assert found.best_score == max(trial.score for trial in found.trials)
    assert found.trials[0].config == start


# --- the ledger ---------------------------------------------------------------------------------------------------------


def test_a_killed_search_goes_on_and_repeats_no_trial(tmp_path):
    whole, ledger = search(), tmp_path / "search.jsonl"
    first, second = Counted(kill_at=4), Counted()
    with pytest.raises(KeyboardInterrupt):
        search(first, ledger=ledger)
    found = search(second, ledger=ledger)
    assert found.trials == whole.trials
    assert found.made == len(second.calls) == len(whole.trials) - 4
    assert not [config for config in second.calls if config in first.calls]
    again = Counted()
    assert search(again, ledger=ledger).made == len(again.calls) == 0


def test_a_line_that_was_cut_is_made_again(tmp_path):
    ledger, whole = tmp_path / "search.jsonl", search()
    search(ledger=ledger, max_trials=3)
    ledger.write_text(ledger.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    resumed = Counted()
    assert search(resumed, ledger=ledger).trials == whole.trials
    assert len(resumed.calls) == len(whole.trials) - 2
    lines = [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 1 + len(whole.trials)


def test_a_known_trial_counts_among_the_trials_but_is_not_made(tmp_path):
    ledger = tmp_path / "search.jsonl"
    search(ledger=ledger, max_trials=3)
    found = search(ledger=ledger, max_trials=5)
    assert (len(found.trials), found.made) == (5, 2)


def test_the_ledger_of_another_search_is_refused(tmp_path):
    ledger = tmp_path / "search.jsonl"
    search(ledger=ledger, task={"data": "news"})
    search(ledger=ledger, task={"data": "news"}, max_trials=1)
    with pytest.raises(
        UserError, match="is the ledger of another search, with other hyper-parameters or of another task"
    ):
        search(ledger=ledger, task={"data": "reviews"})
    with pytest.raises(UserError, match="is the ledger of another search"):
        gradual_search(f1, {"lr": [1e-5]}, ["lr"], {"lr": 1e-5}, ledger=ledger, task={"data": "news"})


@pytest.mark.parametrize("content", ["lr,bs\n1,2\n", '{"score": 1}\n', '["lr"]\n', "a note"])
def test_files_that_are_no_ledgers_are_refused_and_stay(content, tmp_path):
    ledger = tmp_path / "notes.txt"
    ledger.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"notes\.txt is no ledger of trials"):
        search(ledger=ledger)
    assert ledger.read_text(encoding="utf-8") == content


def test_a_broken_line_within_is_refused(tmp_path):
    ledger = tmp_path / "search.jsonl"
    search(ledger=ledger)
    lines = ledger.read_text(encoding="utf-8").splitlines()
    ledger.write_text("\n".join([*lines[:2], '{"config": {', *lines[2:]]) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="is no ledger of trials"):
        search(ledger=ledger)


# --- the control --------------------------------------------------------------------------------------------------------


def control(evaluate=f1, **options):
    pytest.importorskip("optuna")
    return optuna_search(evaluate, GRIDS, START, **({"trials": 6, "journal": None} | options))


def test_the_control_makes_as_many_different_trials_from_the_same_start():
    asked = Counted()
    found = control(asked)
    assert found.trials[0].config == START
    assert len(found.trials) == len(asked.calls) == found.made == 6
    assert found.best_score == max(f1(config) for config in asked.calls)
    assert control().trials == found.trials
    assert control(seed=1).trials != found.trials


def test_the_control_ends_when_the_grids_are_used_up():
    assert len(control(trials=99).trials) == 12


def test_the_journal_is_resumed_and_that_of_another_search_refused(tmp_path):
    journal, asked = tmp_path / "search.log", Counted(kill_at=4)
    with pytest.raises(KeyboardInterrupt):
        control(asked, journal=journal)
    more = Counted()
    found = control(more, journal=journal)
    assert (len(found.trials), found.made) == (6, 2)
    assert not [config for config in more.calls if config in asked.calls]
    with pytest.raises(UserError, match=r"search\.log is the journal of another search"):
        control(journal=journal, task="other")


def test_a_control_that_is_killed_in_its_first_trial_begins_at_the_start_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        control(Counted(kill_at=0), journal=tmp_path / "search.log")
    assert control(journal=tmp_path / "search.log").trials[0].config == START


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UserError, match=r"optuna is not installed: pip install 'tokenry\[search\]'"):
        optuna_search(f1, GRIDS, START, trials=2, journal=None)


# --- what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"grids": {}}, "each hyper-parameter needs a grid with at least one value"),
        ({"grids": GRIDS | {"bs": []}}, "each hyper-parameter needs a grid with at least one value"),
        ({"grids": GRIDS | {"bs": [8, "large"]}}, "the values of a grid must be of one kind that can be sorted"),
        ({"start": {"lr": 1e-5}}, "start must give lr, bs, got lr"),
        ({"start": {"lr": 4e-5, "bs": 8}}, "start must lie on the grids: lr is 4e-05, and its grid is 1e-05, 2e-05"),
        ({"order": ["lr", "dropout"]}, r"order must name hyper-parameters of the grids \(lr, bs\), each once, got lr, dropout"),
        ({"order": ["lr", "lr"]}, "each once, got lr, lr"),
        ({"extend": {"dropout": 2}}, r"extend must name hyper-parameters of the grids \(lr, bs\), got dropout"),
        ({"extend": {"lr": 1}}, "the factor of lr in extend must be above 1, got 1"),
        ({"grids": GRIDS | {"bs": [0, 8, 32]}, "extend": {"bs": 2}}, "the grid of bs must hold positive numbers"),
        ({"max_passes": 0}, "max_passes must be at least 1, got 0"),
        ({"max_trials": 0}, "max_trials must be at least 1, got 0"),
        ({"max_extend": -1}, "max_extend must be at least 0, got -1"),
        ({"evaluate": lambda c: math.nan}, "evaluate must give a finite number, got nan for"),
        ({"evaluate": lambda c: "good"}, "evaluate must give a finite number, got 'good' for"),
    ],
)  # fmt: skip
def test_searches_that_contradict_themselves_are_refused(changed, words):
    arguments = {
        "evaluate": f1,
        "grids": GRIDS,
        "order": ["lr", "bs"],
        "start": START,
        "ledger": None,
    } | changed
    with pytest.raises(UserError, match=words):
        gradual_search(**arguments)


def test_a_ledger_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    asked = Counted()
    with pytest.raises(UserError, match="is a folder: name a file in it"):
        search(asked, ledger=tmp_path)
    assert asked.calls == []
