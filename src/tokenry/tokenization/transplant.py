"""Give a language model another tokenizer without training: copy what both vocabularies share, compose the rest of old rows.

    shared token        its old row, unchanged
    any other token     Σ weights · old rows, by one of METHODS; the same weights for the input and the output matrix
    what stays empty    N(mean, std) of the old matrix (special tokens without a counterpart, padding rows)

Source: TokenAdapt (arXiv 2505.09738), algorithm 1; for the other methods see `focus`, `matching_pursuit`, `embedding_heuristics`.
"""
