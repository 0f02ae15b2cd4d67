"""Why tokenizers help: what a unigram model over tokens costs on text whose entropy is known."""

from tokenry.theory.dictionaries import BlockTokenizer, BPETokenizer, GreedyTokenizer, LZWTokenizer
from tokenry.theory.exact_law import TokenLaw, exact_token_law
from tokenry.theory.likeliest_dictionary import LikeliestTokenizer
from tokenry.theory.markov_experiment import MarkovCurve, MarkovExperimentConfig, markov_experiment
from tokenry.theory.markov_source import MarkovSource
from tokenry.theory.real_tokenizer import RealTokenizer
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
    "GreedyTokenizer",
    "LZWTokenizer",
    "LikeliestTokenizer",
    "MarkovCurve",
    "MarkovExperimentConfig",
    "MarkovSource",
    "RealTokenizer",
    "TokenLaw",
    "UnigramReport",
    "crossfitted_unigram_ce",
    "exact_token_law",
    "heldout_bigram_ce",
    "heldout_unigram_ce",
    "lzw_bound",
    "lzw_epsilon",
    "markov_experiment",
    "share_done",
    "unigram_report",
]
