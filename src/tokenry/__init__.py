"""tokenry: the craft of tokens."""

import sys

from tokenry._moved import MovedModules

__version__ = "1.0.0"

sys.meta_path.insert(0, MovedModules())
