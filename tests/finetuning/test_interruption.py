import os
import signal
import threading
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from tokenry.finetuning import interruption
from tokenry.finetuning.interruption import StopAfterStep


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def _interrupts_are_heard():
    """A job in the background of a shell is born deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def after_a_step(tmp_path):
    """What a trainer is told at the end of a step."""

    def end_step(stop):
        control = TrainerControl()
        stop.on_step_end(TrainingArguments(output_dir=str(tmp_path)), TrainerState(), control)
        return control.should_save, control.should_training_stop

    return end_step


def test_a_step_ends_in_nothing_without_an_interrupt(after_a_step):
    with StopAfterStep() as stop:
        assert after_a_step(stop) == (False, False)


def test_an_interrupt_saves_and_stops_at_the_end_of_the_step(after_a_step):
    told = []
    with StopAfterStep(told=lambda: told.append(True)) as stop:
        interrupt()
        assert told == [True]
        assert after_a_step(stop) == (True, True)
    assert stop.stopped


def test_an_interrupt_of_another_process_saves_and_stops_at_the_end_of_the_same_step(
    after_a_step, monkeypatch
):
    ranks = SimpleNamespace(
        is_initialized=lambda: True,
        ReduceOp=SimpleNamespace(MAX="max"),
        all_reduce=lambda asked, op: asked.fill_(1.0),  # the other rank was asked to
    )
    monkeypatch.setattr(interruption, "dist", ranks)
    with StopAfterStep() as stop:
        assert not stop.stopped
        assert after_a_step(stop) == (True, True)
        assert stop.stopped
        with pytest.raises(KeyboardInterrupt):
            interrupt()


def test_an_interrupt_after_the_last_step_is_heard(tmp_path):
    with StopAfterStep() as stop:
        interrupt()
        stop.on_train_end(TrainingArguments(output_dir=str(tmp_path)), TrainerState(), TrainerControl())
    assert stop.stopped


def test_a_second_interrupt_stops_at_once():
    with StopAfterStep():
        interrupt()
        with pytest.raises(KeyboardInterrupt):
            interrupt()


def test_interrupts_are_what_they_were_afterwards_also_when_training_fails():
    with pytest.raises(RuntimeError), StopAfterStep():
        raise RuntimeError
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_outside_of_the_main_thread_nothing_is_listened_to():
    def listen():
        with StopAfterStep():
            heard.append(signal.getsignal(signal.SIGINT) is signal.default_int_handler)

    heard = []
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == [True]
