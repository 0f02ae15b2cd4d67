"""Every test runs with the shapes in `tokenry`'s signatures checked (jaxtyping + beartype)."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tests import signatures

signatures.install("tokenry")

import pytest  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

torch.set_num_threads(1)
# A property that asks for no number of its own is tried on forty inputs; a busy machine is no reason to fail.
settings.register_profile(
    "tokenry", max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tokenry")

from tests import ROOT  # noqa: E402
from tests.capabilities import CapabilityMatrix  # noqa: E402
from tests.frozen import FrozenFields  # noqa: E402

IS_LOWEST = f"transformers=={transformers.__version__}\n" in (ROOT / "constraints-lowest.txt").read_text(
    encoding="utf-8"
)


def pytest_addoption(parser):
    parser.addoption(
        "--store-capabilities",
        action="store_true",
        help="write docs/results/capabilities.json from what passes",
    )
    parser.addoption(
        "--store-names",
        action="store_true",
        help="write the public names, options and fields of results into tests/public_api.txt",
    )


def pytest_configure(config):
    config.pluginmanager.register(FrozenFields(config.getoption("--store-names")), "frozen_fields")
    if config.getoption("--store-capabilities") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(CapabilityMatrix())


NEEDS_NEWER = ("install a newer", "which this trl does not have", "than token credit knows: install")


def pytest_runtest_setup(item):
    for mark in item.iter_markers("newer"):
        if IS_LOWEST:
            pytest.skip(f"needs a newer {mark.args[0]} than the lowest")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With the lowest versions of the libraries, what tokenry itself says needs newer ones is skipped with that sentence."""
    report = yield
    said = "" if call.excinfo is None else str(call.excinfo.value)
    if report.failed and IS_LOWEST and any(words in said for words in NEEDS_NEWER):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), item.location[1], f"Skipped: {said.splitlines()[0]}")
    return report


def pytest_collection_finish():
    """Every training run collects garbage; looking through all imported modules each time would take most of a test."""
    gc.collect()
    gc.freeze()
