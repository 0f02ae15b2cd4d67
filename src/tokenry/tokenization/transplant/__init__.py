"""Another tokenizer for a model, without training: the published path of `tokenry.tokenization.transfer.transplant`."""

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenry.tokenization.transfer.transplant import *  # noqa: F403
    from tokenry.tokenization.transfer.transplant import __all__ as __all__

sys.modules[__name__] = importlib.import_module("tokenry.tokenization.transfer.transplant")
