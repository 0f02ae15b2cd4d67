"""How a text compares with human texts of yours: a calibrated detector with a bounded rate of false positives."""

ORDER = ("calibrate", "score", "report")
