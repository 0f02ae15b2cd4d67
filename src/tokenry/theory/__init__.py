"""Why tokenizers help, and what a causal mask forbids: quantities that can be computed exactly, and small experiments beside them."""

from tokenry.theory.dictionaries import BlockTokenizer, BPETokenizer, GreedyTokenizer, LZWTokenizer
from tokenry.theory.disentangled_transformer import DisentangledTransformer, causal_mask
from tokenry.theory.exact_law import TokenLaw, exact_token_law
from tokenry.theory.inverse_permutation import (
    InversePermutationTask,
    PermutationResult,
    PermutationTraining,
    best_causal_accuracy,
    best_causal_mse,
    best_scratch_mse,
    solve_inverse_permutation,
    train_inverse_permutation,
)
from tokenry.theory.likeliest_dictionary import LikeliestTokenizer
from tokenry.theory.markov_experiment import MarkovCurve, MarkovExperimentConfig, markov_experiment
from tokenry.theory.markov_source import MarkovSource
from tokenry.theory.reachability import Reachability, dependency_matrix, reachable
from tokenry.theory.real_tokenizer import RealTokenizer
from tokenry.theory.reordering_prompts import ReorderingTask, exact_matches, reorder_by_text
from tokenry.theory.unigram_report import (
    UnigramReport,
    crossfitted_unigram_ce,
    heldout_bigram_ce,
    heldout_unigram_ce,
    lzw_bound,
    lzw_epsilon,
    share_done,
    unigram_report,
)

__all__ = [
    "BPETokenizer",
    "BlockTokenizer",
    "DisentangledTransformer",
    "GreedyTokenizer",
    "InversePermutationTask",
    "LZWTokenizer",
    "LikeliestTokenizer",
    "MarkovCurve",
    "MarkovExperimentConfig",
    "MarkovSource",
    "PermutationResult",
    "PermutationTraining",
    "Reachability",
    "RealTokenizer",
    "ReorderingTask",
    "TokenLaw",
    "UnigramReport",
    "best_causal_accuracy",
    "best_causal_mse",
    "best_scratch_mse",
    "causal_mask",
    "crossfitted_unigram_ce",
    "dependency_matrix",
    "exact_matches",
    "exact_token_law",
    "heldout_bigram_ce",
    "heldout_unigram_ce",
    "lzw_bound",
    "lzw_epsilon",
    "markov_experiment",
    "reachable",
    "reorder_by_text",
    "share_done",
    "solve_inverse_permutation",
    "train_inverse_permutation",
    "unigram_report",
]
