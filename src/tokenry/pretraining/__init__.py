"""How a model is pretrained: its objective, its schedule, its size, and how flat its minimum is."""

from typing import TYPE_CHECKING

from tokenry.core.lazy import export_lazily

if TYPE_CHECKING:
    from tokenry.pretraining.flatness import (
        HMM,
        PCFG,
        DrawConfig,
        FlatnessCallback,
        FlatnessRecord,
        LinearProbe,
        PopulationLoss,
        TraceEstimate,
        enlarge_transformer,
        fisher_trace,
        hessian_operator,
        hessian_trace,
        hvp,
        linear_probe,
        population_loss,
        top_hessian_eigenvalue,
    )

__all__ = [
    "HMM",
    "PCFG",
    "DrawConfig",
    "FlatnessCallback",
    "FlatnessRecord",
    "LinearProbe",
    "PopulationLoss",
    "TraceEstimate",
    "enlarge_transformer",
    "fisher_trace",
    "hessian_operator",
    "hessian_trace",
    "hvp",
    "linear_probe",
    "population_loss",
    "top_hessian_eigenvalue",
]

export_lazily(__name__)
