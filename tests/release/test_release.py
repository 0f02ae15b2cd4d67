"""What is refused before a release: a wheel that lacks a file or holds too much, a version without its changes, a licence with copyleft."""

import sys
import tomllib
import zipfile
from email.message import Message
from types import SimpleNamespace

import pytest

from tests import ROOT

sys.path.insert(0, str(ROOT / "release"))
import make_dist
import supply
import try_wheel

import tokenry

NAME = f"tokenry-{tokenry.__version__}-py3-none-any.whl"
SOURCE = {"tokenry/__init__.py", "tokenry/reproduced.json"}
ABOUT = {f"tokenry-{tokenry.__version__}.dist-info/{name}" for name in make_dist.ABOUT_A_WHEEL}


def wheel(folder, paths):
    with zipfile.ZipFile(folder / NAME, "w") as opened:
        for path in paths:
            opened.writestr(path, "")
    return folder / NAME


def test_a_wheel_with_every_file_of_the_repository_is_right(tmp_path):
    assert make_dist.wrong_in_wheel(wheel(tmp_path, SOURCE | ABOUT), SOURCE) == []


@pytest.mark.parametrize(
    ("without", "beside", "said"),
    [
        ({"tokenry/reproduced.json"}, set(), "lacks tokenry/reproduced.json"),
        (
            {f"tokenry-{tokenry.__version__}.dist-info/licenses/LICENSE"},
            set(),
            "dist-info/licenses/LICENSE",
        ),
        (set(), {"tests/golden/01.json"}, "should not hold tests/golden/01.json"),
    ],
)
def test_a_wheel_with_another_file_more_or_less_is_refused(tmp_path, without, beside, said):
    (wrong,) = make_dist.wrong_in_wheel(wheel(tmp_path, (SOURCE | ABOUT | beside) - without), SOURCE)
    assert wrong.endswith(said)


def test_a_wheel_over_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(make_dist, "MOST_BYTES", 100)
    (wrong,) = make_dist.wrong_in_wheel(wheel(tmp_path, SOURCE | ABOUT), SOURCE)
    assert wrong.endswith("more than 100")


def test_a_packed_wheel_holds_the_same_in_less(tmp_path):
    pytest.importorskip("zopfli", reason="the extra release packs wheels")
    made, text = tmp_path / NAME, "".join(str(number**3) for number in range(2000))
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("numbers.txt", text)
    before, when = made.stat().st_size, zipfile.ZipFile(made).infolist()[0].date_time
    make_dist.pack(made)
    assert made.stat().st_size < before
    packed = zipfile.ZipFile(made)
    assert packed.read("numbers.txt").decode() == text
    assert packed.infolist()[0].date_time == when


def test_what_is_in_the_repository_has_the_data_that_verbs_read():
    assert {"tokenry/pretraining/scaling/testbed104.csv", "tokenry/py.typed"} <= make_dist.tracked()


def test_a_version_has_its_section_in_the_changelog(tmp_path):
    assert make_dist.wrong_about_version(tmp_path / NAME) == []
    assert make_dist.wrong_about_version(tmp_path / "tokenry-99.0.0-py3-none-any.whl")


def test_the_version_stands_in_the_package_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/tokenry/__init__.py"


@pytest.mark.parametrize(
    ("about", "words", "copyleft"),
    [
        ({"License-Expression": "MIT"}, "MIT", False),
        ({"Classifier": "License :: OSI Approved :: BSD License"}, "BSD License", False),
        ({"License": "GNU LGPL v3\nfull text"}, "GNU LGPL v3", True),
        ({"License-Expression": "Apache-2.0 OR GPL-2.0-only"}, "Apache-2.0 OR GPL-2.0-only", False),
        ({"License-Expression": "MPL-2.0"}, "MPL-2.0", False),
        ({}, "unknown", False),
    ],
)
def test_a_licence_is_read_and_copyleft_is_known(about, words, copyleft):
    metadata = Message()
    for name, value in about.items():
        metadata[name] = value
    assert supply.licence(SimpleNamespace(metadata=metadata)) == words
    assert supply.is_copyleft(words) is copyleft


def test_the_names_that_the_wheel_is_asked_for_are_the_public_ones():
    names = try_wheel.public_names()
    assert "tokenry.finetuning.SSToken" in names
    assert not [name for name in names if " " in name]
