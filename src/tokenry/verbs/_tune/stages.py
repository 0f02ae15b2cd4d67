"""The cost of a training run, counted in forward passes over one token.

a pass over data     1 per token
training             3 per token (forward, and backward through activations and weights)
"""

from trl import SFTConfig

from tokenry.finetuning import TokenWeighing
from tokenry.verbs._tune.training_length import trained_epochs

TRAINED = 3.0
_READ_BEFORE_TRAINING = {"history_nll", "base_nll", "reference_nll", "out_of_fold_nll"}


def training_cost(weighing: TokenWeighing, args: SFTConfig, tokens: int, samples: int) -> float:
    """Estimate what a training run costs.

    Args:
        weighing: the weighing; each of its static signals costs a pass.
        args: training arguments, for the length.
        tokens: number of tokens in the data.
        samples: number of samples in the data.
    """
    selects = weighing.share < 1
    passes = len(weighing.needs & _READ_BEFORE_TRAINING) if selects else 0
    folds = TRAINED * weighing.cross_fit.epochs if selects and "out_of_fold_nll" in weighing.needs else 0.0
    return (passes + folds + TRAINED * trained_epochs(args, samples)) * tokens
