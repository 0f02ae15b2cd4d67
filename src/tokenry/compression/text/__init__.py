"""Carry fewer tokens of a text: of a prompt, of code, of a long document."""

from tokenry.compression.text.code_merge import (
    CodeMergeCollator,
    GroupedCode,
    MemberScorer,
    Merged,
    SubwordMerging,
    flops_saved,
    merge_flops,
    merge_tokens,
    unmerge,
)
from tokenry.compression.text.code_units import Unit, group_tokens, semantic_units

__all__ = [
    "CodeMergeCollator",
    "GroupedCode",
    "MemberScorer",
    "Merged",
    "SubwordMerging",
    "Unit",
    "flops_saved",
    "group_tokens",
    "merge_flops",
    "merge_tokens",
    "semantic_units",
    "unmerge",
]
