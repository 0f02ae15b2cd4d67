"""The one meaning of "±" and of "shown": estimates, paired differences and tests, the bootstrap, verdicts, curve fits, the Fréchet distance.

±        standard error over the sampling units (items, texts, seeds)
shown    the 95 % interval of a difference lies above what the claim asks for
"""

from tokenry.core.stats.bootstrap import bootstrap_estimate, resampled_totals, times_drawn
from tokenry.core.stats.estimate import (
    Estimate,
    Values,
    estimate_of_correlation,
    estimate_of_mean,
    estimate_of_trimmed_mean,
    independent_difference,
    paired_difference,
    ratio_estimate,
)
from tokenry.core.stats.fits import Fit, fit_nonnegative, profile, residual_bootstrap, residual_draws
from tokenry.core.stats.frechet import FrechetDistance, FrechetStats, frechet_distance, frechet_estimate
from tokenry.core.stats.intervals import bootstrap, clopper_pearson, index_matrix
from tokenry.core.stats.paired import Paired
from tokenry.core.stats.paired_tests import (
    McNemar,
    holm,
    items_needed,
    mcnemar,
    mcnemar_p,
    mcnemar_power,
    not_worse_p,
    paired_share_difference,
)
from tokenry.core.stats.separable import (
    SeparableCurve,
    SeparableFit,
    fit_samples,
    fit_separable,
    scan_minimum,
)
from tokenry.core.stats.verdicts import (
    FEWEST_ITEMS,
    FEWEST_SEEDS,
    VERDICTS,
    Verdict,
    absent,
    all_of,
    exactly,
    more_often,
    shown,
)

__all__ = [
    "FEWEST_ITEMS",
    "FEWEST_SEEDS",
    "VERDICTS",
    "Estimate",
    "Fit",
    "FrechetDistance",
    "FrechetStats",
    "McNemar",
    "Paired",
    "SeparableCurve",
    "SeparableFit",
    "Values",
    "Verdict",
    "absent",
    "all_of",
    "bootstrap",
    "bootstrap_estimate",
    "clopper_pearson",
    "estimate_of_correlation",
    "estimate_of_mean",
    "estimate_of_trimmed_mean",
    "exactly",
    "fit_nonnegative",
    "fit_samples",
    "fit_separable",
    "frechet_distance",
    "frechet_estimate",
    "holm",
    "independent_difference",
    "index_matrix",
    "items_needed",
    "mcnemar",
    "mcnemar_p",
    "mcnemar_power",
    "more_often",
    "not_worse_p",
    "paired_difference",
    "paired_share_difference",
    "profile",
    "ratio_estimate",
    "resampled_totals",
    "residual_bootstrap",
    "residual_draws",
    "scan_minimum",
    "shown",
    "times_drawn",
]
