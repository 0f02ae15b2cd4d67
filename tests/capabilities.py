"""The capability matrix of the docs: what works with what, as tests that record a `capability` found it.

`pytest tests/finetuning --store-capabilities` writes docs/results/capabilities.json: weighing, capability, status (yes, no), test.
"""

from collections.abc import Callable
from typing import Any

from tests import ROOT
from tokenry.core.io.files import write_json

STORED = ROOT / "docs" / "results" / "capabilities.json"
CAPABILITIES = (
    "full", "LoRA", "multi-turn", "packing", "padding-free", "accumulation", "checkpointing", "bfloat16", "DDP", "FSDP2",
)  # fmt: skip


def weighings() -> dict[str, Callable[[], Any]]:
    """The makers of all registered weighings by the name of their class, in the order of the registry."""
    from tokenry.finetuning.weighing import WEIGHINGS

    return {entry.method.__name__: entry.make for entry in WEIGHINGS.values()}


class CapabilityMatrix:
    """Collects outcomes, from all test workers, and stores them when the session ends."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], dict[str, str]] = {}

    def pytest_runtest_logreport(self, report):
        for name, value in report.user_properties:
            if name == "capability" and report.when == "call":
                status = "yes" if report.passed else "no"
                self.cells[tuple(value)] = {"status": status, "test": report.nodeid}

    def pytest_sessionfinish(self):
        if self.cells:
            write_json(STORED, self.rows())

    def rows(self) -> list[dict[str, str]]:
        """What is stored: weighing by weighing, as far as they were tested."""
        return [
            {"weighing": weighing, "capability": capability, **self.cells[weighing, capability]}
            for weighing in weighings()
            for capability in CAPABILITIES
            if (weighing, capability) in self.cells
        ]
