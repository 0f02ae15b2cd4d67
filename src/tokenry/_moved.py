"""Modules that moved are found at their old paths, with a warning, for two minor versions: until 1.2.

An old path is the same module as the new one, not a copy: a class imported from either is one class.
"""

import importlib
import sys
import warnings
from collections.abc import Iterable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

ROOMS = {
    "core.tensors": "alignment attention choices gate losses modes patching",
    "core.text": "bits_per_byte byte_level byte_pairs digit_groups number_tokens round_trip",
    "core.io": "cache descriptions files progress registry settings",
}
MOVED = {
    f"core.{module}": f"{room}.{module}" for room, modules in ROOMS.items() for module in modules.split()
} | {
    "compression.vision.apply": "compression.apply",
    "compression.vision.flops": "compression.flops",
    "compression.vision.plan": "compression.plan",
    "compression.vision.precision": "compression.precision",
    "compression.vision.reducer": "compression.reducer",
    "core.precision": "compression.precision",
    "core.texts": "core.text.passages",
    "decoding.model_identity": "models.identity",
    "evaluation.generation": "core.tensors.generation",
    "finetuning.conversations": "core.chat.conversations",
    "finetuning.reading": "core.chat.reading",
    "finetuning.rows": "core.chat.rows",
    "finetuning.signals": "core.tensors.signals",
    "finetuning.template": "core.chat.template",
    "evaluation.encoders.token_statistics": "core.text.token_statistics",
    "tokenization.token_counts": "core.text.token_counts",
}
LENT = {
    "tokenization.transplant": "tokenization.transfer.transplant",
    "tokenization.zett": "tokenization.transfer.zett",
}
"""Packages that stay at their published paths beside the rooms they stand in: only their parts have moved."""


class MovedModules(MetaPathFinder, Loader):
    """Finds a module at its old path, before anyone looks for a file there."""

    def find_spec(
        self, fullname: str, path: Iterable[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Describe a module that moved; nothing is known about others."""
        return ModuleSpec(fullname, self) if new_path(fullname) else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module at the new path in the place of the old one."""
        old = module.__name__
        new = new_path(old)
        assert new is not None
        warnings.warn(
            f"{old} has moved to {new}; the old path goes with 1.2.", DeprecationWarning, stacklevel=2
        )
        sys.modules[old] = importlib.import_module(new)


def new_path(old: str) -> str | None:
    """The path at which a module stands today, if it has moved."""
    name = old.removeprefix("tokenry.")
    head, _, rest = name.rpartition(".")
    if name in MOVED:
        return f"tokenry.{MOVED[name]}"
    return f"tokenry.{LENT[head]}.{rest}" if head in LENT else None
