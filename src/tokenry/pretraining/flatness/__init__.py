"""How flat the minimum of a pre-trained model is: traces of Hessian and Fisher, wider models of the same function, exact languages."""

from typing import TYPE_CHECKING

from tokenry.core.lazy import export_lazily

if TYPE_CHECKING:
    from tokenry.pretraining.flatness.draws import DrawConfig, TraceEstimate
    from tokenry.pretraining.flatness.enlarge import enlarge_transformer
    from tokenry.pretraining.flatness.fisher import fisher_trace
    from tokenry.pretraining.flatness.hmm import HMM
    from tokenry.pretraining.flatness.languages import (
        LinearProbe,
        PopulationLoss,
        linear_probe,
        population_loss,
    )
    from tokenry.pretraining.flatness.operator import hessian_operator
    from tokenry.pretraining.flatness.pcfg import PCFG
    from tokenry.pretraining.flatness.trace import hessian_trace, hvp, top_hessian_eigenvalue
    from tokenry.pretraining.flatness.tracking import FlatnessCallback, FlatnessRecord

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
