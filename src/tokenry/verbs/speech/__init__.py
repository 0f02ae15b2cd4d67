"""Speech as continuous tokens of a language model: training, and speaking."""

ORDER = ("train", "say")
