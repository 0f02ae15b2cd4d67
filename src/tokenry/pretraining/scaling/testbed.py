"""The 104 models of the paper, which ship with the library: sizes, tokens, losses on 8 texts and errors on 46 tasks.

Three training sets (C4, RedPajama, RefinedWeb), 0.011 to 6.9 billion parameters, 5 to 640 tokens per parameter; losses in nats per token
with the GPT-NeoX tokenizer. testbed104.csv is from mlfoundations/scaling (MIT, testbed104.LICENSE).

Source: Language models scale reliably with over-training and on downstream tasks (arXiv 2403.08540).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from tokenry.core.errors import require_one_of
from tokenry.core.io.reading import read_csv

TRAINING_SETS: Mapping[str, str] = {"c4": "c4_original", "redpajama": "rpj", "refinedweb": "rw_original"}
"""Names of the training sets, and what they are called in the data."""
VOCAB_SIZE = 50_432
TASKS_OF_SUBSET = (
    "arc_easy",
    "bigbench_cs_algorithms",
    "bigbench_dyck_languages",
    "bigbench_novel_concepts",
    "bigbench_operators",
    "bigbench_qa_wikidata",
    "boolq",
    "commonsense_qa",
    "copa",
    "coqa",
    "hellaswag",
    "hellaswag_zeroshot",
    "lambada_openai",
    "piqa",
    "pubmed_qa_labeled",
    "squad",
    "winograd",
)
"""The 17 tasks whose mean error is `avg_subset`: those on which models of 0.154 billion parameters have left chance."""
_TEXT = ("name", "dataset_name", "model_name", "qk_norm")
# The runs that the paper fits: the smallest size of each shape at M = 20, and the smallest of all over-trained.
_AT_20 = (10_569_312, 78_914_048, 153_677_376, 411_616_256)
_OVER_TRAINED = (_AT_20[0], 320)
_FOR_ERRORS = (1_439_795_200, 20)


@dataclass(frozen=True)
class ScalingRuns:
    """Runs that a law is fitted to, or judged on.

    Attributes:
        names: what the runs are called.
        N: parameters, embeddings included.
        M: tokens per parameter.
        loss: validation loss in nats per token.
        error: 1 − accuracy, averaged over tasks; None where it was not measured.
    """

    names: tuple[str, ...]
    N: Float[ndarray, "runs"]
    M: Float[ndarray, "runs"]
    loss: Float[ndarray, "runs"]
    error: Float[ndarray, "runs"] | None = None

    @property
    def compute(self) -> Float[ndarray, "runs"]:
        """Training FLOPs, 6 N D."""
        return 6 * self.M * self.N**2

    def where(self, chosen: Bool[ndarray, "runs"]) -> "ScalingRuns":
        """The chosen runs."""
        names = tuple(name for name, taken in zip(self.names, chosen.tolist(), strict=True) if taken)
        error = None if self.error is None else self.error[chosen]
        return ScalingRuns(names, self.N[chosen], self.M[chosen], self.loss[chosen], error)


def load_testbed() -> dict[str, ndarray]:
    """All columns of the 104 models by their names in the data."""
    return {name: column.copy() for name, column in _testbed().items()}


def published_runs(
    training_set: str, validation: str = "c4_val", downstream: str = "avg_subset"
) -> ScalingRuns:
    """The models of one training set.

    Args:
        training_set: what they were trained on.
        validation: text whose loss is taken.
        downstream: whose error is taken: `avg` (46 tasks), `avg_subset` (the 17 on which small models leave chance), or one task.

    Raises:
        UserError: no such training set, text or task.
    """
    columns = _testbed()
    require_one_of(training_set, tuple(TRAINING_SETS), "training_set")
    require_one_of(validation, validation_texts(), "validation")
    require_one_of(downstream, downstream_tasks(), "downstream")
    of_set = columns["dataset_name"] == TRAINING_SETS[training_set]
    return ScalingRuns(
        tuple(columns["name"][of_set].tolist()),
        *(columns[name][of_set] for name in ("N", "tok_mult", f"loss_{validation}", f"err_{downstream}")),
    )


def published_fit_runs(runs: ScalingRuns, errors: bool = False) -> Bool[ndarray, "runs"]:
    """Which models of a training set the paper fits: five for the loss, one more for the error."""
    chosen = np.isin(runs.N, _AT_20) & (runs.M == 20)
    for size, multiplier in (_OVER_TRAINED, *([_FOR_ERRORS] if errors else [])):
        chosen |= (size == runs.N) & (multiplier == runs.M)
    return chosen


def validation_texts() -> tuple[str, ...]:
    """Texts on which the losses were measured."""
    return tuple(
        name.removeprefix("loss_")
        for name in _testbed()
        if name.startswith("loss_") and not name.startswith(("loss_lower_", "loss_upper_"))
    )


def downstream_tasks() -> tuple[str, ...]:
    """Tasks on which the errors were measured, and their two averages."""
    return tuple(name.removeprefix("err_") for name in _testbed() if name.startswith("err_"))


@cache
def _testbed() -> dict[str, ndarray]:
    names, rows = read_csv(Path(__file__).with_name("testbed104.csv"))
    return {
        name: np.array([row[name] if name in _TEXT else float(row[name]) for _, row in rows])
        for name in names
    }
