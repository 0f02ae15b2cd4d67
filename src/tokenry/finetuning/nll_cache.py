"""Per-token NLL of a data set under one model, computed once and kept on disk for every later run.

The cache is content-addressed: an entry is found by the hash of a sample's ids and targets, the file by the fingerprint of
the model's weights. So it is never read for another tokenizer, template, maximum length or model, and does not depend on
order, packing or filtering; missing entries are computed and added.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tokenry.core.errors import UserError
from tokenry.core.io.files import atomic_write
from tokenry.core.io.workspace import absorb

FORMAT = "tokenry-nll-1"


@dataclass(frozen=True)
class IndexedSample:
    """A sample of the training set: its ids, which of them are targets, and the index of every token (mostly a range, which needs no memory)."""

    input_ids: np.ndarray
    targets: np.ndarray
    token_index: np.ndarray | range
    key: bytes = field(init=False)

    def __post_init__(self) -> None:
        digest = absorb(
            hashlib.blake2b(digest_size=16),
            np.asarray(self.input_ids, dtype=np.int64),
            np.packbits(self.targets),
        )
        object.__setattr__(self, "key", digest.digest())

    @property
    def target_index(self) -> Tensor:
        """The indices of the targets in the training set."""
        return self.index[torch.from_numpy(self.targets)]

    @property
    def index(self) -> Tensor:
        """The index of every token in the training set."""
        return torch.as_tensor(np.asarray(self.token_index))


class NllCache:
    """The known losses of one model, in `folder`; several runs can share it.

    Raises:
        UserError: the file is damaged, or holds the losses of another model.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.path = folder / f"nll-{fingerprint}.safetensors"
        self.fingerprint = fingerprint
        self.entries = self._read() if self.path.exists() else {}

    def get(self, sample: IndexedSample) -> Tensor | None:
        """The NLL in nats of the targets of `sample`, in order; None if it is not known."""
        return self.entries.get(sample.key)

    def add(self, samples: Sequence[IndexedSample], losses: Sequence[Tensor]) -> None:
        """Add the losses of new samples and write the file, keeping what another run has added in the meantime."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock"):
                if self.path.exists():
                    self.entries = {**self._read(), **self.entries}
                self.entries.update({sample.key: loss for sample, loss in zip(samples, losses, strict=True)})
                self._write()
        except (OSError, SafetensorError) as error:  # safetensors reports a full disk in its own way
            raise UserError(
                f"the history cache {self.path.parent} cannot be written ({error}): free some space or name another folder "
                "in the environment variable TOKENRY_CACHE."
            ) from error

    def _write(self) -> None:
        keys = torch.from_numpy(np.frombuffer(b"".join(self.entries), dtype=np.uint8).reshape(-1, 16).copy())
        lengths = torch.tensor([loss.numel() for loss in self.entries.values()])
        values = torch.cat(list(self.entries.values())) if self.entries else torch.empty(0)
        with atomic_write(self.path) as partial:
            save_file(
                {"keys": keys, "lengths": lengths, "values": values.float()},
                partial,
                metadata={"format": FORMAT, "model": self.fingerprint},
            )

    def _read(self) -> dict[bytes, Tensor]:
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                keys, lengths, values = (file.get_tensor(name) for name in ("keys", "lengths", "values"))
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"the history cache {self.path} is damaged ({error}): delete it, and it will be computed again."
            ) from error
        if metadata.get("format") != FORMAT or metadata.get("model") != self.fingerprint:
            raise UserError(
                f"the history cache {self.path} holds the losses of another model ({metadata.get('model', 'unknown')}, "
                f"not {self.fingerprint}): delete it, and it will be computed again."
            )
        return dict(zip((key.tobytes() for key in keys.numpy()), values.split(lengths.tolist()), strict=True))
