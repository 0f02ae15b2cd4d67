"""One job at a time, stopped at its next step, and never one that takes the others with it."""

import gc
import threading
import time
import weakref

import pytest
from transformers.utils import logging

from tests.app.test_forms import ended
from tokenry.app import jobs as module
from tokenry.app.jobs import Jobs, QueuedJob
from tokenry.core.errors import UserError


class Gate:
    """Work that goes on until it is let through."""

    def __init__(self):
        self.opened, self.steps = threading.Event(), []

    def __call__(self, progress):
        while not self.opened.wait(0.01):
            progress("waiting at the gate", 0.5)
            self.steps.append(time.monotonic())


def test_jobs_run_one_after_the_other_and_know_how_many_come_before():
    jobs, first, second = Jobs(), Gate(), Gate()
    one, two, three = (
        jobs.add(QueuedJob(first)),
        jobs.add(QueuedJob(second)),
        jobs.add(QueuedJob(lambda progress: None)),
    )
    while not first.steps:
        time.sleep(0.01)
    assert [jobs.ahead(job) for job in (two, three)] == [1, 2]
    assert (one.state, two.state, second.steps) == ("running", "waiting", [])
    first.opened.set()
    second.opened.set()
    assert [ended(job).state for job in (one, two, three)] == ["done"] * 3


def test_what_a_job_held_in_cycles_is_given_back_before_the_next_begins():
    jobs, held = Jobs(), []

    def load(progress):
        model = Gate()
        model.itself = model
        held.append(weakref.ref(model))

    gc.disable()
    try:
        jobs.add(QueuedJob(load))
        assert ended(jobs.add(QueuedJob(lambda progress: held.append(held[0]())))).state == "done"
    finally:
        gc.enable()
    assert held[1] is None


def test_a_job_that_is_stopped_ends_at_its_next_step_and_one_that_waits_at_once():
    jobs, gate = Jobs(), Gate()
    running, waiting = jobs.add(QueuedJob(gate)), jobs.add(QueuedJob(gate))
    while not gate.steps:
        time.sleep(0.01)
    waiting.stop()
    running.stop()
    assert ended(running).state == "stopped"
    assert ended(waiting).said == "stopped before it began."


def test_a_job_that_nobody_watches_stops(monkeypatch):
    monkeypatch.setattr(module, "UNWATCHED_SECONDS", 0.05)
    job = Jobs().add(QueuedJob(Gate()))
    while not job.is_over:
        time.sleep(0.01)
    assert job.state == "stopped"


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        (UserError("share must be in (0, 1], got 2."), "refused", "share must be in (0, 1], got 2."),
        (ZeroDivisionError("by zero"), "failed", "ZeroDivisionError: by zero"),
        (KeyboardInterrupt("stopped after step 3"), "stopped", "stopped after step 3"),
        (
            ModuleNotFoundError("No module named 'gguf'", name="gguf"),
            "refused",
            "the package gguf is needed and not installed: `pip install 'tokenry[demo]'`.",
        ),
        (
            FileNotFoundError(2, "No such file or directory", "there.txt"),
            "refused",
            "there.txt cannot be used (No such file or directory): name another path.",
        ),
    ],
)
def test_every_end_is_one_sentence_and_the_next_job_runs(error, state, said):
    def work(progress):
        raise error

    jobs = Jobs()
    job = ended(jobs.add(QueuedJob(work)))
    assert (job.state, job.said) == (state, said)
    assert ended(jobs.add(QueuedJob(lambda progress: None))).state == "done"


def test_too_many_jobs_are_refused(monkeypatch):
    monkeypatch.setattr(module, "MOST_WAITING", 2)
    jobs, gate = Jobs(), Gate()
    running = jobs.add(QueuedJob(gate))
    while not gate.steps:
        time.sleep(0.01)
    waiting = [jobs.add(QueuedJob(gate)), jobs.add(QueuedJob(gate))]
    with pytest.raises(UserError, match=r"^2 jobs wait already: try again when some of them are done\.$"):
        jobs.add(QueuedJob(gate))
    for job in (*waiting, running):
        job.stop()


def test_what_a_verb_notes_is_kept_with_its_job():
    import logging

    def work(progress):
        logging.getLogger("tokenry.verbs").warning("the text is longer than %d tokens.", 8)

    assert ended(Jobs().add(QueuedJob(work))).notes == ["the text is longer than 8 tokens."]


def test_a_job_tells_its_stage():
    job = QueuedJob(lambda progress: None)
    job.report("training · step 3", 0.25)
    assert (job.stage, job.share) == ("training · step 3", 0.25)


def test_every_job_runs_in_silence():
    before, levels = logging.get_verbosity(), []
    logging.set_verbosity_info()
    try:
        ended(Jobs().add(QueuedJob(lambda progress: levels.append(logging.get_verbosity()))))
    finally:
        logging.set_verbosity(before)
    assert levels == [logging.ERROR]
