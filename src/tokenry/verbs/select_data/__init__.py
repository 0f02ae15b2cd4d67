"""Which documents of a corpus teach most: measured with models of yours, learned by a classifier, applied to all of it."""

ORDER = ("strength", "train", "filter")
