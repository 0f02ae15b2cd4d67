"""How a model is pretrained: its objective, its schedule, its size, and how flat its minimum is."""

from tokenry.pretraining.scaling import (
    ErrorLaw,
    LossLaw,
    PowerCurve,
    TrainingOptions,
    TrainingRun,
    compute_multiplier,
    downstream_interval,
    fit_error_law,
    fit_loss_law,
    fit_power_law,
    load_testbed,
    plan_training,
    predict_downstream,
    relative_error,
)

__all__ = [
    "ErrorLaw",
    "LossLaw",
    "PowerCurve",
    "TrainingOptions",
    "TrainingRun",
    "compute_multiplier",
    "downstream_interval",
    "fit_error_law",
    "fit_loss_law",
    "fit_power_law",
    "load_testbed",
    "plan_training",
    "predict_downstream",
    "relative_error",
]
