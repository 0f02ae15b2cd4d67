"""Docstrings of installed packages: whole files are put aside, and nothing held out is trained on."""

import pytest

from tokenry.core.errors import UserError
from tokenry.core.text.docstrings import read_docstrings


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "madeup"
    (folder / "tests").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    for number in range(20):
        shared = "is the same in two files. " * 10 if number < 2 else f"of file {number} alone. " * 20
        (folder / f"file_{number}.py").write_text(
            f'def f():\n    """This {shared}"""\n\ndef g():\n    """Short."""\n'
        )
    (folder / "tests" / "test_it.py").write_text(f'"""{"never read " * 40}"""')
    monkeypatch.syspath_prepend(tmp_path)
    return "madeup"


def test_docstrings_are_read_without_importing_the_package(package):
    found = read_docstrings([package])
    assert len(found.train) == 19
    assert len(found.held_out) <= 1
    assert not any("Short" in text or "never read" in text for text in found.train + found.held_out)


def test_nothing_held_out_is_trained_on(package):
    for seed in range(6):
        found = read_docstrings([package], held_out_share=0.5, seed=seed)
        assert found.held_out
        assert not set(found.held_out) & set(found.train)


def test_the_same_seed_puts_the_same_files_aside(package):
    assert read_docstrings([package], 0.5) == read_docstrings([package], 0.5)
    assert read_docstrings([package], 0.5, seed=1) != read_docstrings([package], 0.5)


def test_files_of_a_newer_python_and_files_beyond_the_most_are_left_out(package, tmp_path):
    (tmp_path / "madeup" / "newer.py").write_text(f'def f[:\n    """{"of a newer Python " * 40}"""\n')
    found = read_docstrings([package], held_out_share=0.0)
    assert len(found.train) == 20
    assert 4 <= len(read_docstrings([package], held_out_share=0.0, most_files=6).train) <= 6


def test_a_package_that_is_not_there_is_named():
    with pytest.raises(UserError, match="the package nowhere is not installed"):
        read_docstrings(["nowhere"])


def test_a_module_is_its_file_alone_in_the_encoding_that_it_declares(tmp_path, monkeypatch):
    told = "Caf\xe9 and what goes with it. " * 10
    (tmp_path / "lonely.py").write_bytes(f'# -*- coding: latin-1 -*-\n"""{told}"""\n'.encode("latin-1"))
    (tmp_path / "neighbour.py").write_text(f'"""{"of another module " * 20}"""')
    monkeypatch.syspath_prepend(tmp_path)
    assert read_docstrings(["lonely"]).train == (told,)
