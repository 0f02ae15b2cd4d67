"""Silence for the progress bars and notices of libraries, while tokenry shows its own progress.

It stands where a verb, a job of the app or a recipe is run, never in one of them.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType

ENVIRONMENT = {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", "DATASETS_VERBOSITY": "error"}
"""What the command line sets, unless the user did: libraries read it when they are imported."""


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Switch the bars of datasets and transformers off, and what they log below an error; restored afterwards.

    Neither is imported for this: one that a verb imports only later reads the environment.
    """
    with ExitStack() as restored:
        if "transformers" in sys.modules:
            from transformers.utils import logging

            bars = logging.disable_progress_bar, logging.enable_progress_bar
            _silence(restored, logging, logging.is_progress_bar_enabled(), *bars)
        if "datasets" in sys.modules:
            import datasets

            bars = datasets.disable_progress_bars, datasets.enable_progress_bars
            _silence(restored, datasets.logging, not datasets.are_progress_bars_disabled(), *bars)
        yield


def _silence(
    restored: ExitStack,
    logging: ModuleType,
    has_bars: bool,
    disable: Callable[[], None],
    enable: Callable[[], None],
) -> None:
    restored.callback(logging.set_verbosity, logging.get_verbosity())
    logging.set_verbosity_error()
    if has_bars:
        disable()
        restored.callback(enable)
