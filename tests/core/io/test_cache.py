import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from tokenry.core.errors import UserError
from tokenry.core.io.cache import build_once, cache_folder


def test_the_cache_is_where_tokenry_cache_says(monkeypatch, tmp_path):
    monkeypatch.setenv("TOKENRY_CACHE", str(tmp_path))
    assert cache_folder("models", "a") == tmp_path / "models" / "a"


def test_without_a_word_of_the_user_the_cache_follows_the_xdg_convention(monkeypatch, tmp_path):
    monkeypatch.delenv("TOKENRY_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "tokenry"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert cache_folder() == tmp_path / "home" / ".cache" / "tokenry"


def test_what_is_there_is_not_built_again(tmp_path):
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "file").write_text("content")

    first = build_once(tmp_path / "deep" / "result", build)
    second = build_once(tmp_path / "deep" / "result", build)
    assert first == second == tmp_path / "deep" / "result"
    assert (first / "file").read_text() == "content"
    assert len(built) == 1


def test_a_build_that_fails_leaves_nothing_that_looks_complete(tmp_path):
    def build(folder: Path) -> None:
        (folder / "half").write_text("…")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        build_once(tmp_path / "result", build)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    leftover = tmp_path / ".result.partial"
    leftover.mkdir()
    (leftover / "half").write_text("…")
    folder = build_once(tmp_path / "result", lambda folder: (folder / "whole").write_text("x") and None)
    assert [path.name for path in folder.iterdir()] == ["whole"]
    assert not leftover.exists()


def _count_builds(folder: Path, log: Path) -> None:
    def build(partial: Path) -> None:
        with log.open("a") as file:
            file.write("built\n")
        time.sleep(0.3)  # long enough for the others to come and find nothing complete
        (partial / "file").write_text("content")

    build_once(folder, build)


def test_two_processes_at_once_build_it_once(tmp_path):
    context = get_context("fork")
    processes = [
        context.Process(target=_count_builds, args=(tmp_path / "result", tmp_path / "log")) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert (tmp_path / "log").read_text() == "built\n"


def test_too_little_space_is_said_before_anything_is_built(tmp_path):
    with pytest.raises(UserError, match=r"MB of space left and 1000000000000 MB are needed.*TOKENRY_CACHE"):
        build_once(tmp_path / "result", lambda folder: pytest.fail("built"), needed_bytes=10**18)


def test_a_disk_that_fills_up_is_named(tmp_path):
    def build(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\).*TOKENRY_CACHE"):
        build_once(tmp_path / "result", build)


def test_a_cache_that_is_a_file_is_named(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match=r"cache cannot be written"):
        build_once(tmp_path / "cache" / "result", lambda folder: None)
