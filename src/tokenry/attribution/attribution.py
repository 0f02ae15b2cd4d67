"""Which tokens of a context made the answer: one interface for every attribution method.

    attribute(model, input_ids, target, method="reagent:stop=ranking") -> Attribution(scores, standard_error, converged, forwards)

A score belongs to a token of the context, higher = more important; padding is nan. A method gets every text without its padding, and
answers for each alone or for as many at once as it can (`explain_all`): neither padding nor the order of a batch changes a score by more
than the rounding of the model.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.registry import Registry
from tokenry.core.tensors.gate import embedding_rows, require_causal_lm, require_readable
from tokenry.core.tensors.generation import require_answers
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.output_head import backbone, causal_lm, output_head
from tokenry.core.tensors.row_statistics import row_statistics

Probability = Callable[[Int[Tensor, "probes seq"]], Float[Tensor, "probes"]]
"""A black box: p(target) after each of several contexts of one length."""


@dataclass(frozen=True)
class Question:
    """Why does the model answer `target` after `context`?

    Attributes:
        model: a causal language model, an encoder classifier, or a `Probability`.
        context: the tokens that are scored.
        target: the answer's tokens, or the one class of a classifier; empty where the model itself decides it, or where it is a
            `Probability`.
        groups: group of every token, such as its word: tokens of one group are replaced together; None: each stands alone.
        vocabulary: tokens that replacements are drawn from; None for all tokens of the model but those with a special role.
        classes: class of every token of the model, such as its part of speech, for replacements of one class.
    """

    model: nn.Module | Probability
    context: Int[Tensor, "seq"]
    target: tuple[int, ...] = ()
    groups: Int[Tensor, "seq"] | None = None
    vocabulary: Int[Tensor, "ids"] | None = None
    classes: Int[Tensor, "vocabulary"] | None = None

    @property
    def batch(self) -> Int[Tensor, "1 seq"]:
        """The context as a batch of one, on the device of the model."""
        assert isinstance(self.model, nn.Module)
        return self.context[None].to(next(self.model.parameters()).device)

    @property
    def units(self) -> Int[Tensor, "seq"]:
        """The groups, numbered 0, 1, … without gaps."""
        if self.groups is None:
            return torch.arange(len(self.context), device=self.context.device)
        return self.groups.unique(return_inverse=True)[1]


@dataclass(frozen=True)
class TokenScores:
    """The scores of one context.

    Attributes:
        scores: importance of every token.
        standard_error: of the scores; None for a method without one.
        converged: whether the method's own stopping rule was met.
        forwards: number of sequences that the model read; a backward pass counts as one more.
        notes: warnings about the scores.
    """

    scores: Float[Tensor, "seq"]
    standard_error: Float[Tensor, "seq"] | None = None
    converged: bool = True
    forwards: int = 1
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attribution:
    """The scores of a batch.

    Attributes:
        scores: importance of every token; nan at padding.
        standard_error: of the scores; None for a method without one.
        converged: whether the method's stopping rule was met, by text.
        forwards: number of sequences that the model read for the whole batch.
        targets: the tokens, or the class, that were explained, by text.
        notes: warnings about the scores.
    """

    scores: Float[Tensor, "batch seq"]
    standard_error: Float[Tensor, "batch seq"] | None
    converged: Bool[Tensor, "batch"]
    forwards: int
    targets: tuple[tuple[int, ...], ...] = ()
    notes: tuple[str, ...] = field(default=())


class AttributionMethod(ABC):
    """An attribution method: a frozen dataclass of its options that registers itself in `ATTRIBUTIONS`."""

    @abstractmethod
    def explain(self, question: Question) -> TokenScores:
        """Score every token of the context."""

    def explain_all(self, questions: Sequence[Question]) -> list[TokenScores]:
        """Score several contexts of one model: one after the other, unless the method reads several at once."""
        return [self.explain(question) for question in questions]


ATTRIBUTIONS: "Registry[AttributionMethod]" = Registry(
    "attribution method",
    "tokenry.attribution",
    first=("reagent", "leave-one-out", "input-x-gradient", "attention-last", "attention-mean"),
)
"""The methods by name; a method registers itself in its own file."""

Targets = Int[Tensor, "batch"] | Int[Tensor, "batch answer"] | Sequence[int | Sequence[int]]
"""By text: a token, the tokens of an answer, or a class."""


def attribute(
    model: nn.Module | Probability,
    input_ids: Int[Tensor, "batch seq"],
    target: Targets | None = None,
    method: str | AttributionMethod = "reagent",
    *,
    attention_mask: Num[Tensor, "batch seq"] | Bool[Tensor, "batch seq"] | None = None,
    groups: Int[Tensor, "batch seq"] | None = None,
    vocabulary: Int[Tensor, "ids"] | None = None,
    classes: Int[Tensor, "vocabulary"] | None = None,
) -> Attribution:
    """Score the tokens of every text by how much they made the model's answer.

    Args:
        model: a causal language model, an encoder classifier, or a function that returns p(target) for a batch of contexts.
        input_ids: the contexts, padded on either side.
        target: what is explained, see `Targets`; None for the model's own next token, or class.
        method: a method, or its description, such as `reagent:probes=64`.
        attention_mask: non-zero at real tokens; None: all are real.
        groups: see `Question.groups`.
        vocabulary: see `Question.vocabulary`.
        classes: see `Question.classes`.

    Raises:
        UserError: an empty context, one that the model cannot read, or a target that it does not know.
    """
    chosen = ATTRIBUTIONS.make(method) if isinstance(method, str) else method
    real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask != 0
    texts = [row[kept] for row, kept in zip(input_ids, real, strict=True)]
    targets = _targets(model, texts, target)
    found = chosen.explain_all(
        [
            Question(
                model, text, answer, None if groups is None else groups[row][real[row]], vocabulary, classes
            )
            for row, (text, answer) in enumerate(zip(texts, targets, strict=True))
        ]
    )
    errors = [scores.standard_error for scores in found]
    return Attribution(
        _padded((scores.scores for scores in found), real),
        None if None in errors else _padded(errors, real),
        torch.tensor([scores.converged for scores in found]),
        sum(scores.forwards for scores in found),
        tuple(targets),
        tuple(dict.fromkeys(note for scores in found for note in scores.notes)),
    )


def attribute_generated(
    model: nn.Module,
    input_ids: Int[Tensor, "seq"],
    max_new_tokens: int = 10,
    method: str | AttributionMethod = "reagent",
    *,
    vocabulary: Int[Tensor, "ids"] | None = None,
) -> tuple[Int[Tensor, "new"], Float[Tensor, "new context"]]:
    """Generate greedily, and score for every generated token all tokens before it: a lower triangle, nan beyond it.

    Returns:
        The generated tokens, and one row of scores for each, over the prompt and the tokens generated before it.
    """
    require_at_least(1, max_new_tokens=max_new_tokens)
    require_answers(model, [input_ids.tolist()], max_new_tokens)
    text, prompt, rows = input_ids, len(input_ids), []
    for _ in range(max_new_tokens):
        found = attribute(model, text[None], None, method, vocabulary=vocabulary)
        rows.append(found.scores[0])
        text = torch.cat([text, text.new_tensor(found.targets[0])])
    maps = rows[0].new_full((max_new_tokens, prompt + max_new_tokens - 1), torch.nan)
    for place, row in enumerate(rows):
        maps[place, : len(row)] = row
    return text[prompt:], maps


def stacked(questions: Sequence[Question]) -> tuple[Int[Tensor, "batch seq"], Bool[Tensor, "batch seq"]]:
    """The contexts of some questions as one batch, padded on the right, and which of its tokens are real."""
    rows = [question.batch[0] for question in questions]
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return ids, torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]


class TargetProbability:
    """What a causal language model says about one answer after many contexts of one length.

    p(answer) is the geometric mean of its tokens' probabilities, so that a long answer is not improbable for its length alone; of a
    single token it is the probability itself.

    Args:
        model: the model; dropout is off.
        target: the answer's tokens.
        batch_size: number of contexts that are read at once.
    """

    def __init__(self, model: nn.Module, target: Sequence[int], batch_size: int = 64) -> None:
        self._model, self._body, self._head = causal_lm(model), backbone(model), output_head(model)
        self._target, self._batch_size = torch.as_tensor(target), batch_size
        self._device = next(self._model.parameters()).device

    @property
    def vocabulary(self) -> int:
        """Number of tokens that the model chooses from."""
        return self._head.vocabulary

    def __call__(self, contexts: Int[Tensor, "probes seq"]) -> Float[Tensor, "probes"]:
        """The probability of the answer after each context."""
        return (-self._of_target(contexts, "nll").double().mean(dim=1)).exp()

    def in_top(self, contexts: Int[Tensor, "probes seq"], k: int) -> Bool[Tensor, "probes"]:
        """Whether every token of the answer is among the `k` most probable ones."""
        return (self._of_target(contexts, "rank") < k).all(dim=1)

    @torch.no_grad()
    def _of_target(self, contexts: Tensor, statistic: str) -> Tensor:
        """One statistic of every token of the answer, from the last rows of hidden states alone."""
        found, answer = [], len(self._target)
        with evaluation_mode(self._model):
            for batch in contexts.split(self._batch_size):
                target = self._target.expand(len(batch), answer)
                ids = torch.cat([batch.cpu(), target[:, :-1]], dim=1).to(self._device)
                rows = self._body(input_ids=ids, use_cache=False).last_hidden_state[:, -answer:]
                said = row_statistics(
                    rows.flatten(0, 1), target.flatten().to(self._device), self._head, (statistic,)
                )
                found.append(getattr(said, statistic).view(len(batch), answer).cpu())
        return torch.cat(found)


def own_predictions(model: nn.Module, context: Int[Tensor, "seq"]) -> Int[Tensor, "seq"]:
    """The most probable token after each prefix of the context, the last one after all of it."""
    with evaluation_mode(model), torch.no_grad():
        device = next(model.parameters()).device
        rows = backbone(model)(input_ids=context[None].to(device), use_cache=False).last_hidden_state[0]
        top = row_statistics(rows, None, output_head(model), ("top",), top_k=1).top_ids
    assert top is not None
    return top[:, 0].cpu()


def is_causal_lm(model: Any) -> bool:
    """Whether a model says the next token; anything else is a classifier or a function."""
    return isinstance(model, nn.Module) and any(
        getattr(module, "get_output_embeddings", lambda: None)() is not None for module in model.modules()
    )


def require_decoder(question: Question, method: str) -> nn.Module:
    """Return the model if it is a causal language model, which `method` reads from the inside."""
    if not is_causal_lm(question.model):
        raise UserError(
            f"{method} looks into a causal language model, got {type(question.model).__name__}: use reagent or leave-one-out for a "
            "function, globenc or decompx for an encoder classifier."
        )
    assert isinstance(question.model, nn.Module)
    return question.model


def _targets(model: Any, texts: Sequence[Tensor], target: Targets | None) -> list[tuple[int, ...]]:
    """The target of every text, checked together with its context."""
    empty = next((row for row, text in enumerate(texts) if not len(text)), None)
    if empty is not None:
        raise UserError(f"context {empty} has no tokens: there is nothing to attribute the answer to.")
    if target is None:
        targets: list[tuple[int, ...]] = [()] * len(texts)
    else:
        given = target.tolist() if isinstance(target, Tensor) else list(target)
        targets = [(one,) if isinstance(one, int) else tuple(map(int, one)) for one in given]
        if len(targets) != len(texts) or not all(targets):
            raise UserError(
                f"give one target, of at least one token, per text: {len(texts)} texts, {len(targets)} targets."
            )
    if is_causal_lm(model):
        require_causal_lm(model)
        lengths = [len(text) + max(0, len(answer) - 1) for text, answer in zip(texts, targets, strict=True)]
        require_readable(model, torch.cat(list(texts)).cpu(), lengths, "the context")
        _require_known(targets, output_head(model).vocabulary)
        if target is None:
            targets = [(int(own_predictions(model, text)[-1]),) for text in texts]
    return targets


def _require_known(targets: Iterable[tuple[int, ...]], number: int) -> None:
    for token in (token for answer in targets for token in answer):
        if not 0 <= token < number:
            raise UserError(f"target {token} is out of range: the model knows 0 to {number - 1}.")


def _padded(rows: Iterable[Tensor | None], real: Bool[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
    values = torch.cat([row.cpu().float() for row in rows if row is not None])
    padded = torch.full(real.shape, torch.nan)
    padded[real.cpu()] = values
    return padded


def replaceable_tokens(question: Question) -> Int[Tensor, "ids"]:
    """The tokens that replacements are drawn from.

    Raises:
        UserError: none is given for a function, or one has no row in the model's embeddings.
    """
    ids, model = question.vocabulary, question.model
    if not isinstance(model, nn.Module):
        if ids is None:
            raise UserError(
                "a function has no vocabulary: give the ids that replacements are drawn from as vocabulary=."
            )
        return ids
    rows = embedding_rows(model)
    if ids is not None:
        if not len(ids) or not 0 <= int(ids.min()) <= int(ids.max()) < rows:
            raise UserError(
                f"vocabulary must hold ids from 0 to {rows - 1}, the rows of the model's embeddings: was it made with another tokenizer?"
            )
        return ids
    settings = causal_lm(model).config.get_text_config()
    roles = {name: value for name, value in settings.to_dict().items() if name.endswith("_token_id")}
    special = {token for value in roles.values() for token in (value if isinstance(value, list) else [value])}
    return torch.tensor([token for token in range(min(rows, settings.vocab_size)) if token not in special])
