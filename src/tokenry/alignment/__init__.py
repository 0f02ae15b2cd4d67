"""What each token or response is worth in preference and reinforcement learning, and what a preference loss says."""

from typing import TYPE_CHECKING

from tokenry.alignment.compiled_loss import CompiledLoss, compile_loss
from tokenry.alignment.credit import CREDITS, GroupCredit, MixedCredit, Rollouts, TokenCredit, make_credit
from tokenry.alignment.formulas import Formula, parse_formula
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
    "Formula",
    "GroupCredit",
    "Lattice",
    "MixedCredit",
    "PrefixTree",
    "Rollouts",
    "Structure",
    "Tempo",
    "TokenCredit",
    "TokenCreditTrainer",
    "add_reference",
    "branch_report",
    "compile_loss",
    "decompile",
    "describe",
    "lattice",
    "make_credit",
    "name_of",
    "parse_formula",
    "prefix_tree_values",
    "relation",
    "tempo_advantages",
    "witness",
]

export_lazily(__name__)
