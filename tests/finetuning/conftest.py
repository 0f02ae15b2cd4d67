import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def _imported_modules_are_not_garbage():
    """Every training run collects garbage once; looking through all imported modules each time would take most of a test."""
    import tests.tiny.training  # noqa: F401

    gc.collect()
    gc.freeze()
