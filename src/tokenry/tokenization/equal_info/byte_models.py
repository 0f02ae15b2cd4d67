"""M1: what predicts the next symbol of a window from the symbols that the window holds so far, and from nothing else.

WittenBellModel      counted bytes:  p_j(x) = (count(context_j, x) + kinds_j · p_{j−1}(x)) / (count(context_j) + kinds_j),  p_{−1} = 1 / 256
CausalWindowModel    any causal language model of transformers whose token ids are the symbols: bytes, or the tokens of a tokenizer
NextByteWindows      anything that says what byte comes next, such as a tokenized model that is read byte by byte
FunctionWindows      any function from the symbols of a window to a distribution

The encoder asks for all places of known windows at once, the decoder for one symbol after the other of many windows. Both must make the same
tables from the answers, so a language model runs in float64: in float32 about one table in 200 differs.

Source: Training LLMs over Neurally Compressed Text (arXiv 2404.03626), section 3; Witten and Bell, The Zero-Frequency Problem (1991), method C.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.workspace import fingerprint
from tokenry.core.tensors.fingerprints import model_fingerprint
from tokenry.core.tensors.gate import embedding_rows, position_limit, require_causal_lm
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.output_head import causal_lm
from tokenry.core.text.byte_models import END, NextByteModel

BYTES = 256
Symbols = Sequence[int]
Rows = Float[np.ndarray, "places symbols"] | Int[np.ndarray, "places symbols"]
"""Distributions, one a row: probabilities, or whole frequencies that are used as they are."""


class WindowModel(ABC):
    """A model of the symbols of a window.

    Attributes:
        symbols: number of symbols V.
        fingerprint: hash of everything that its answers depend on.
        longest: the most symbols that a window can hold.
        memory: symbols before a place that its prediction in a stream without windows is made from.
        least_precision: the fewest bits that its distributions are rounded to.
    """

    symbols: int
    fingerprint: str
    longest: float | int = math.inf
    memory: int = 0

    @property
    def least_precision(self) -> int:
        """Bits with which every symbol has a frequency."""
        return (self.symbols - 1).bit_length()

    @abstractmethod
    def after(self, windows: Sequence[Symbols]) -> Rows:
        """What comes after the symbols of each window, one row a window."""

    def along(self, windows: Sequence[Symbols]) -> Rows:
        """What comes before each symbol of each window, given those before it there: the rows of all windows, one after another."""
        return self.after([window[:place] for window in windows for place in range(len(window))])

    def reader(self) -> "WindowReader":
        """Reads windows symbol by symbol, all of them together."""
        return WindowReader(self)


class WindowReader:
    """Windows that grow by one symbol at a time, all of them together.

    Args:
        model: what predicts their symbols.
    """

    def __init__(self, model: WindowModel) -> None:
        self._model = model
        self._windows: list[tuple[int, ...]] = []

    def begin(self, windows: int) -> Rows:
        """Begin that many empty windows; what comes first is the same for all of them: one row."""
        self._windows = [()] * windows
        return self._model.after([()])

    def extend(self, kept: Sequence[int], symbols: Sequence[int]) -> Rows:
        """Go on with some of the windows, each with a symbol more; one row for each of them."""
        self._windows = [(*self._windows[row], symbol) for row, symbol in zip(kept, symbols, strict=True)]
        return self._model.after(self._windows)


class FunctionWindows(WindowModel):
    """Any function as a model of windows.

    Args:
        function: takes the symbols of a window so far and returns a distribution; whole numbers are taken as frequencies.
        name: stands for the function in the header of a coded file.
    """

    def __init__(self, function: Callable[[tuple[int, ...]], Any], name: str = "function") -> None:
        self._function = function
        self.symbols = len(np.asarray(function(())))
        self.fingerprint = fingerprint("function", name, self.symbols, length=24)

    def after(self, windows: Sequence[Symbols]) -> Rows:
        """One call a window."""
        return np.stack([np.asarray(self._function(tuple(window))) for window in windows])


class WittenBellModel(WindowModel):
    """An n-gram of bytes, interpolated down to the uniform distribution.

    Args:
        corpus: the bytes that are counted.
        order: length n of the longest counted strings: `order − 1` bytes of context; 1 counts bytes alone.
    """

    symbols = BYTES

    def __init__(self, corpus: bytes, order: int = 5) -> None:
        if not 1 <= order <= 8:
            raise UserError(f"order must be from 1 to 8, got {order}: 5 is usual.")
        self.order, self.memory = order, order - 1
        self.fingerprint = fingerprint("witten-bell", str(order), corpus, length=24)
        text = np.frombuffer(corpus, np.uint8).astype(np.uint64)
        self._counted = [_counted(text, length) for length in range(1, order + 1)]
        self._rows: dict[bytes, np.ndarray] = {}

    def __repr__(self) -> str:
        """Its order and the number of strings it has counted."""
        return (
            f"WittenBellModel(order={self.order}, {sum(len(found[1]) for found in self._counted):,} strings)"
        )

    def after(self, windows: Sequence[Symbols]) -> Rows:
        """Rows are kept by their context."""
        if len(self._rows) > _KEPT_ROWS:
            self._rows.clear()
        return np.stack(
            [self._row(bytes(window[-self.memory :] if self.memory else ())) for window in windows]
        )

    def _row(self, context: bytes) -> Float[np.ndarray, "256"]:
        row = self._rows.get(context)
        if row is None:
            shorter = self._row(context[1:]) if context else np.full(BYTES, 1 / BYTES)
            row = self._rows[context] = self._interpolated(context, shorter)
        return row

    def _interpolated(self, context: bytes, shorter: np.ndarray) -> Float[np.ndarray, "256"]:
        strings, counts = self._counted[len(context)]
        first = int.from_bytes(context, "big") << 8
        begin, end = strings.searchsorted(np.array([first, first + 0xFF], np.uint64), side="left")
        end += int(end < len(strings) and int(strings[end]) == first + 0xFF)
        if begin == end:
            return shorter
        found = counts[begin:end]
        row = (end - begin) * shorter
        row[(strings[begin:end] & np.uint64(0xFF)).astype(np.int64)] += found
        return row / (found.sum() + (end - begin))


_KEPT_ROWS = 1 << 15


def _counted(text: np.ndarray, length: int) -> tuple[np.ndarray, Int[np.ndarray, "strings"]]:
    """The strings of a length that occur, each as one number, in order, and how often."""
    places = max(0, len(text) - length + 1)
    strings = np.zeros(places, np.uint64)
    for ahead in range(length):
        strings = (strings << np.uint64(8)) | text[ahead : ahead + places]
    return np.unique(strings, return_counts=True)


class NextByteWindows(WindowModel):
    """A model of bytes that says what comes after any text; the end of the text is left out, as a coded text has its length beside it.

    Args:
        model: the model.
        fingerprint: hash of everything that its answers depend on.
        longest: the most bytes that a window can hold.
    """

    symbols = BYTES

    def __init__(self, model: NextByteModel, fingerprint: str, longest: float | int = math.inf) -> None:
        self._model, self.fingerprint, self.longest = model, fingerprint, longest
        self.memory = int(min(longest, _STREAM_CONTEXT) // 2)

    def after(self, windows: Sequence[Symbols]) -> Rows:
        """One call for all windows; each text is asked about once."""
        texts = [bytes(window) for window in windows]
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        masses = np.exp(self._model.next_byte_logprobs(list(places)).astype(np.float64))[:, :END]
        return (masses / masses.sum(axis=1, keepdims=True))[[places[text] for text in texts]]


_STREAM_CONTEXT = 1024


class CausalWindowModel(WindowModel):
    """A causal language model of transformers whose token ids are the symbols, run in float64.

    Args:
        model: the model; unless it is in float64, a copy of it is.
        start_id: the token that stands before every window; by default the model's bos token.
        symbols: ids below this number are symbols; by default all that the model knows. 256 for a model of bytes.

    Raises:
        UserError: no causal language model, no token to begin with, or more symbols than the model knows.
    """

    def __init__(self, model: nn.Module, start_id: int | None = None, symbols: int | None = None) -> None:
        require_causal_lm(model)
        inner = causal_lm(model)
        rows = embedding_rows(inner)
        start = inner.config.get_text_config().bos_token_id if start_id is None else start_id
        if start is None or not 0 <= start < rows:
            raise UserError(
                f"a window begins with a token, and the model has {'none' if start is None else f'no token {start}'}: give start_id, "
                f"from 0 to {rows - 1}."
            )
        self.symbols = rows if symbols is None else symbols
        require_at_least(2, symbols=self.symbols)
        if self.symbols > rows:
            raise UserError(
                f"symbols must be at most {rows}, the token ids that the model knows, got {self.symbols}."
            )
        exact = all(weight.dtype == torch.float64 for weight in inner.parameters())
        self._model: Any = inner if exact else copy.deepcopy(inner).double()
        self.start_id = int(start)
        self.longest = position_limit(inner) - 1
        self.memory = int(min(self.longest, _STREAM_CONTEXT) // 2)
        self.fingerprint = fingerprint(model_fingerprint(inner), [self.start_id, self.symbols], length=24)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self._model.parameters()).device

    @property
    def least_precision(self) -> int:
        """log2 V + 2 bits: with fewer, more than a quarter of the probability is spread evenly over all symbols."""
        return math.ceil(math.log2(self.symbols) + 2)

    def after(self, windows: Sequence[Symbols]) -> Rows:
        """The last rows of `along`."""
        lengths = np.array([len(window) + 1 for window in windows])
        return self.along([[*window, 0] for window in windows])[lengths.cumsum() - 1]

    def along(self, windows: Sequence[Symbols]) -> Rows:
        """One forward pass for all windows, the shorter ones padded behind."""
        before = [torch.tensor([self.start_id, *window[:-1]]) for window in windows]
        ids = nn.utils.rnn.pad_sequence(before, batch_first=True)
        there = torch.zeros(ids.shape, dtype=torch.bool)
        for row, window in enumerate(windows):
            there[row, : len(window)] = True
        return self.probabilities(self.forward(ids, use_cache=False).logits, there)

    def reader(self) -> "WindowReader":
        """A reader that keeps keys and values."""
        return _CachedReader(self)

    def forward(self, ids: Tensor, **arguments: Any) -> Any:
        """Run the model on ids, in evaluation mode and without gradients."""
        with evaluation_mode(self._model), torch.no_grad():
            return self._model(input_ids=ids.to(self.device), **arguments)

    def probabilities(self, logits: Tensor, there: Tensor) -> Rows:
        """The distributions over the symbols at the places that are told."""
        chosen = logits[there.to(logits.device)][:, : self.symbols].double()
        return chosen.softmax(dim=-1).cpu().numpy()


class _CachedReader(WindowReader):
    """Reads the newest symbol of each window only, where the model's cache lets windows be taken out of it; else each window anew."""

    def __init__(self, model: CausalWindowModel) -> None:
        self._causal = model
        self._ids = torch.empty(0, 1, dtype=torch.long)
        self._cache: DynamicCache | None = None

    def begin(self, windows: int) -> Rows:
        self._ids, self._cache = torch.full((windows, 1), self._causal.start_id), None
        return self._causal.after([()])

    def extend(self, kept: Sequence[int], symbols: Sequence[int]) -> Rows:
        chosen = torch.tensor(kept, dtype=torch.long)
        self._ids = torch.cat([self._ids[chosen], torch.tensor(symbols, dtype=torch.long)[:, None]], dim=1)
        if self._cache is None:
            found = self._causal.forward(self._ids, use_cache=True)
        else:
            self._cache.batch_select_indices(chosen.to(self._causal.device))
            found = self._causal.forward(self._ids[:, -1:], past_key_values=self._cache, use_cache=True)
        cache = getattr(found, "past_key_values", None)
        selects = isinstance(cache, DynamicCache) and all(
            isinstance(layer, DynamicLayer) for layer in cache.layers
        )
        self._cache = cache if selects else None
        return self._causal.probabilities(found.logits[:, -1], torch.ones(len(kept), dtype=torch.bool))
