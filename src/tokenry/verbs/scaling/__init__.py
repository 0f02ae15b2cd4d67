"""How large and how long: loss and error of expensive runs from cheap ones, with intervals, and what a budget is best spent on."""

ORDER = ("fit", "predict", "plan", "compare")
