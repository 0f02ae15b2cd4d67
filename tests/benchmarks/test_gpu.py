"""Benchmarks for a GPU skip by themselves, store what is measured at once, and are run in the order of their worth within their time."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from tests import ROOT

sys.path.insert(0, str(ROOT / "benchmarks/gpu"))
import _gpu
import run_all

del sys.path[:2]

MEASURED = [_gpu.Result(name=name, ratio=1.0, target=1.0, holds=True, settings={}) for name in ("one", "two")]


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Runs a benchmark named `made_up` that is not smoked; the results that are stored then."""
    monkeypatch.setattr(sys, "argv", ["made_up.py"])
    monkeypatch.setattr(_gpu, "RESULTS", tmp_path)

    def called(measure):
        _gpu.run(measure, "made_up.py", gigabytes=3, seconds=5)
        stored = tmp_path / "made_up.json"
        return json.loads(stored.read_text()) if stored.exists() else []

    return called


@pytest.fixture
def card(monkeypatch):
    monkeypatch.setattr(_gpu, "what_lacks", lambda gigabytes: None)
    monkeypatch.setattr(_gpu, "card", lambda device: {"device": "a card"})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_card_it_says_what_it_needs_and_skips(call, capsys):
    assert call(lambda device, smoke: pytest.fail("it was measured")) == []
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "made_up needs a CUDA device with 3 GB free, for about 5 s",
        "made_up is skipped: there is no CUDA device",
    ]


def test_with_too_little_memory_it_skips(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2_000_000_000, 80_000_000_000))
    assert _gpu.what_lacks(3) == "2 GB are free"
    assert _gpu.what_lacks(1) is None


def test_each_result_is_stored_as_soon_as_it_is_there(call, card):
    def measure(device, smoke):
        assert (device.type, smoke) == ("cuda", False)
        yield MEASURED[0]
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        call(measure)
    (stored,) = call(lambda device, smoke: MEASURED[:1])
    assert stored["name"] == "one"
    assert stored["settings"]["device"] == "a card"


def test_what_was_measured_before_a_failure_stays(call, card, tmp_path):
    def measure(device, smoke):
        yield from MEASURED
        raise RuntimeError("the card is lost")

    with pytest.raises(RuntimeError):
        call(measure)
    assert [result["name"] for result in json.loads((tmp_path / "made_up.json").read_text())] == [
        "one",
        "two",
    ]


def test_every_script_is_in_the_order():
    found = {path.stem for path in (ROOT / "benchmarks/gpu").glob("*.py") if not path.name.startswith("_")}
    assert found == {*run_all.ORDER, "run_all"}


def test_what_the_scripts_say_they_take_fits_into_the_time_of_all():
    said = [
        re.search(r"seconds=(\d+)\)", (ROOT / f"benchmarks/gpu/{name}.py").read_text())[1]
        for name in run_all.ORDER
    ]
    assert sum(map(int, said)) <= run_all.MOST_SECONDS


@pytest.fixture
def clock(monkeypatch):
    """The seconds that each script takes, by its name; what was started, and how long it was given."""
    now, started = [0.0], {}
    seconds = dict.fromkeys(run_all.ORDER, 100)

    def run(command, timeout):
        name = run_all.Path(command[1]).stem
        started[name] = timeout
        now[0] += min(seconds[name], timeout)
        if seconds[name] > timeout:
            raise subprocess.TimeoutExpired(command, timeout)
        return SimpleNamespace(returncode=int(name == "rtd_base"))

    fake = SimpleNamespace(run=run, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(run_all, "subprocess", fake)
    monkeypatch.setattr(run_all.time, "monotonic", lambda: now[0])
    return started


def test_the_time_of_all_is_kept_and_a_failure_costs_the_others_nothing(clock, capsys):
    assert run_all.main() == 1
    assert list(clock) == list(run_all.ORDER[:5])
    assert clock["flow_head"] == run_all.MOST_SECONDS - 400
    said = capsys.readouterr().err
    assert "flow_head was cut off" in said
    assert "left out, since 480 s are over: byte_lm, rl_step, decoding" in said
    assert "failed: rtd_base" in said
