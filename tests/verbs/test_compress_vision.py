"""`tokenry compress vision`: a table, a page with pictures, JSON, and one sentence for what cannot be."""

import json

import pytest

from tests.tiny.images import write_classifier, write_images
from tests.verbs.check_verb import check_refused, check_verb, tokenry

VISION = "compress vision"


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vision")
    write_classifier(folder / "model")
    write_images(folder / "images")
    (folder / "labels.csv").write_text("file,label\na/0.png,cat\na/2.jpg,1\nb/1.jpg,ship\n")
    return folder


def given(desk, *arguments, model="model", images="images"):
    quick = ("--dtype", "float32", "--rounds", 2)
    return ("--model", desk / model, "--images", desk / images, *quick, *arguments)


def test_settings_are_measured_in_one_run_and_drawn(desk, tmp_path):
    methods = ("--method", "tome:r=[3,2]", "--method", "norm", "--ratio", "0.8", "--every-layer")
    saved = check_verb(
        VISION, *given(desk, *methods, "--pictures", 1, "--labels", desk / "labels.csv"), output=tmp_path
    )
    assert [each["name"] for each in saved["results"]] == ["tome r=3,2", "norm ratio=0.8"]
    assert saved["results"][0]["token_counts"] == [17, 14, 12, 12, 12]
    assert saved["results"][1]["options"]["ratio"] == 0.8
    assert saved["settings"]["batch_size"] == 6
    assert saved["unpatched"]["accuracy"]["samples"] == 3
    drawn = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "tome r=3,2, after layer 1" in drawn
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "result.json"]


def test_a_run_shows_a_table_and_what_is_done(desk, tmp_path):
    result = tokenry(VISION, *given(desk, "--ratio", "0.7", "--output", tmp_path))
    assert result.exit_code == 0, result.stderr
    for words in ("pitome ratio=0.7", "same class", "peak, MB"):
        assert words in result.stdout
    assert "looking at the images" in result.stderr


def test_pictures_are_saved_and_not_printed(desk, tmp_path):
    result = tokenry(VISION, *given(desk, "--json", "--output", tmp_path / "one.json"))
    assert "pictures" not in json.loads(result.stdout)
    assert len(json.loads((tmp_path / "one.json").read_text())["pictures"]) == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "pitone"], "there is no method 'pitone' (did you mean 'pitome'?)"),
        (["--ratio", "1.5"], "ratio must be in [0.5, 1], got 1.5"),
        (["--method", "tome", "--r", "-1"], "r must not be negative"),
        (["--method", "tome", "--r", "some"], "tome:r cannot be 'some'"),
        (["--labels", "none.csv"], "the labels none.csv cannot be read"),
        (["--dtype", "float8"], "'float8' is not one of 'float32', 'bfloat16', 'float16'"),
        (["--ratio", "0.9", "--method", "tome"], "--ratio 0.9 is given, but tome has no such option"),
        (["--device", "nowhere"], "device 'nowhere' is not there"),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--mean", "a,b,c", "--std", "1,1,1"], "--mean cannot be ['a', 'b', 'c']"),
        (["--sweep", "--ratio", "0.9"], "a sweep sets itself how much each method reduces"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(desk, tmp_path, arguments, words):
    check_refused(VISION, *given(desk, *arguments, "--quiet", "--output", tmp_path / "out"), words=words)
    assert not (tmp_path / "out").exists()


def test_folders_that_are_not_there_are_bad_input(desk, tmp_path):
    check_refused(VISION, *given(desk, images="none"), words="the folder of images")
    (tmp_path / "empty").mkdir()
    check_refused(VISION, *given(desk, images=tmp_path / "empty"), words="holds no image")
    check_refused(VISION, *given(desk, model="nothing/at/all"), words="does not exist")


def test_an_output_that_is_a_file_is_bad_input(desk, tmp_path):
    (tmp_path / "file").write_text("kept")
    words = "file cannot be written"
    check_refused(VISION, *given(desk, "--output", tmp_path / "file"), words=words)
    assert (tmp_path / "file").read_text() == "kept"


def test_labels_that_match_nothing_are_bad_input(desk, tmp_path):
    (tmp_path / "labels.csv").write_text("file,label\nelsewhere.jpg,cat\n")
    words = "none of the 1 labelled files is among the images"
    check_refused(VISION, *given(desk, "--labels", tmp_path / "labels.csv"), words=words)
