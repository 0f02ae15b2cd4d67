"""Another tokenizer for a model, without training: the published path of `tokenry.tokenization.transfer.transplant`."""

from tokenry.tokenization.transfer.transplant import *  # noqa: F403
from tokenry.tokenization.transfer.transplant import __all__ as __all__
