"""Models of windows that the tests of equal-info windows share."""

import numpy as np

from tokenry.tokenization.equal_info import FunctionWindows, WittenBellModel

TEXT = b"the cat sat on the mat. the dog sat on the log. the rat ran to the cat and the hat.\n" * 4
NGRAM = WittenBellModel(TEXT, order=4)


def fixed(frequencies):
    """The same distribution for every symbol, or one by the symbol before and a last one for the first."""
    table = np.array(frequencies)
    if table.ndim == 1:
        return FunctionWindows(lambda window: table)
    return FunctionWindows(lambda window: table[window[-1] if window else -1])
