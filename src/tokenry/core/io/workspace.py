"""What a run was made from, as a hash, and folders that belong to one run: they resume it, and refuse any other.

fingerprint({"steps": 6}, *texts, weights, length=16)     # '0f3c…': another text, weight or setting gives another
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenry.core.errors import UserError
from tokenry.core.io.files import read_json, write_json


def fingerprint(*parts: Any, length: int = 64) -> str:
    """Hash settings, texts and arrays into `length` hexadecimal digits (SHA-256); what counts as a part says `absorb`."""
    digits: str = absorb(hashlib.sha256(), *parts).hexdigest()
    return digits[:length]


def absorb(digest: Any, *parts: Any) -> Any:
    """Feed parts to a hash of `hashlib`, and return it.

    A text ends with a zero byte, so that ("ab", "c") is not ("a", "bc"). Bytes, arrays and tensors count as their memory, without
    shape or type. Anything else counts as JSON with sorted keys; what JSON does not know, by its `str`.
    """
    for part in parts:
        digest.update(_data(part))
    return digest


def _data(part: Any) -> bytes:
    if isinstance(part, bytes):
        return part
    if isinstance(part, str):
        return part.encode(errors="surrogatepass") + b"\0"
    if hasattr(part, "detach"):  # a tensor; asked so that plain settings are hashed without loading torch
        part = part.detach().cpu().numpy()
    if hasattr(part, "tobytes"):
        return bytes(part.tobytes())
    return json.dumps(part, sort_keys=True, default=str).encode()


@dataclass(frozen=True)
class Workspace:
    """A folder whose content belongs to one set of settings, which stand in a JSON file in it.

    Attributes:
        folder: the folder; it need not exist.
        settings: everything that its content depends on, as JSON knows it.
        file: name of the file that holds the settings.
    """

    folder: Path
    settings: Mapping[str, Any]
    file: str

    @property
    def is_begun(self) -> bool:
        """Whether the folder belongs to any settings yet."""
        return self._path.exists()

    def claim(self, refusal: str) -> None:
        """Make the folder belong to the settings; where it does already, what it holds is resumed.

        Args:
            refusal: the sentence for a folder that belongs to other settings.

        Raises:
            UserError: the folder belongs to other settings, or cannot be written.
        """
        settings = json.loads(json.dumps(self.settings))
        if self.is_begun and read_json(self._path) != settings:
            raise UserError(refusal)
        write_json(self._path, settings)

    @property
    def _path(self) -> Path:
        return Path(self.folder) / self.file
