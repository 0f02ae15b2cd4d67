"""Silence for the progress bars and notices of libraries, while tokenry shows its own progress."""

from collections.abc import Iterator
from contextlib import contextmanager

import datasets
from transformers.utils import logging as transformers_logging


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Switch the bars of datasets and transformers off, and what they log below an error; restored afterwards."""
    bars = transformers_logging.is_progress_bar_enabled(), not datasets.are_progress_bars_disabled()
    levels = transformers_logging.get_verbosity(), datasets.logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    transformers_logging.set_verbosity_error()
    datasets.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(levels[0])
        datasets.logging.set_verbosity(levels[1])
        if bars[0]:
            transformers_logging.enable_progress_bar()
        if bars[1]:
            datasets.enable_progress_bars()
