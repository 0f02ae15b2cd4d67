"""Two models, and a rule that decides from the small one's log-probabilities which of them answers."""

ORDER = ("fit", "curve", "run")
