"""The settings of a transplant.

tokenadapt   its pieces and its neighbours among all old tokens        retok          the mean of its pieces
focus        a sparse mean of the shared tokens                        omp            a sparse combination of the shared tokens
mean         every such token has the mean row                         random         every such token has a random row
"""

import math
from dataclasses import dataclass

from tokenry.core.errors import UserError, require_at_least, require_fraction, require_one_of

METHODS = ("tokenadapt", "retok", "focus", "omp", "mean", "random")
MATCHES = ("bytes", "string")
FALLBACKS = ("mean", "random")


@dataclass(frozen=True)
class TransplantSettings:
    """Everything that new rows depend on; the defaults are the paper's, except for `match` and `fallback`.

    Attributes:
        method: how new tokens are composed: tokenadapt, retok, focus, omp, mean or random.
        temperature: temperature of TokenAdapt's softmaxes.
        top_k: number of TokenAdapt's neighbours.
        global_weight: weight of the neighbours against the pieces: 0 for pieces alone, 1 for neighbours alone.
        threshold: cosine below which a neighbour does not count.
        atoms: number of tokens that omp combines.
        pad_to_multiple_of: the number of rows of the new matrices is a multiple of this.
        match: what makes tokens equal: their `bytes`, or how they are written (`string`: the released code).
        fallback: rows of tokens that cannot be composed: the `mean` row, or N(mean, std) (`random`: the released code).
        leave_one_out: maximum number of shared tokens that are composed as if they were new, to measure how well it works; 0 for none.
        seed: random seed of random rows, and of the tokens that are left out.
    """

    method: str = "tokenadapt"
    temperature: float = 0.3
    top_k: int = 3
    global_weight: float = 0.3
    threshold: float = 0.0
    atoms: int = 64
    pad_to_multiple_of: int = 128
    match: str = "bytes"
    fallback: str = "mean"
    leave_one_out: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        require_one_of(self.method, METHODS, "method")
        require_one_of(self.match, MATCHES, "match")
        require_one_of(self.fallback, FALLBACKS, "fallback")
        require_fraction(self.global_weight, "global_weight")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"temperature must be 0 or more, got {self.temperature}.")
        if math.isnan(self.threshold):
            raise UserError(f"threshold must be a cosine, got {self.threshold}.")
        require_at_least(0, leave_one_out=self.leave_one_out)
        require_at_least(1, top_k=self.top_k, atoms=self.atoms, pad_to_multiple_of=self.pad_to_multiple_of)

    @property
    def random_rows(self) -> bool:
        """Whether rows of tokens that cannot be composed are drawn at random."""
        return self.method == "random" or (self.fallback == "random" and self.method != "mean")

    @property
    def needs_space(self) -> bool:
        """Whether tokens are compared in an auxiliary space."""
        return self.method in ("tokenadapt", "focus", "omp")
