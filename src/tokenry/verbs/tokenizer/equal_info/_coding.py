"""What the verbs of equal-info windows share: the model that predicts the symbols, and the codec."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tokenry.core.errors import UserError, require_one_of
from tokenry.core.plans import option

if TYPE_CHECKING:
    from tokenry.tokenization.equal_info import EqualInfoCodec, WindowModel
    from tokenry.tokenization.equal_info.units import SymbolUnits

NGRAM = "ngram"
_PRECISION = 14


@dataclass(frozen=True)
class SymbolModel:
    """The model M1 that predicts the symbols of a window.

    Attributes:
        model: `ngram`, counted on --corpus; or `embedded`, a folder, or a hub name of a causal language model, which runs in float64.
        corpus: file that the n-gram is counted on; can be repeated; by default the help topics of this Python.
        order: length of the longest strings that the n-gram counts.
        units: symbols of a window: bytes, or the tokens of a language model.
        precision: bits of its frequencies; by default 14, for tokens as many as their number needs, and two more.
        device: where a language model runs; by default an accelerator if there is one.
    """

    model: str = option(NGRAM, metavar="NAME")
    corpus: tuple[Path, ...] = option((), metavar="FILE")
    order: int = 5
    units: Literal["bytes", "tokens"] = "bytes"
    precision: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        require_one_of(self.units, ("bytes", "tokens"), "units")
        if self.model == NGRAM and self.units == "tokens":
            raise UserError("the n-gram counts bytes: give --units bytes, or another --model.")
        if self.model != NGRAM and self.corpus:
            raise UserError("--corpus is what the n-gram is counted on: leave it out, or give --model ngram.")

    def codec(self, window_bits: int, end: str) -> "tuple[EqualInfoCodec, SymbolUnits]":
        """The codec, and what its symbols are.

        Raises:
            UserError: a corpus or model that cannot be read, or a window that is too small for its symbols.
        """
        from tokenry.tokenization.equal_info import EqualInfoCodec

        m1, units = self._load()
        precision = max(_PRECISION, m1.least_precision) if self.precision is None else self.precision
        return EqualInfoCodec(m1, window_bits, precision, end), units

    def _load(self) -> "tuple[WindowModel, SymbolUnits]":
        from tokenry.tokenization.equal_info import ByteUnits, CausalWindowModel, TokenUnits, WittenBellModel

        if self.model == NGRAM:
            return WittenBellModel(self.counted(), self.order), ByteUnits()
        import torch

        from tokenry.models import load_model, load_tokenizer
        from tokenry.verbs._hardware import Hardware

        device = Hardware(self.device).place()
        model = load_model(self.model, dtype=torch.float64).to(device)
        if self.units == "bytes" and model.config.get_text_config().vocab_size <= _BYTE_VOCABULARY:
            start = model.config.get_text_config().bos_token_id
            return CausalWindowModel(model, 256 if start is None else start, symbols=256), ByteUnits()
        tokenizer = load_tokenizer(self.model)
        if self.units == "tokens":
            return CausalWindowModel(model, tokenizer.bos_token_id), TokenUnits(tokenizer)
        from tokenry.core.io.workspace import fingerprint
        from tokenry.core.tensors.fingerprints import model_fingerprint
        from tokenry.core.tensors.gate import position_limit
        from tokenry.decoding.byte_level.byte_lm import ByteLM
        from tokenry.models.identity import tokenizer_fingerprint
        from tokenry.tokenization.equal_info import NextByteWindows

        known = fingerprint("bytes of", model_fingerprint(model), tokenizer_fingerprint(tokenizer), length=24)
        # Each byte is at most one token, and one token stands before them.
        return NextByteWindows(ByteLM(model, tokenizer), known, position_limit(model) - 1), ByteUnits()

    def counted(self) -> bytes:
        """What an n-gram is counted on."""
        if self.corpus:
            return b"".join(read_data(file) for file in self.corpus)
        from pydoc_data.topics import topics

        return "\n".join(topics[name] for name in sorted(topics)).encode()


_BYTE_VOCABULARY = 300
"""A model that knows no more ids than this is one of bytes, with a few ids beside them."""

NGRAM_MODEL = SymbolModel()


def read_data(file: Path) -> bytes:
    """The bytes of a file.

    Raises:
        UserError: it cannot be read, or is empty.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): name a file.") from error
    if not data:
        raise UserError(f"{file} is empty: give a file that holds something.")
    return data
