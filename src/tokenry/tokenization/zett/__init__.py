"""Another tokenizer for a model, by a hypernetwork: the published path of `tokenry.tokenization.transfer.zett`."""

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenry.tokenization.transfer.zett import *  # noqa: F403
    from tokenry.tokenization.transfer.zett import __all__ as __all__

sys.modules[__name__] = importlib.import_module("tokenry.tokenization.transfer.zett")
