"""Ask a model: let it write an answer, or compare the probabilities of all possible answers.

    generate   greedy (temperature 0), then int(response) or invalid, as in the paper
    score      prediction = argmax over answers of  Σ log p(token | prompt, tokens of the answer before it)

An answer's tokens include the token that ends it, so 1 is not taken for the beginning of 10; the score is then the log-probability, in
nats, of exactly this answer. The common beginning of all prompts is computed once, a prompt once, and each answer continues from there.
Batches hold prompts of one length, so that no model needs padding.

Source: CharBench (arXiv 2508.02591), section 4 (generate).
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from pandas import DataFrame, Series
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.core.tensors.generation import greedy_config, require_answers
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.evaluation.charbench.items import check_items
from tokenry.evaluation.charbench.prompt import Asked, ask, parse_answer

Mode = Literal["generate", "score"]
MODES = ("generate", "score")
NEW_TOKENS = 16


def evaluate_charbench(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    items: DataFrame,
    mode: Mode = "score",
    batch_size: int = 32,
    report: Callable[[float], None] = lambda share: None,
) -> DataFrame:
    """Ask a causal language model every item.

    Args:
        model: model of transformers, on any device; its mode is restored afterwards.
        tokenizer: tokenizer of the model, with or without a chat template.
        items: table as of `build_charbench`, or some of its rows.
        mode: `generate` reads the answer that the model writes; `score` compares all answers from 0 to the longest word's length.
        batch_size: number of items per batch.
        report: function that is told the share of the items that is done.

    Returns:
        One row per item, indexed as the items. `prediction` is an integer as float, nan for a response that is not an integer. With
        `generate`, `response` is the written text; with `score`, `logprob` and `answer_logprob` belong to the prediction and to the
        correct answer.

    Raises:
        UserError: a model without a cache to score from (mode `score`).
    """
    check_items(items)
    require_one_of(mode, MODES, "mode")
    require_at_least(1, batch_size=batch_size)
    candidates = range(max(map(len, items["word"])) + 1)
    asked = ask(items, tokenizer, candidates)
    longest = NEW_TOKENS if mode == "generate" else max(map(len, asked.answers))
    require_answers(model, asked.prompts, longest)
    with evaluation_mode(model), torch.inference_mode():
        if mode == "generate":
            return _generated(model, tokenizer, items, asked, batch_size, report)
        return _scored(model, items, asked, batch_size, report)


def as_number(answer: int | None) -> float:
    """An integer as float: nan for none, infinite where it is too large for a float."""
    try:
        return float("nan") if answer is None else float(answer)
    except OverflowError:
        return float("inf")


def equal_lengths(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Divide prompts into batches of one length each, the longest first; yields their places."""
    places = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    start = 0
    while start < len(places):
        length = len(prompts[places[start]])
        batch = [place for place in places[start : start + batch_size] if len(prompts[place]) == length]
        yield batch
        start += len(batch)


def _generated(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    items: DataFrame,
    asked: Asked,
    batch_size: int,
    report: Callable[[float], None],
) -> DataFrame:
    ends = () if asked.one_line else {answer[-1] for answer in asked.answers}
    greedy = greedy_config(model, tokenizer, NEW_TOKENS, ends)
    device = next(model.parameters()).device
    responses, done = [""] * len(items), 0
    for batch in equal_lengths(asked.prompts, batch_size):
        input_ids = torch.tensor([asked.prompts[place] for place in batch], device=device)
        written = model.generate(  # type: ignore[operator]
            input_ids=input_ids, attention_mask=torch.ones_like(input_ids), generation_config=greedy
        )
        texts = tokenizer.batch_decode(written[:, input_ids.shape[1] :], skip_special_tokens=True)
        for place, text in zip(batch, texts, strict=True):
            responses[place] = text.strip().split("\n")[0] if asked.one_line else text
        done += len(batch)
        report(done / len(items))
    return DataFrame(
        {
            "prediction": [as_number(parse_answer(response)) for response in responses],
            "response": Series(responses, dtype=object, index=items.index),
        },
        index=items.index,
    )


def _scored(
    model: nn.Module, items: DataFrame, asked: Asked, batch_size: int, report: Callable[[float], None]
) -> DataFrame:
    scores, done = torch.empty(len(items), len(asked.answers)), 0
    # The questions of one task have more in common than those of all.
    for places in items.groupby("task", sort=False).indices.values():
        prompts = [asked.prompts[place] for place in places]
        scorer = AnswerScorer(model, prompts, asked.answers)
        for batch in equal_lengths(prompts, batch_size):
            scores[places[batch]] = scorer([prompts[place] for place in batch]).float().cpu()
            done += len(batch)
            report(done / len(items))
    gold = torch.tensor([int(answer) for answer in items["answer"]])
    best = scores.max(dim=1)
    return DataFrame(
        {
            "prediction": best.indices.double().numpy(),
            "logprob": best.values.numpy(),
            "answer_logprob": scores.gather(1, gold[:, None])[:, 0].numpy(),
        },
        index=items.index,
    )


@dataclass(frozen=True)
class Continuations:
    """Token sequences that are read after a prompt, and the tokens of answers that they predict.

    Attributes:
        stems: beginnings of answers, all of one length.
        steps: (answer, stem, place in the stem, token of the answer that follows this place).
    """

    stems: list[tuple[int, ...]]
    steps: list[tuple[int, int, int, int]]


class AnswerScorer:
    """Log-probabilities of all answers to prompts of one length.

    Args:
        model: causal language model whose cache can be repeated.
        prompts: token ids of all prompts that will be asked; their common beginning is computed once.
        answers: token ids of each answer.
    """

    def __init__(
        self, model: nn.Module, prompts: Sequence[list[int]], answers: Sequence[Sequence[int]]
    ) -> None:
        self._model = model
        self._first_tokens = [answer[0] for answer in answers]
        self._continuations = continuations(answers)
        self._device = next(model.parameters()).device
        accepted = inspect.signature(model.forward).parameters
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        # A prompt keeps one token of its own, from which the first token of the answer is predicted.
        self._common = common_prefix(prompts)[: min(map(len, prompts)) - 1]
        self._cache = self._read([self._common], None)[1] if self._common else None

    def __call__(self, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "prompts answers"]:
        """Score every answer to each prompt, in nats."""
        own = [prompt[len(self._common) :] for prompt in prompts]
        logits, cache = self._read(own, self._repeated(self._cache, len(prompts)), **self._last_only)
        scores = logits[:, -1].log_softmax(dim=-1)[:, self._first_tokens]
        for group in self._continuations:
            times = len(group.stems)
            logits, _ = self._read(group.stems * len(prompts), self._repeated(cache, times))
            later = logits.log_softmax(dim=-1).unflatten(0, (len(prompts), times))
            for column, row, step, token in group.steps:
                scores[:, column] += later[:, row, step, token]
        return scores

    def _read(
        self, ids: Sequence[Sequence[int]], cache: Any, **options: Any
    ) -> tuple[Float[Tensor, "batch seq vocabulary"], Any]:
        input_ids = torch.tensor(ids, device=self._device, dtype=torch.long)
        output = self._model(input_ids=input_ids, past_key_values=cache, use_cache=True, **options)
        return output.logits.float(), output.past_key_values

    def _repeated(self, cache: Any, times: int) -> Any:
        """A copy with `times` continuations of every row, since a forward pass writes into the cache it is given."""
        if cache is None:
            return None
        if not hasattr(cache, "batch_repeat_interleave"):
            raise UserError(
                f"{type(self._model).__name__} keeps no cache from which answers could continue: use mode generate."
            )
        repeated = copy.deepcopy(cache)
        repeated.batch_repeat_interleave(times)
        return repeated


def common_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """The common beginning of all prompts, which is that of the first and the last of them in sorted order."""
    low, high = min(prompts), max(prompts)
    differing = (place for place, (one, other) in enumerate(zip(low, high, strict=False)) if one != other)
    return low[: next(differing, min(len(low), len(high)))]


def continuations(answers: Sequence[Sequence[int]]) -> list[Continuations]:
    """The stems to read so that all tokens of the answers but their first are predicted: the answers without their last token, by length.

    A stem that begins a longer one is read with it, and every answer follows one stem only. The answers `1 $`, `1 0 $` and `2 $` need the
    stems `1 0` (which predicts `$` and `0` after `1`, and `$` after `1 0`) and `2`.
    """
    stems = {tuple(answer[:-1]) for answer in answers} - {()}
    needed = sorted(stem for stem in stems if not any(o != stem and o[: len(stem)] == stem for o in stems))
    left = {column: tuple(answer[:-1]) for column, answer in enumerate(answers) if len(answer) > 1}
    groups = []
    for length in sorted({len(stem) for stem in needed}):
        group = [stem for stem in needed if len(stem) == length]
        begun = {stem[:end]: row for row, stem in enumerate(group) for end in range(1, length + 1)}
        along = {column: begun[stem] for column, stem in left.items() if stem in begun}
        left = {column: stem for column, stem in left.items() if column not in along}
        steps = [
            (column, row, step, token)
            for column, row in along.items()
            for step, token in enumerate(answers[column][1:])
        ]
        groups.append(Continuations(group, steps))
    return groups
