"""Zero-shot scores of text: how probable it is under one or two language models, against how probable they expect it to be.

With s the scoring model, r the reference (r = s where there is one model), y_t the token at t, and means over the tokens with a prediction:

    likelihood       mean log s(y_t)                      logrank   −mean ln rank_t, rank 1 the most probable token
    rank             −mean rank_t                         entropy   mean entropy of s; no direction of its own
    fast_detectgpt   Σ_t (log s(y_t) − mean_t) / √(Σ_t variance_t)      mean and variance of log s under r, in closed form
    binoculars       −mean log s(y_t) / mean_t, of both sums their absolute values; two models

All but the entropy are higher for machine text. Every score is a function of the same seven sums over tokens, which one pass of each model
gives (`core.tensors.row_statistics`): all scores cost as much as one, and any stretch of a text has its own score.

Sources: Fast-DetectGPT, arXiv 2310.05130; Binoculars, arXiv 2401.12070, whose score is negated here.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokenry.core.chat.template import adds_bos
from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.core.tensors.losses import OutputHead, backbone, output_head, row_statistics, token_statistics
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.data.ai_text import Detector, TextScores
from tokenry.models import LocalText, require_causal_lm, require_readable, require_same_tokenizer
from tokenry.models.identity import ModelIdentity

SCORES = ("fast_detectgpt", "binoculars", "likelihood", "rank", "logrank", "entropy")

Hidden = tuple[Float[Tensor, "batch seq reference_dim"], OutputHead]
"""Hidden states of the reference and its head."""


class TokenSums(NamedTuple):
    """What all scores are made of: one value per token, or sums over any tokens; 0 at tokens without a prediction.

    Attributes:
        tokens: number of tokens.
        nll: −log s(y).
        rank: rank of the token, from 1.
        log_rank: its natural logarithm.
        entropy: of s.
        mean: −mean of log s under r.
        variance: of log s under r.
    """

    tokens: Float[Tensor, "*shape"]
    nll: Float[Tensor, "*shape"]
    rank: Float[Tensor, "*shape"]
    log_rank: Float[Tensor, "*shape"]
    entropy: Float[Tensor, "*shape"]
    mean: Float[Tensor, "*shape"]
    variance: Float[Tensor, "*shape"]

    def map(self, change: Callable[[Tensor], Tensor]) -> "TokenSums":
        """Change all of them alike."""
        return TokenSums(*map(change, self))

    def scores(self, two_models: bool) -> dict[str, Float[Tensor, "*shape"]]:
        """The scores; nan where there is no token."""
        above = self.mean - self.nll
        # A model that is certain of every token expects what it finds: variance 0, score 0.
        discrepancy = torch.where(self.variance > 0, above / self.variance.sqrt(), above * 0.0)
        found = {
            "fast_detectgpt": torch.where(self.tokens > 0, discrepancy, math.nan),
            "binoculars": -self.nll / self.mean,
            "likelihood": -self.nll / self.tokens,
            "rank": -self.rank / self.tokens,
            "logrank": -self.log_rank / self.tokens,
            "entropy": self.entropy / self.tokens,
        }
        return found if two_models else {name: score for name, score in found.items() if name != "binoculars"}


@torch.no_grad()
def token_sums(
    hidden_states: Float[Tensor, "batch seq dim"],
    input_ids: Int[Tensor, "batch seq"],
    tokens: Bool[Tensor, "batch seq"],
    head: OutputHead,
    reference: Hidden | None = None,
) -> TokenSums:
    """Compute the terms of `tokens`, in float64: one pass over the head, or over both heads."""
    names = ("cross_entropy", "cross_second_moment") if reference else ("entropy", "second_moment")
    wanted = {"nll", "rank", "entropy", *names}
    found = token_statistics(hidden_states, input_ids, head, tokens, wanted, reference)
    nll, rank, entropy, mean, second = (
        torch.where(tokens, found[name], 0.0).double() for name in ("nll", "rank", "entropy", *names)
    )
    rank = rank + tokens
    variance = (second - mean.square()).clamp(min=0)
    return TokenSums(tokens.double(), nll, rank, rank.clamp(min=1).log(), entropy, mean, variance)


def zero_shot_scores(
    score_logits: Float[Tensor, "batch seq vocabulary"],
    ref_logits: Float[Tensor, "batch seq reference_vocabulary"] | None,
    input_ids: Int[Tensor, "batch seq"],
    mask: Int[Tensor, "batch seq"] | Bool[Tensor, "batch seq"],
    compat: bool = False,
) -> dict[str, Float[Tensor, "batch"]]:
    """Compute all scores from logits; with `ref_logits`, Binoculars too, whose performer is the scoring model.

    Args:
        score_logits: of the scoring model, for the token after each position.
        ref_logits: of the reference; None for one model.
        input_ids: the texts, padded on either side.
        mask: 1 for tokens, 0 for padding.
        compat: take the mean in the denominator of Binoculars over all positions, the last one included, as the released code does.
    """
    heads = [
        OutputHead(nn.Identity(), logits.shape[-1]) for logits in (score_logits, ref_logits) if logits is not None
    ]  # fmt: skip
    reference = None if ref_logits is None else (ref_logits, heads[1])
    return text_scores(score_logits, input_ids, mask.bool(), heads[0], reference, compat)


def text_scores(
    hidden_states: Float[Tensor, "batch seq dim"],
    input_ids: Int[Tensor, "batch seq"],
    real: Bool[Tensor, "batch seq"],
    head: OutputHead,
    reference: Hidden | None = None,
    compat: bool = False,
) -> dict[str, Float[Tensor, "batch"]]:
    """Compute all scores from hidden states; see `zero_shot_scores`."""
    sums = token_sums(hidden_states, input_ids, predicted(real), head, reference).map(
        lambda term: term.sum(-1)
    )
    scores = sums.scores(reference is not None)
    if compat and reference is not None:
        last = real.shape[1] - 1 - real.flip(1).int().argmax(1)
        batch = torch.arange(len(last), device=last.device)
        other = reference[0][batch, last], reference[1]
        after = row_statistics(hidden_states[batch, last], None, head, ("cross_entropy",), reference=other)
        assert after.cross_entropy is not None
        mean = (sums.mean + after.cross_entropy.double()) / (sums.tokens + 1)
        scores["binoculars"] = -sums.nll / sums.tokens / mean
    return scores


def predicted(real: Bool[Tensor, "batch seq"]) -> Bool[Tensor, "batch seq"]:
    """The tokens with a token before them."""
    tokens = real.clone()
    tokens[:, 0] = False
    tokens[:, 1:] &= real[:, :-1]
    return tokens


class ZeroShotDetector(Detector):
    """Scores texts by one or two language models, in batches of texts of about one length.

    Args:
        scorer: the scoring model (performer), with its tokenizer and batch size.
        reference: a second model with the same tokenizer (sampling model, observer).
        scores: names among `SCORES`, the first of which decides; by default all, Binoculars or else Fast-DetectGPT first.
        max_tokens: length of a window; a longer text has the mean of its windows' scores, weighted by their tokens.
        normalise: undo look-alike letters, invisible characters and compatibility forms first (`normalize_text`).
    """

    def __init__(
        self,
        scorer: LocalText,
        reference: LocalText | None = None,
        scores: Sequence[str] = (),
        *,
        max_tokens: int = 512,
        normalise: bool = False,
    ) -> None:
        require_at_least(2, max_tokens=max_tokens)
        known = [name for name in SCORES if reference is not None or name != "binoculars"]
        if "binoculars" in scores and reference is None:
            raise UserError("binoculars compares two models: give a reference with the same tokenizer.")
        for name in scores:
            require_one_of(name, SCORES, "a zero-shot score")
        if tuple(scores[:1]) == ("entropy",):
            raise UserError(
                "entropy cannot decide: whether machine text has more or less of it depends on the data; name another score first."
            )
        default = [*known[1:2], known[0], *known[2:]] if reference is not None else known
        self.scorer, self.reference = scorer, reference
        self.names = tuple(scores) or tuple(default)
        self.max_tokens, self.normalise = max_tokens, normalise
        require_causal_lm(scorer.model, scorer.name)
        if reference is not None:
            require_causal_lm(reference.model, reference.name)
            require_same_tokenizer(scorer.tokenizer, reference.tokenizer, f"the reference {reference.name}")
        self._prefix = [scorer.tokenizer.bos_token_id] if adds_bos(scorer.tokenizer) else []

    @property
    def models(self) -> tuple[ModelIdentity, ...]:
        """The scoring model and the reference."""
        return tuple(ModelIdentity.of(model) for model in (self.scorer, self.reference) if model is not None)

    def measure(self, texts: Sequence[str]) -> TextScores:
        """Score texts; a text with nothing to predict scores nan."""
        ids = [self._ids(text) for text in texts]
        windows = [(place, window) for place, text in enumerate(ids) for window in self._windows(text)]
        totals, weights = np.zeros((len(self.names), len(texts))), np.zeros(len(texts))
        for (place, _), sums in zip(windows, self._sums([window for _, window in windows]), strict=True):
            whole = sums.map(lambda term: term.sum())
            scores = whole.scores(self.reference is not None)
            weight = float(whole.tokens)
            weights[place] += weight
            totals[:, place] += weight * np.array([float(scores[name]) for name in self.names])
        with np.errstate(invalid="ignore"):
            means = totals / np.where(weights > 0, weights, math.nan)
        return TextScores(dict(zip(self.names, means, strict=True)), np.array([len(text) for text in ids]))

    def spans(self, text: str, tokens: int = 50) -> list[tuple[str, float]]:
        """Cut a text into its tokens, each with the deciding score of the `tokens` tokens around it.

        Raises:
            UserError: the tokenizer is a slow one, which does not say where its tokens stand.
        """
        text = self.clean(text)
        if not self.scorer.tokenizer.is_fast:
            raise UserError(
                f"the tokenizer of {self.scorer.name} does not say where its tokens stand: load its fast version."
            )
        encoded = self.scorer.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        starts = [start for start, _ in encoded["offset_mapping"]]
        if not starts:
            return []
        parts = self._sums(list(self._windows(encoded["input_ids"])))
        around = TokenSums(*(_around(torch.cat(term), tokens) for term in zip(*parts, strict=True)))
        cuts = [0, *starts[1:], len(text)]
        scores = around.scores(self.reference is not None)[self.names[0]].tolist()
        return [(text[begin:end], score) for (begin, end), score in zip(pairwise(cuts), scores, strict=True)]

    def _ids(self, text: str) -> list[int]:
        encoded = self.scorer.tokenizer(self.clean(text), add_special_tokens=False, verbose=False)
        return list(encoded["input_ids"])

    def _windows(self, ids: Sequence[int]) -> Iterator[list[int]]:
        """Cut a text into equal windows."""
        count = math.ceil(len(ids) / self.max_tokens)
        for window in np.array_split(np.array(ids, dtype=int), count) if count else ():
            yield window.tolist()

    def _sums(self, windows: Sequence[list[int]]) -> list[TokenSums]:
        """The terms of every token of each window."""
        whole = [self._prefix + window for window in windows]
        models = [model for model in (self.scorer, self.reference) if model is not None]
        ids = np.array([token for window in whole for token in window], dtype=int)
        for model in models:
            require_readable(model.model, ids, [len(window) for window in whole], "the texts", model.name)
        found: dict[int, TokenSums] = {}
        order = sorted(range(len(whole)), key=lambda place: -len(whole[place]))
        for start in range(0, len(order), self.scorer.batch_size):
            places = order[start : start + self.scorer.batch_size]
            batch = self._batch_sums([model.model for model in models], [whole[place] for place in places])
            for row, place in enumerate(places):
                own = slice(len(self._prefix), len(whole[place]))
                found[place] = TokenSums(*(term[row, own] for term in batch))
        return [found[place] for place in range(len(whole))]

    def _batch_sums(self, models: Sequence[nn.Module], rows: Sequence[list[int]]) -> TokenSums:
        device = next(models[0].parameters()).device
        lengths = torch.tensor([len(row) for row in rows])
        # Padding is on the right, where no token sees it; its id is any that the model can read.
        ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(device)
        real = (torch.arange(ids.shape[1]) < lengths[:, None]).to(device)
        with torch.no_grad():
            states = [_hidden_states(model, ids, real) for model in models]
        heads = [output_head(model) for model in models]
        reference = (states[1], heads[1]) if len(models) > 1 else None
        return token_sums(states[0], ids, predicted(real), heads[0], reference).map(lambda term: term.cpu())


def _hidden_states(model: nn.Module, ids: Tensor, real: Tensor) -> Tensor:
    device = next(model.parameters()).device
    with evaluation_mode(model):
        found: Tensor = backbone(model)(
            input_ids=ids.to(device), attention_mask=real.long().to(device), use_cache=False
        ).last_hidden_state
    return found.to(ids.device)


def _around(term: Float[Tensor, "tokens"], width: int) -> Float[Tensor, "tokens"]:
    """The sum over the `width` tokens around each token, fewer at the ends."""
    totals = nn.functional.pad(term.cumsum(0), (1, 0))
    places = torch.arange(len(term))
    first = (places - width // 2).clamp(min=0)
    last = (places - width // 2 + width).clamp(max=len(term))
    return totals[last] - totals[first]
