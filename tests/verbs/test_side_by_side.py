import pytest

from tokenry.core.errors import UserError
from tokenry.core.io.files import read_json
from tokenry.verbs._side_by_side import Interrupted, SideBySide, folder_name, require_apart

SETTINGS = {"seed": 1, "training": {"rate": 0.1, "steps": 2}, "names": ("a", "b")}


@pytest.fixture
def runs(tmp_path):
    return SideBySide("tune", tmp_path / "out put")


def begin(runs, settings=SETTINGS, data="d", prepare=lambda: None):
    with runs.at_work(lambda: "training"):
        runs.begin(settings, data, prepare)


def test_a_job_is_prepared_once_and_its_plan_stands_in_the_folder(runs):
    prepared = []
    assert not runs.is_begun
    for _ in range(2):
        begin(runs, prepare=lambda: prepared.append(1))
    assert prepared == [1]
    assert runs.is_begun
    assert runs.read_plan(dict) == {**SETTINGS, "names": ["a", "b"]}


def test_a_job_that_was_refused_leaves_no_plan(runs):
    def refuse():
        raise UserError("no such thing")

    with pytest.raises(UserError, match="no such thing"):
        begin(runs, prepare=refuse)
    assert not runs.is_begun
    begin(runs, data="other")
    assert read_json(runs.folder / "data.json") == {"fingerprint": "other"}


def test_other_data_are_refused(runs):
    begin(runs)
    with pytest.raises(UserError, match="the data has changed since the run in"):
        begin(runs, data="other")


def test_what_is_asked_for_must_be_what_is_stored_and_is_named(runs):
    runs.require_same({"seed": 1, "training": {"steps": 2}}, SETTINGS)
    with pytest.raises(UserError, match=r"was made with seed=1, not 3: leave it out to go on"):
        runs.require_same({"seed": 3}, SETTINGS)
    with pytest.raises(UserError, match=r"was made with training=.*, not \{'steps': 3\}"):
        runs.require_same({"training": {"steps": 3}}, SETTINGS)
    with pytest.raises(UserError, match="holds a run with other settings: choose another output"):
        runs.require_settings({"seed": 3}, SETTINGS)


def test_a_job_that_is_there_must_be_asked_to_go_on(runs):
    runs.require_resume(False)
    begin(runs)
    runs.require_resume(True)
    with pytest.raises(UserError, match="already holds a run: go on with it by --resume"):
        runs.require_resume(False)


def test_a_damaged_plan_cannot_be_gone_on_with(runs):
    begin(runs)
    for content in ('{"seed": 1', "[]"):
        (runs.folder / "plan.json").write_text(content)
        with pytest.raises(UserError, match="is damaged, so the run cannot go on"):
            runs.read_plan(dict)


def test_files_of_something_else_are_not_written_beside(runs):
    runs.folder.mkdir()
    (runs.folder / "tune.log").touch()
    runs.require_own()
    (runs.folder / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds no run of `tokenry tune`: name a new folder"):
        runs.require_own()
    begin(runs)
    runs.require_own()


def test_no_second_process_works_there(runs):
    with runs.at_work(str), pytest.raises(UserError, match="another run is at work in"):
        begin(runs)
    begin(runs)


def test_a_file_is_no_folder(runs):
    runs.folder.touch()
    with pytest.raises(UserError, match="cannot be a folder"):
        begin(runs)


def test_an_interruption_says_how_to_go_on_once_there_is_something_to_go_on_with(runs):
    with pytest.raises(Interrupted) as stopped, runs.at_work(lambda: "reading"):
        raise KeyboardInterrupt
    assert str(stopped.value) == "stopped while doing this: reading."
    begin(runs)
    with pytest.raises(Interrupted) as stopped, runs.at_work(lambda: "training"):
        raise Interrupted("stopped after step 3")
    assert str(stopped.value) == (
        "stopped after step 3; what is finished is kept: go on with "
        f"`tokenry tune --resume --output '{runs.folder}'`."
    )


def test_runs_whose_folders_would_be_one_are_refused():
    assert folder_name("HAPO:tau=0.1") == "hapo-tau=0.1"
    require_apart(["hapo", "hapo tau=0.1"])
    with pytest.raises(UserError, match="hapo:tau, hapo tau are too much alike"):
        require_apart(["hapo:tau", "hapo tau"])
