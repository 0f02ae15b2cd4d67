"""How a model is pretrained: its objective, its schedule, its size, and how flat its minimum is."""

from typing import TYPE_CHECKING

from tokenry.core.lazy import export_lazily

if TYPE_CHECKING:
    from tokenry.pretraining.continual import (
        ContinualCallback,
        ContinualConfig,
        ContinualReport,
        TokenBlocks,
        block_losses,
        compare_schedules,
        continue_pretraining,
    )
    from tokenry.pretraining.documents import split_documents
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
    from tokenry.pretraining.long_summaries import attach_decoder, summarise
    from tokenry.pretraining.longformer import extend_positions, longformer_config, longformer_rtd
    from tokenry.pretraining.masked_token_trainer import MaskedTokenTrainer
    from tokenry.pretraining.masking import (
        MaskedBatch,
        mask_tokens,
        rtd_labels,
        rtd_loss,
        sample_replacements,
    )
    from tokenry.pretraining.released_optimizer import ElectraAdamW, official_lr
    from tokenry.pretraining.replaced_token_trainer import ReplacedTokenTrainer
    from tokenry.pretraining.replaced_tokens import (
        ReplacedTokenConfig,
        ReplacedTokenOutput,
        ReplacedTokenPretrainer,
    )
    from tokenry.pretraining.replay import ReplayMixer, compute_equivalent, packed_blocks, replay_counts
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
    from tokenry.pretraining.schedules import (
        InfiniteSchedule,
        InfiniteScheduler,
        RateSchedule,
        RewarmSchedule,
        RewarmScheduler,
        ScheduleCallback,
        infinite_lr,
        register_schedules,
        rewarm_lr,
    )
    from tokenry.pretraining.shared_embeddings import generator_config
    from tokenry.pretraining.sliding_window import (
        SlidingWindow,
        sliding_window_attention,
        sliding_window_mask,
    )

__all__ = [
    "HMM",
    "PCFG",
    "ContinualCallback",
    "ContinualConfig",
    "ContinualReport",
    "DrawConfig",
    "ElectraAdamW",
    "ErrorLaw",
    "FlatnessCallback",
    "FlatnessRecord",
    "InfiniteSchedule",
    "InfiniteScheduler",
    "LinearProbe",
    "LossLaw",
    "MaskedBatch",
    "MaskedTokenTrainer",
    "PopulationLoss",
    "PowerCurve",
    "RateSchedule",
    "ReplacedTokenConfig",
    "ReplacedTokenOutput",
    "ReplacedTokenPretrainer",
    "ReplacedTokenTrainer",
    "ReplayMixer",
    "RewarmSchedule",
    "RewarmScheduler",
    "ScheduleCallback",
    "SlidingWindow",
    "TokenBlocks",
    "TraceEstimate",
    "TrainingOptions",
    "TrainingRun",
    "attach_decoder",
    "block_losses",
    "compare_schedules",
    "compute_equivalent",
    "compute_multiplier",
    "continue_pretraining",
    "downstream_interval",
    "enlarge_transformer",
    "extend_positions",
    "fisher_trace",
    "fit_error_law",
    "fit_loss_law",
    "fit_power_law",
    "generator_config",
    "hessian_operator",
    "hessian_trace",
    "hvp",
    "infinite_lr",
    "linear_probe",
    "load_testbed",
    "longformer_config",
    "longformer_rtd",
    "mask_tokens",
    "official_lr",
    "packed_blocks",
    "plan_training",
    "population_loss",
    "predict_downstream",
    "register_schedules",
    "relative_error",
    "replay_counts",
    "rewarm_lr",
    "rtd_labels",
    "rtd_loss",
    "sample_replacements",
    "sliding_window_attention",
    "sliding_window_mask",
    "split_documents",
    "summarise",
    "top_hessian_eigenvalue",
]

export_lazily(__name__)
