"""How much of the modelling a tokenizer does: the best unigram model over its tokens, per symbol of the text.

    cross-entropy    H(Q) / E|t| = H(Q) · tokens / symbols         exact; Q is the share of each token
    paper's form     H_inf · H(Q) / H(Q, P), H(Q, P) = E_Q ln(1 / P(t))      P(t): how likely the source writes t
    bound (LZW)      H_inf / (1 − ε), ε = ln(1 / δ) / (β ln d)
    share done       (H(π) − cross-entropy) / (H(π) − H_inf)       0 for symbols alone, 1 for a tokenizer that leaves nothing to a model

The two forms differ while a dictionary is small: given the token before, a token costs up to ln(1 / δ) more or less than ln(1 / P(t)).

Source: Toward a Theory of Tokenization in LLMs (arXiv 2404.08335), sections 3 and 4.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.special import entr

from tokenry.core.errors import UserError
from tokenry.theory.dictionaries import SymbolTokenizer
from tokenry.theory.markov_source import MarkovSource, Symbols


@dataclass(frozen=True)
class UnigramReport:
    """The best unigram model over the tokens of a text.

    Attributes:
        token_entropy: H(Q), nats per token.
        mean_token_length: symbols per token.
        cross_entropy: H(Q) / E|t|, nats per symbol.
        source_cross_entropy: H(Q, P), nats per token; None without a source, infinite where it cannot write a token.
        paper_form: H_inf · H(Q) / H(Q, P), nats per symbol; None without a source.
        entropy_rate: H_inf, or what the best model at hand says, nats per symbol; None where it is not known.
        symbol_entropy: H(π): the same for the symbols themselves, nats per symbol.
    """

    tokens: int
    symbols: int
    token_entropy: float
    mean_token_length: float
    cross_entropy: float
    source_cross_entropy: float | None
    paper_form: float | None
    entropy_rate: float | None
    symbol_entropy: float

    @property
    def ratio(self) -> float | None:
        """The cross-entropy over H_inf; infinite where nothing is left to chance."""
        return None if self.entropy_rate is None else _over(self.cross_entropy, self.entropy_rate)

    @property
    def share_done(self) -> float | None:
        """The part of the way from a unigram over symbols to H_inf that the tokenizer goes; below 0 where it makes things worse."""
        return share_done(self.cross_entropy, self.symbol_entropy, self.entropy_rate)

    def as_json(self) -> dict[str, float | int | None]:
        """The figures by the letters of the paper; `ce` is in nats per symbol."""
        return {
            "n_tokens": self.tokens,
            "H_Q": self.token_entropy,
            "H_Q_P": self.source_cross_entropy,
            "mean_token_len": self.mean_token_length,
            "ce_per_char": self.cross_entropy,
            "ce_form": self.paper_form,
            "ratio": self.ratio,
            "share_done": self.share_done,
        }


def unigram_report(
    tokenizer: SymbolTokenizer,
    text: Symbols,
    source: MarkovSource | None = None,
    entropy_rate: float | None = None,
) -> UnigramReport:
    """Measure the best unigram model over the tokens of a text.

    Args:
        tokenizer: cuts the text.
        text: a sample of the source, or any other text as numbers (bytes).
        source: what wrote it.
        entropy_rate: what the best model at hand says, in nats per symbol, where there is no source.
    """
    ids, symbols = tokenizer.encode(text), np.asarray(text, dtype=np.int64)
    known, counts = np.unique(ids, return_counts=True)
    of_token, of_symbol = _entropy(counts), _entropy(np.bincount(symbols))
    rate = entropy_rate if source is None else source.entropy_rate()
    of_source = form = None
    if source is not None:
        of_symbol = source.char_entropy()
        logs = [source.log_prob(tokenizer.dictionary[token]) for token in known.tolist()]
        of_source = -float(counts @ np.array(logs)) / max(len(ids), 1)
        form = source.entropy_rate() * _over(of_token, of_source)
    return UnigramReport(
        tokens=len(ids),
        symbols=len(symbols),
        token_entropy=of_token,
        mean_token_length=len(symbols) / len(ids) if len(ids) else math.nan,
        cross_entropy=of_token * len(ids) / len(symbols) if len(symbols) else math.nan,
        source_cross_entropy=of_source,
        paper_form=form,
        entropy_rate=rate,
        symbol_entropy=of_symbol,
    )


def share_done(cross_entropy: float, symbol_entropy: float, entropy_rate: float | None) -> float | None:
    """The part of the way from a unigram over symbols to the entropy rate; None where there is no way to go, or it is not known."""
    if entropy_rate is None or symbol_entropy <= entropy_rate:
        return None
    return (symbol_entropy - cross_entropy) / (symbol_entropy - entropy_rate)


def heldout_unigram_ce(
    train_ids: Symbols,
    test_ids: Symbols,
    vocab: int,
    alpha: float | int | None = 1.0,
    symbols: int | None = None,
) -> float:
    """Cross-entropy of a unigram model that was counted on other text.

    Args:
        train_ids: tokens that are counted.
        test_ids: tokens that are predicted.
        vocab: tokens of the dictionary.
        alpha: added to every count; None for Witten-Bell smoothing, which suits dictionaries larger than the text.
        symbols: symbols of the predicted text; the result is per symbol then, else per token.

    Returns:
        Nats per symbol, or per token.
    """
    if alpha is not None and not alpha > 0:
        raise UserError(
            f"alpha must be above 0, got {alpha}: a token that was not counted would cost infinitely much."
        )
    counts, test = np.bincount(_ids(train_ids, vocab), minlength=vocab), _ids(test_ids, vocab)
    law = witten_bell(counts) if alpha is None else (counts + alpha) / (counts.sum() + alpha * vocab)
    return _per_unit(-np.log(law[test]).sum(), test, symbols)


def crossfitted_unigram_ce(ids: Symbols, vocab: int, symbols: int) -> float:
    """Cost of a text under unigrams that are counted on its other half each, Witten-Bell smoothed: nats per symbol."""
    half = len(ids) // 2
    parts = ids[:half], ids[half:]
    costs = (heldout_unigram_ce(*pair, vocab, None, symbols) for pair in (parts, parts[::-1]))
    return sum(costs)


def heldout_bigram_ce(train_ids: Symbols, test_ids: Symbols, vocab: int, symbols: int | None = None) -> float:
    """Cross-entropy of a bigram model over tokens, Witten-Bell smoothed towards the unigram: the line between unigram and optimum.

    p(t | s) = (c(s, t) + T(s) p(t)) / (c(s) + T(s)), T(s): how many different tokens follow s. Arguments as in `heldout_unigram_ce`.
    """
    train, test = _ids(train_ids, vocab), _ids(test_ids, vocab)
    unigram = witten_bell(np.bincount(train, minlength=vocab))
    pairs, counts = np.unique(train[:-1] * vocab + train[1:], return_counts=True)
    of_pair = dict(zip(pairs.tolist(), counts.tolist(), strict=True))
    before = pairs // vocab
    followed, kinds = np.bincount(before, counts, minlength=vocab), np.bincount(before, minlength=vocab)
    known, wanted = test[:-1], test[1:]
    met = np.array([of_pair.get(pair, 0) for pair in (known * vocab + wanted).tolist()])
    total = followed[known] + kinds[known]
    law = np.where(total > 0, (met + kinds[known] * unigram[wanted]) / np.maximum(total, 1), unigram[wanted])
    return _per_unit(-np.log(unigram[test[:1]]).sum() - np.log(law).sum(), test, symbols)


def witten_bell(counts: Int[ndarray, "tokens"]) -> Float[ndarray, "tokens"]:
    """A unigram law from counts: as much weight as there are different tokens is spread evenly over all of them."""
    kinds = max(int((counts > 0).sum()), 1)
    return (counts + kinds / len(counts)) / (counts.sum() + kinds)


def lzw_epsilon(delta: float | int, d: int, beta: float | int = 0.99) -> float:
    """ε = ln(1 / δ) / (β ln d); infinite where a transition is impossible."""
    if d < 2:
        raise UserError(f"a dictionary has at least 2 tokens, got d={d}.")
    return math.log(1 / delta) / (beta * math.log(d)) if delta > 0 else math.inf


def lzw_bound(delta: float | int, d: int, beta: float | int = 0.99) -> float:
    """1 / (1 − ε): how many times H_inf a unigram over an LZW dictionary of d tokens costs at most; infinite where it says nothing."""
    epsilon = lzw_epsilon(delta, d, beta)
    return 1 / (1 - epsilon) if epsilon < 1 else math.inf


def _entropy(counts: Int[ndarray, "outcomes"]) -> float:
    return float(entr(counts / max(counts.sum(), 1)).sum())


def _per_unit(nats: float, test: Int[ndarray, "tokens"], symbols: int | None) -> float:
    units = len(test) if symbols is None else symbols
    return float(nats) / units if units else math.nan


def _over(value: float, by: float) -> float:
    return value / by if by else math.inf


def _ids(ids: Symbols | Sequence[int], vocab: int) -> Int[ndarray, "tokens"]:
    numbers = np.asarray(ids, dtype=np.int64)
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() < vocab):
        raise UserError(
            f"a dictionary of {vocab} tokens has no token {int(numbers.max())}: give its size as vocab."
        )
    return numbers
