"""What the verbs of bytes share: the text that they are asked about, and how a language model is read as one of bytes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tokenry.core.errors import UserError
from tokenry.core.plans import argument, option
from tokenry.verbs._hardware import StoredHardware

if TYPE_CHECKING:
    from tokenry.decoding.byte_level.byte_ensemble import ByteEnsemble
    from tokenry.decoding.byte_level.byte_lm import ByteLM


@dataclass(frozen=True)
class BytePrompt:
    """The text, from one of three places.

    Attributes:
        text: the text; or give it with --hex or --file.
        hex: the text as bytes, such as 636166C3: it may end inside a character.
        file: file with the text.
    """

    text: str | None = argument(None)
    hex: str | None = option(None, metavar="DIGITS")
    file: Path | None = option(None, metavar="FILE")

    def read(self) -> bytes:
        """The bytes of the text."""
        given = [place for place in (self.text, self.hex, self.file) if place is not None]
        if len(given) != 1:
            raise UserError(
                f"give the text once, as an argument, with --hex or with --file; got it {len(given)} times."
            )
        if self.file is not None:
            if not self.file.is_file():
                raise UserError(f"the file {self.file} does not exist.")
            return self.file.read_bytes()
        if self.hex is None:
            return (self.text or "").encode()
        try:
            return bytes.fromhex(self.hex)
        except ValueError as error:
            raise UserError(
                f"--hex takes pairs of hexadecimal digits, as in 636166C3; got {self.hex!r}."
            ) from error


@dataclass(frozen=True)
class ByteReading:
    """How a language model is read as a model of bytes.

    Attributes:
        invalid: what becomes of the probability of tokens that the tokenizer never writes.
        validate: how these tokens are found.
    """

    invalid: Literal["truncate", "renormalize", "all"] = "truncate"
    validate: Literal["pairwise", "reencode", "none"] = "pairwise"

    def load(self, name: str, hardware: StoredHardware) -> "ByteLM":
        """Load a model as a model of bytes."""
        from tokenry.decoding.byte_level.byte_lm import ByteLM
        from tokenry.models import load_tokenizer

        return ByteLM(hardware.load(name), load_tokenizer(name), **asdict(self))


PROMPT, READING = BytePrompt(), ByteReading()


def together(lms: "Sequence[ByteLM]") -> "ByteLM | ByteEnsemble":
    """One model, or the ensemble of several."""
    from tokenry.decoding.byte_level.byte_ensemble import ByteEnsemble

    return lms[0] if len(lms) == 1 else ByteEnsemble(lms)


def written(data: bytes) -> str:
    """Bytes as text; what is no character is written as an escape."""
    return data.decode(errors="backslashreplace")
