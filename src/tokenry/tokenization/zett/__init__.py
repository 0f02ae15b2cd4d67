"""Another tokenizer for a model, by a hypernetwork: the published path of `tokenry.tokenization.transfer.zett`."""

from tokenry.tokenization.transfer.zett import *  # noqa: F403
from tokenry.tokenization.transfer.zett import __all__ as __all__
