"""How a model is pretrained: its objective, its schedule, its size, and how flat its minimum is."""

from tokenry.pretraining.continual import (
    ContinualCallback,
    ContinualConfig,
    ContinualReport,
    TokenBlocks,
    block_losses,
    compare_schedules,
    continue_pretraining,
)
from tokenry.pretraining.replay import ReplayMixer, compute_equivalent, packed_blocks, replay_counts
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

__all__ = [
    "ContinualCallback",
    "ContinualConfig",
    "ContinualReport",
    "InfiniteSchedule",
    "InfiniteScheduler",
    "RateSchedule",
    "ReplayMixer",
    "RewarmSchedule",
    "RewarmScheduler",
    "ScheduleCallback",
    "TokenBlocks",
    "block_losses",
    "compare_schedules",
    "compute_equivalent",
    "continue_pretraining",
    "infinite_lr",
    "packed_blocks",
    "register_schedules",
    "replay_counts",
    "rewarm_lr",
]
