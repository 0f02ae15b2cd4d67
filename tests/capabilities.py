"""The capability matrix of the docs: what works with what, as tests that record a `capability` found it.

`pytest tests/finetuning --store-capabilities` writes docs/results/capabilities.json: weighing, capability, status (yes, no), test.
"""

from pathlib import Path

from tokenry.core.io.files import write_json

STORED = Path(__file__).parents[1] / "docs" / "results" / "capabilities.json"
WEIGHINGS = (
    "AllTokens", "RandomTokens", "SSToken", "Rho1", "TokenCleaning", "CrossFitted", "SmallLoss", "DatasetWeights", "PromptResponseWeights",
)  # fmt: skip
CAPABILITIES = (
    "full", "LoRA", "multi-turn", "packing", "padding-free", "accumulation", "checkpointing", "bfloat16", "DDP", "FSDP2",
)  # fmt: skip


class CapabilityMatrix:
    """Collects outcomes, from all test workers, and stores them when the session ends."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], dict[str, str]] = {}

    def pytest_runtest_logreport(self, report):
        for name, value in report.user_properties:
            if name == "capability" and report.when == "call" and value[0] in WEIGHINGS:
                status = "yes" if report.passed else "no"
                self.cells[tuple(value)] = {"status": status, "test": report.nodeid}

    def pytest_sessionfinish(self):
        if self.cells:
            write_json(
                STORED,
                [
                    {"weighing": weighing, "capability": capability, **self.cells[weighing, capability]}
                    for weighing in WEIGHINGS
                    for capability in CAPABILITIES
                    if (weighing, capability) in self.cells
                ],
            )
