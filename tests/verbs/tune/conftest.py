"""Two records to draw: one with everything in it, and the least that a run can leave."""

import pytest

from tests.desk import desk
from tests.recipes.conftest import tokenizer
from tokenry.core.stats import Estimate, Paired
from tokenry.verbs._tune.records import ClassShare, Comparison, Example, Histogram, ReportToken, Run

__all__ = ["desk", "tokenizer"]


def token(text: str, weight: float | None = None, **signals: float) -> ReportToken:
    return ReportToken(
        text=text, learnable=weight is not None, weight=weight, token_class="number", signals=signals
    )


def run(name: str, **fields: object) -> Run:
    least = {"name": name, "weighing": name.title(), "tokens_learned": 6312.0, "share_kept": 0.613}
    return Run.model_validate({**least, "steps": 75, "seconds_per_step": 1.27, **fields})


def make_example() -> Example:
    return Example(
        title="sample 17",
        tokens=[
            token("Add:\n", nll=1.5),
            token(" seven", 1.0, nll=0.25, history_nll=2.125, progress=1.875, prompt_attention=0.375),
            token(" eight", 0.0, nll=3.5, history_nll=3.25, progress=-0.25, prompt_attention=0.125),
            token(" nine", 0.1, nll=4.75, history_nll=5.5, progress=0.75, prompt_attention=0.0625),
        ],
    )


def make_comparison() -> Comparison:
    measured = {
        "peak_memory_mb": 2561.0,
        "held_out_nll": Estimate(value=0.334, standard_error=0.017, samples=90),
        "bits_per_byte": 0.1387,
        "accuracy": Estimate(value=0.311, standard_error=0.069, samples=45),
        "curves": [
            {"step": float(s), "loss": 2.0 / s, "nll_kept": 1.0 / s, "grad_norm": 1.0} for s in (1, 2, 4)
        ],
        "share_by_class": {
            "number": ClassShare(tokens=400, kept=300.0),
            "noise": ClassShare(tokens=100, kept=20.5),
        },
        "histograms": {"nll": Histogram(edges=[0.0, 1.0, 2.0], kept=[211, 97], dropped=[13, 41])},
        "examples": [make_example()],
    }
    better = Paired(to="full", difference=-0.0526, standard_error=0.0072, samples=89)
    unclear = Paired(to="full", difference=0.0073, standard_error=0.0061, samples=88)
    return Comparison(
        model="SmolLM2-135M-Instruct",
        data="demo",
        created="2026-11-24",
        untrained_nll=Estimate(value=2.165, standard_error=0.064, samples=90),
        settings={"learning_rate": 0.00037, "target_modules": ["q_proj", "v_proj"], "trusted": None},
        environment={"torch": "2.13.0"},
        runs=[
            run("full", **measured),
            run("cleaned", **measured, paired=better),
            run("random", **measured, paired=unclear),
        ],
    )


@pytest.fixture
def comparison() -> Comparison:
    return make_comparison()


@pytest.fixture
def least() -> Comparison:
    return Comparison(
        model="m", data="d", created="today", settings={}, environment={}, runs=[run("the only run")]
    )
