"""Scaling laws: loss from compute and tokens per parameter, error from loss, both with intervals, and what to train under a budget.

`fit_loss_law` fits cheap runs, `LossLaw.predict` and `.interval` extrapolate, `fit_error_law` and `predict_downstream` go on to downstream
error, `plan_training` chooses a size and a number of tokens, `compute_multiplier` compares two methods; `load_testbed` has 104 models.
"""

from tokenry.pretraining.scaling.error_law import (
    ErrorLaw,
    downstream_interval,
    fit_error_law,
    predict_downstream,
)
from tokenry.pretraining.scaling.loss_law import LossLaw, fit_loss_law, relative_error
from tokenry.pretraining.scaling.planner import (
    TrainingOptions,
    TrainingRun,
    compute_multiplier,
    iso_loss_multiplier,
    plan_training,
)
from tokenry.pretraining.scaling.power_curve import PowerCurve, fit_power_law
from tokenry.pretraining.scaling.testbed import ScalingRuns, load_testbed, published_fit_runs, published_runs

__all__ = [
    "ErrorLaw",
    "LossLaw",
    "PowerCurve",
    "ScalingRuns",
    "TrainingOptions",
    "TrainingRun",
    "compute_multiplier",
    "downstream_interval",
    "fit_error_law",
    "fit_loss_law",
    "fit_power_law",
    "iso_loss_multiplier",
    "load_testbed",
    "plan_training",
    "predict_downstream",
    "published_fit_runs",
    "published_runs",
    "relative_error",
]
