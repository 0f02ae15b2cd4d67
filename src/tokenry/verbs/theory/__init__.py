"""What tokenizers and causal masks can and cannot do, computed."""

ORDER = ("markov", "permutation", "reach")
