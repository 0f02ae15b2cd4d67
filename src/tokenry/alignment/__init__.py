"""What each token or response is worth in preference and reinforcement learning, and what a preference loss says."""

from typing import TYPE_CHECKING

from tokenry.core.lazy import export_lazily

if TYPE_CHECKING:
    from tokenry.alignment.compiled_loss import CompiledLoss, compile_loss
    from tokenry.alignment.credit import CREDITS, GroupCredit, MixedCredit, Rollouts, TokenCredit, make_credit
    from tokenry.alignment.credit_trainer import TokenCreditTrainer
    from tokenry.alignment.entanglement import PairGradients, PredictedStep, pair_gradients, predict_step
    from tokenry.alignment.entanglement_callback import EntanglementCallback, EntanglementRecord
    from tokenry.alignment.formulas import Formula, parse_formula
    from tokenry.alignment.hapo import HeterogeneousCredit
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
    from tokenry.alignment.preference_losses import (
        PreferenceLoss,
        Responses,
        margin_multipliers,
        multipliers,
        preference_loss,
    )
    from tokenry.alignment.preference_pairs import PreferencePair, collate_pairs, encode_pair
    from tokenry.alignment.preference_trainer import PreferenceTrainer
    from tokenry.alignment.preference_updates import (
        normalised_multipliers,
        normalised_preference_update,
        repaired_multipliers,
        sparse_preference_loss,
    )
    from tokenry.alignment.tempo import PrefixTree, Tempo, branch_report, prefix_tree_values, tempo_advantages
    from tokenry.alignment.token_gradients import token_gradient_cosine, token_gradient_products

__all__ = [
    "CREDITS",
    "NAMED_LOSSES",
    "CompiledLoss",
    "EntanglementCallback",
    "EntanglementRecord",
    "Formula",
    "GroupCredit",
    "HeterogeneousCredit",
    "Lattice",
    "MixedCredit",
    "PairGradients",
    "PredictedStep",
    "PreferenceLoss",
    "PreferencePair",
    "PreferenceTrainer",
    "PrefixTree",
    "Responses",
    "Rollouts",
    "Structure",
    "Tempo",
    "TokenCredit",
    "TokenCreditTrainer",
    "add_reference",
    "branch_report",
    "collate_pairs",
    "compile_loss",
    "decompile",
    "describe",
    "encode_pair",
    "lattice",
    "make_credit",
    "margin_multipliers",
    "multipliers",
    "name_of",
    "normalised_multipliers",
    "normalised_preference_update",
    "pair_gradients",
    "parse_formula",
    "predict_step",
    "preference_loss",
    "prefix_tree_values",
    "relation",
    "repaired_multipliers",
    "sparse_preference_loss",
    "tempo_advantages",
    "token_gradient_cosine",
    "token_gradient_products",
    "witness",
]

export_lazily(__name__)
