"""A text as a file of windows: one line of JSON that says what is needed to read it again, then the bits of all windows.

A file names the M1 that it was coded with by a fingerprint, and refuses any other; it holds hashes of its bits and of the text, so that a torn or
damaged file is told from a wrong model. What is coded or decoded is kept in a folder beside the file until the whole is there.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenry.core.errors import UserError
from tokenry.core.io.files import atomic_write, read_json, write_json
from tokenry.core.io.progress import Progress
from tokenry.core.io.workspace import Workspace, fingerprint
from tokenry.tokenization.equal_info.bit_tokens import bits_of
from tokenry.tokenization.equal_info.codec import CodedWindows, EqualInfoCodec
from tokenry.tokenization.equal_info.units import ByteUnits, SymbolUnits

ENDING = ".eqi"
_MAGIC = b"tokenry equal-info 1\n"
_BATCH = 16
"""Parts that are coded together, and kept together when a job is interrupted."""


@dataclass(frozen=True)
class CodedHeader:
    """What a file says about itself.

    Attributes:
        m1: fingerprint of the M1.
        model: its name, as it was given.
        units: what a symbol is: bytes or tokens.
        window_bits: bits of a window.
        precision: bits of the frequencies.
        end_of_window: where windows end.
        lengths: symbols of each part of the text.
        windows: windows of each part.
        escaped: windows of each part that end as by `delay`.
        n_bytes: bytes of the text.
        text: hash of the text.
        code: hash of the bits.
    """

    m1: str
    model: str
    units: str
    window_bits: int
    precision: int
    end_of_window: str
    lengths: list[int]
    windows: list[int]
    escaped: list[list[int]]
    n_bytes: int
    text: str
    code: str

    def require(self, codec: EqualInfoCodec, units: SymbolUnits, path: Path) -> None:
        """Raise `UserError` unless this is what the codec reads."""
        if self.units != units.name:
            raise UserError(
                f"{path} was coded in {self.units}, and this codec reads {units.name}: set the same units."
            )
        for name in ("window_bits", "precision", "end_of_window"):
            coded, given = getattr(self, name), getattr(codec, name)
            if coded != given:
                raise UserError(
                    f"{path} was coded with {name}={coded}, and this codec has {name}={given}: set the same."
                )
        if self.m1 != codec.m1.fingerprint:
            raise UserError(
                f"{path} was coded with another M1 ({self.model}, fingerprint {self.m1}) than this one (fingerprint "
                f"{codec.m1.fingerprint}): give the same model, and for an n-gram the same text that it was counted on."
            )


def encode_file(
    data: bytes,
    path: Path,
    codec: EqualInfoCodec,
    units: SymbolUnits | None = None,
    model: str = "",
    progress: Progress = lambda what, share: None,
) -> CodedHeader:
    """Code a text into a file; every batch of parts is decoded and compared before it counts.

    Args:
        data: the text.
        path: the new file.
        codec: the codec; not a greedy one, which does not give a text back.
        units: what a symbol is; bytes by default.
        model: name of M1, for whoever reads the file.
        progress: told the share that is done.

    Raises:
        UserError: an empty text, a greedy codec, a file that exists, or windows that decode to something else.
    """
    units = units or ByteUnits()
    if not data:
        raise UserError("the text is empty: there is nothing to code.")
    if codec.end_of_window == "greedy":
        raise UserError(
            "greedy windows do not give a text back: code files with end_of_window='free' or 'delay'."
        )
    require_new_file(path)
    parts = units.parts(data)
    settings = {**_settings(codec, units), "text": fingerprint(data, length=24)}
    found = _in_batches(
        path,
        settings,
        [parts[first : first + _BATCH] for first in range(0, len(parts), _BATCH)],
        lambda batch, told: [
            [list(part.codes), list(part.escaped)] for part in codec.encode_many(batch, progress=told)
        ],
        lambda share: progress("coding", share),
    )
    bits = bits_of([code for codes, _ in found for code in codes], codec.window_bits)
    code = np.packbits(bits).tobytes()
    header = CodedHeader(
        codec.m1.fingerprint,
        model,
        units.name,
        codec.window_bits,
        codec.precision,
        codec.end_of_window,
        [len(part) for part in parts],
        [len(codes) for codes, _ in found],
        [escaped for _, escaped in found],
        len(data),
        settings["text"],
        fingerprint(code, length=24),
    )
    with atomic_write(path) as partial:
        partial.write_bytes(_MAGIC + json.dumps(header.__dict__).encode() + b"\n" + code)
    shutil.rmtree(_folder(path))
    return header


def read_coded_file(path: Path) -> tuple[CodedHeader, list[CodedWindows]]:
    """Read the header and the windows of each part.

    Raises:
        UserError: no such file, another kind of file, or one that is cut off or damaged.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name a coded file.") from error
    if not content.startswith(_MAGIC):
        raise UserError(
            f"{path} is no file of equal-info windows: `tokenry tokenizer equal-info encode` writes one."
        )
    line, _, code = content[len(_MAGIC) :].partition(b"\n")
    try:
        header = CodedHeader(**json.loads(line))
        expected = -(-sum(header.windows) * header.window_bits // 8)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is cut off or damaged: its header cannot be read.") from error
    if len(code) < expected:
        raise UserError(f"{path} is cut off: it has {len(code):,} of {expected:,} bytes of windows.")
    if fingerprint(code, length=24) != header.code:
        raise UserError(f"{path} is damaged: its bits are not those that were written.")
    bits = np.unpackbits(np.frombuffer(code, np.uint8))[: sum(header.windows) * header.window_bits]
    rows = np.pad(bits.reshape(-1, header.window_bits), ((0, 0), (-header.window_bits % 8, 0)))
    codes = iter([int.from_bytes(row.tobytes(), "big") for row in np.packbits(rows, axis=1)])
    parts = [
        CodedWindows(header.window_bits, tuple(next(codes) for _ in range(windows)), length, tuple(escaped))
        for windows, length, escaped in zip(header.windows, header.lengths, header.escaped, strict=True)
    ]
    return header, parts


def decode_file(
    path: Path,
    output: Path,
    codec: EqualInfoCodec,
    units: SymbolUnits | None = None,
    progress: Progress = lambda what, share: None,
) -> bytes:
    """Write the text of a coded file to a new file, and return it.

    Raises:
        UserError: a file that is damaged or that was coded otherwise, a text that comes out differently, or an output that exists.
    """
    units = units or ByteUnits()
    header, parts = read_coded_file(path)
    header.require(codec, units, path)
    require_new_file(output)
    found = _in_batches(
        output,
        {**_settings(codec, units), "code": header.code},
        [parts[first : first + _BATCH] for first in range(0, len(parts), _BATCH)],
        lambda batch, told: [units.text(symbols).hex() for symbols in codec.decode_many(batch)],
        lambda share: progress("decoding", share),
    )
    data = bytes.fromhex("".join(found))
    if fingerprint(data, length=24) != header.text:
        raise UserError(
            f"{path} decodes to another text than was coded: M1 answers otherwise on this machine; run it in float64 on the same device."
        )
    with atomic_write(output) as partial:
        partial.write_bytes(data)
    shutil.rmtree(_folder(output))
    return data


def require_new_file(path: Path) -> None:
    """Raise `UserError` where a file is there already."""
    if Path(path).exists():
        raise UserError(f"{path} exists already: name another file, so that nothing is overwritten.")


def _settings(codec: EqualInfoCodec, units: SymbolUnits) -> dict[str, Any]:
    return {
        "m1": codec.m1.fingerprint,
        "units": units.name,
        "window_bits": codec.window_bits,
        "precision": codec.precision,
        "end_of_window": codec.end_of_window,
    }


def _folder(path: Path) -> Path:
    return Path(path).with_name(f"{Path(path).name}.parts")


def _in_batches(
    path: Path,
    settings: dict[str, Any],
    batches: Sequence[Sequence[Any]],
    work: Callable[[Sequence[Any], Callable[[float], None]], list[Any]],
    told: Callable[[float], None],
) -> list[Any]:
    """Do the batches that are not done yet; what is done is kept in a folder beside the file."""
    folder = _folder(path)
    Workspace(folder, settings, "settings.json").claim(
        f"{folder} holds parts of another text, model or setting: remove it, or name another file."
    )
    found: list[Any] = []
    for number, batch in enumerate(batches):

        def within(share: float | int, begun: int = number) -> None:
            told((begun + share) / len(batches))

        within(0.0)
        done = folder / f"{number:06d}.json"
        if not done.exists():
            write_json(done, work(batch, within))
        found += read_json(done)
    told(1.0)
    return found
