"""Every test runs with the shapes in `tokenry`'s signatures checked (jaxtyping + beartype)."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tests import signatures

signatures.install("tokenry")

import torch  # noqa: E402

torch.set_num_threads(1)

from tests.capabilities import CapabilityMatrix  # noqa: E402
from tests.frozen import FrozenFields  # noqa: E402


def pytest_addoption(parser):
    parser.addoption(
        "--store-capabilities",
        action="store_true",
        help="write docs/results/capabilities.json from what passes",
    )
    parser.addoption(
        "--store-names",
        action="store_true",
        help="write the public names and the fields of results into tests/frozen",
    )


def pytest_configure(config):
    config.pluginmanager.register(FrozenFields(config.getoption("--store-names")), "frozen_fields")
    if config.getoption("--store-capabilities") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(CapabilityMatrix())


def pytest_collection_finish():
    """Every training run collects garbage; looking through all imported modules each time would take most of a test."""
    gc.collect()
    gc.freeze()
