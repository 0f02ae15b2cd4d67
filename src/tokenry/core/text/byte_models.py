"""A model of bytes, whatever it is made of: texts of bytes go in, log-probabilities of the byte that comes next come out.

    next_byte_logprobs([b"", b"the c"])     # two rows of 257 log-probabilities in nats: the 256 bytes, then the end of the text

A tokenized language model that is read byte by byte, an ensemble of several and a counted model are all of this kind.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

END = 256
"""The place of the end of the text in a next-byte distribution, after the 256 bytes."""


@runtime_checkable
class NextByteModel(Protocol):
    """What is asked of a model of bytes."""

    def next_byte_logprobs(self, text: Sequence[bytes], /) -> Float[np.ndarray, "texts 257"]:
        """Log-probabilities in nats of the 256 bytes and the end of each text, one row each; every row is normalised."""
        ...
