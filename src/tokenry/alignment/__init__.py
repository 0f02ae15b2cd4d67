"""What each token or response is worth in preference and reinforcement learning, and what a preference loss says."""

from typing import TYPE_CHECKING

from tokenry.alignment.compiled_loss import CompiledLoss, compile_loss
from tokenry.alignment.credit import CREDITS, GroupCredit, MixedCredit, Rollouts, TokenCredit, make_credit
from tokenry.alignment.formulas import Formula, parse_formula
from tokenry.alignment.hapo import (
    EntropyStats,
    HeterogeneousCredit,
    adaptive_clip_range,
    entropy_stats,
    normalised_entropy,
    redistribute_advantage,
    sampling_temperature,
    token_level_group_advantage,
)
from tokenry.alignment.preference_logic import (
    NAMED_LOSSES,
    Lattice,
    Structure,
    add_reference,
    decompile,
    describe,
    lattice,
    name_of,
    relation,
    witness,
)
from tokenry.alignment.tempo import PrefixTree, Tempo, branch_report, prefix_tree_values, tempo_advantages
from tokenry.core.lazy import export_lazily

if TYPE_CHECKING:
    from tokenry.alignment.credit_trainer import TokenCreditTrainer

__all__ = [
    "CREDITS",
    "NAMED_LOSSES",
    "CompiledLoss",
    "EntropyStats",
    "Formula",
    "GroupCredit",
    "HeterogeneousCredit",
    "Lattice",
    "MixedCredit",
    "PrefixTree",
    "Rollouts",
    "Structure",
    "Tempo",
    "TokenCredit",
    "TokenCreditTrainer",
    "adaptive_clip_range",
    "add_reference",
    "branch_report",
    "compile_loss",
    "decompile",
    "describe",
    "entropy_stats",
    "lattice",
    "make_credit",
    "name_of",
    "normalised_entropy",
    "parse_formula",
    "prefix_tree_values",
    "redistribute_advantage",
    "relation",
    "sampling_temperature",
    "tempo_advantages",
    "token_level_group_advantage",
    "witness",
]

export_lazily(__name__)
