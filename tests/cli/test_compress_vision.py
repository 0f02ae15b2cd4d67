import json

import pytest
from typer.testing import CliRunner

from tests.tiny_images import write_classifier, write_images
from tokenry.cli import app
from tokenry.core.vision_records import VisionRun


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vision")
    write_classifier(folder / "model")
    write_images(folder / "images")
    (folder / "labels.csv").write_text("file,label\na/0.png,cat\na/2.jpg,1\nb/1.jpg,ship\n")
    return folder


def vision(desk, *arguments, model="model", images="images"):
    given = (
        "--model",
        desk / model,
        "--images",
        desk / images,
        "--dtype",
        "float32",
        "--rounds",
        2,
        *arguments,
    )
    return CliRunner().invoke(app, ["compress", "vision", *map(str, given)])


def test_a_run_writes_a_record_and_a_page_and_shows_a_table(desk, tmp_path):
    output = tmp_path / "out"
    result = vision(desk, "--ratio", "0.7", "--labels", desk / "labels.csv", "--output", output)
    assert result.exit_code == 0, result.stderr
    assert "pitome ratio=0.7" in result.stdout
    assert "accuracy" in result.stdout
    assert "looking at the images" in result.stderr
    assert VisionRun.load(output / "result.json").results[0].options["ratio"] == 0.7
    assert "pitome ratio=0.7" in (output / "report.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in output.iterdir()) == ["report.html", "result.json"]


def test_json_is_the_record_without_the_pictures(desk, tmp_path):
    result = vision(desk, "--method", "tome", "--r", "3,2", "--output", tmp_path, "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    said = json.loads(result.stdout)
    assert said["results"][0]["token_counts"] == [17, 14, 12, 12, 12]
    assert "pictures" not in said


def test_several_methods_are_measured_in_one_run(desk, tmp_path):
    options = (
        "--method",
        "tome:r=3",
        "--method",
        "norm",
        "--ratio",
        "0.8",
        "--every-layer",
        "--pictures",
        "1",
    )
    result = vision(desk, *options, "--output", tmp_path, "--json")
    assert [each["name"] for each in json.loads(result.stdout)["results"]] == ["tome r=3", "norm ratio=0.8"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "pitone"], "there is no method 'pitone' (did you mean 'pitome'?)"),
        (["--ratio", "1.5"], "ratio must be in [0.5, 1], got 1.5"),
        (["--method", "tome", "--r", "-1"], "r must not be negative"),
        (["--method", "tome", "--r", "some"], "tome:r cannot be 'some'"),
        (["--labels", "none.csv"], "the labels none.csv cannot be read"),
        (["--dtype", "float8"], "dtype must be one of"),
        (["--sweep", "--ratio", "0.9"], "a sweep sets itself how much each method reduces"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(desk, tmp_path, arguments, words):
    result = vision(desk, *arguments, "--output", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_folders_that_are_not_there_are_bad_input(desk, tmp_path):
    assert "the folder of images" in vision(desk, images="none").stderr
    (tmp_path / "empty").mkdir()
    assert "holds no image" in vision(desk, images=tmp_path / "empty").stderr
    result = vision(desk, model="nothing/at/all")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


def test_an_output_that_is_a_file_is_bad_input(desk, tmp_path):
    (tmp_path / "file").write_text("kept")
    result = vision(desk, "--output", tmp_path / "file")
    assert result.exit_code == 2
    assert "choose a folder for --output" in result.stderr
    assert (tmp_path / "file").read_text() == "kept"


def test_labels_that_match_nothing_are_bad_input(desk, tmp_path):
    (tmp_path / "labels.csv").write_text("file,label\nelsewhere.jpg,cat\n")
    result = vision(desk, "--labels", tmp_path / "labels.csv", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "none of the 1 labelled files is among the images" in result.stderr
