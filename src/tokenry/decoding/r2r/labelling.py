"""Label the tokens of a large model's answers for a router: where the small model differs, and whether that matters.

    answer      the large model's own, greedy          features    the small model's, one forward of each answer
    mismatch    find_mismatches                        verdict     the verifier, on two continuations of the large model
    label       align_labels, rows of the instruction left out

Following the large model's own path costs one continuation per mismatch, not one for each of the paths that small tokens could take.

Source: R2R (arXiv 2505.21600), section 4.1.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress, named, part
from tokenry.core.tensors.gate import name_of
from tokenry.core.tensors.generation import continue_prompts, greedy_config, require_answers, right_padded
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.output_head import backbone, causal_lm, output_head
from tokenry.core.tensors.row_statistics import row_statistics
from tokenry.core.tensors.step_loop import Block, GrowingBatch, TokenByToken, TokenChoice
from tokenry.decoding.r2r.features import LabelledTokens, Response, ResponseRows, read_features
from tokenry.decoding.r2r.labels import INSTRUCTION, TokenLabels, align_labels, find_mismatches
from tokenry.decoding.r2r.sentence_context import real_continuation, stop_token_ids
from tokenry.decoding.r2r.verifiers import Divergence, DivergenceVerifier
from tokenry.models.identity import ModelIdentity

THINK, THINK_END = "<think>", "</think>"
SENTENCES = 2
"""Stop tokens that a branch is continued through, so that Punkt sees what follows the sentence."""
_SENTENCE_TOKENS = 128


def write_responses(
    large: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int = 256,
    batch_size: int = 8,
    progress: Progress = lambda what, share: None,
) -> dict[int, Response]:
    """Let the large model answer prompts greedily, and keep the answers that end, by the number of their prompt.

    Raises:
        UserError: no answer ends.
    """
    require_answers(large, prompts, max_new_tokens)
    config = greedy_config(large, tokenizer, max_new_tokens)
    told = named(progress, "the large model answers")
    answers = continue_prompts(large, prompts, config, batch_size, TokenByToken(), told)
    ends = config.eos_token_id or []
    kept = {
        number: Response(list(prompt), list(answer.token_ids))
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        if answer.token_ids[-1] in ends
    }
    if not kept:
        raise UserError(
            f"none of {len(prompts)} answers of the large model ends within {max_new_tokens} tokens: give max_new_tokens a larger number."
        )
    return kept


def label_responses(
    small: nn.Module,
    large: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    responses: Sequence[Response],
    verifier: DivergenceVerifier,
    *,
    top_k: int = 100,
    batch_size: int = 8,
    progress: Progress = lambda what, share: None,
) -> tuple[LabelledTokens, list[Divergence], list[int]]:
    """Read and judge a large model's answers: all that a router is trained on.

    Args:
        small: the small model.
        large: the large model.
        responses: what the large model wrote.
        verifier: judges mismatches.
        top_k: number of logits that are kept.
        batch_size: texts per forward.
        progress: called with the stage and the share that is done.

    Returns:
        The labelled tokens, the mismatches, and the verdict on each.
    """
    think_end = _think_end(tokenizer)
    rows = ResponseRows(responses, think_end)
    told = named(part(progress, 0.0, 0.2), "the small model reads")
    features = read_features(small, responses, top_k, batch_size, told)
    seen = rows.types > INSTRUCTION
    predictions = torch.full_like(rows.ids, -1)
    predictions[seen] = features.tokens
    found, divergences, verdicts = _judged(
        large, tokenizer, responses, predictions, verifier, batch_size, part(progress, 0.2, 1.0)
    )
    identities = (
        ModelIdentity.of(_Named(small, tokenizer)),
        ModelIdentity.of(_Named(large, tokenizer)),
    )
    labelled = LabelledTokens(
        features, found.divergent[seen], found.mismatch[seen], *identities, {"texts": len(responses)}
    )
    return labelled, divergences, verdicts


def label_divergence(
    large: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    responses: Sequence[Response],
    small_predictions: Int[Tensor, "rows"],
    verifier: DivergenceVerifier,
    batch_size: int = 8,
    progress: Progress = lambda what, share: None,
) -> TokenLabels:
    """Label every row of responses, given what a small model predicts at each.

    Args:
        large: the large model, which continues both branches.
        tokenizer: tokenizer of both models.
        responses: what the large model wrote.
        small_predictions: the small model's most probable next token after each token of all responses, one after another.
        verifier: judges mismatches.
        batch_size: texts per forward.
        progress: called with the stage and the share that is done.
    """
    return _judged(large, tokenizer, responses, small_predictions, verifier, batch_size, progress)[0]


def _judged(
    large: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    responses: Sequence[Response],
    predictions: Int[Tensor, "rows"],
    verifier: DivergenceVerifier,
    batch_size: int,
    progress: Progress,
) -> tuple[TokenLabels, list[Divergence], list[int]]:
    require_at_least(1, batch_size=batch_size)
    short = [number for number, response in enumerate(responses) if len(response.prompt_ids) < 2]
    if short:
        raise UserError(
            f"the prompt of response {short[0]} has fewer than 2 tokens: tokens are labelled from the last one of the prompt on."
        )
    think_end = _think_end(tokenizer)
    rows = ResponseRows(responses, think_end)
    positions = find_mismatches(predictions, rows.ids, rows.types, think_end, rows.texts)
    places = list(
        zip(
            rows.texts[positions].tolist(),
            (positions - rows.starts[rows.texts[positions]]).tolist(),
            predictions[positions - 1].tolist(),
            strict=True,
        )
    )
    progress("the large model reads", 0.0)
    gaps = _gaps(large, responses, places, batch_size)
    told = part(progress, 0.1, 0.9)
    branches = _branches(large, tokenizer, responses, places, verifier, batch_size, told)
    divergences = [
        Divergence(text, responses[text], position, token, *branch, gap)
        for (text, position, token), branch, gap in zip(places, branches, gaps, strict=True)
    ]
    progress("the verifier judges", 0.9)
    verdicts = verifier(divergences) if divergences else []
    return align_labels(rows.types, positions, verdicts), divergences, verdicts


Place = tuple[int, int, int]
"""A mismatch: number of the response, place in it, the small model's token."""


@torch.no_grad()
def _gaps(
    large: nn.Module, responses: Sequence[Response], places: Sequence[Place], batch_size: int
) -> list[float]:
    """Log-probability of the written token less that of the small model's, from one forward of each response."""
    head, body = output_head(large), backbone(large)
    device, gaps = next(large.parameters()).device, []
    with evaluation_mode(large):
        for start in range(0, len(responses), batch_size):
            batch = responses[start : start + batch_size]
            here = [place for place in places if start <= place[0] < start + len(batch)]
            if not here:
                continue
            ids, real = right_padded([response.ids for response in batch], device=device)
            hidden = body(input_ids=ids, attention_mask=real.long(), use_cache=False).last_hidden_state
            text, position, token = torch.tensor(here, device=device).T
            before = hidden[text - start, position - 1]
            small, written = (
                row_statistics(before, targets, head, ("nll",)).nll
                for targets in (token, ids[text - start, position])
            )
            assert small is not None
            assert written is not None
            gaps += (small - written).tolist()
    return gaps


def _branches(
    large: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    responses: Sequence[Response],
    places: Sequence[Place],
    verifier: DivergenceVerifier,
    batch_size: int,
    progress: Progress,
) -> list[tuple[list[int], list[int]]]:
    """What the large model writes after the small model's token, and what it wrote after its own, as far as the verifier needs."""
    if verifier.reach == "token" or not places:
        return [([], [])] * len(places)
    sentences = SENTENCES if verifier.reach == "sentence" else None
    longest = _SENTENCE_TOKENS
    if (
        sentences is None
    ):  # an answer may take the longer way: half again as long as the longest one is enough
        longest = 1 + 3 * max(len(response.token_ids) for response in responses) // 2
    stops = _stop_tokens(tokenizer) if sentences else frozenset()
    config = greedy_config(large, tokenizer, longest)
    ends = config.eos_token_id or []
    if not ends:
        raise UserError(
            "neither the large model nor its tokenizer has an end token: set tokenizer.eos_token."
        )
    begun = [[*responses[text].ids[:position], token] for text, position, token in places]
    open_ = [number for number, ids in enumerate(begun) if ids[-1] not in ends]
    require_answers(large, [begun[number] for number in open_], longest)
    decoder = _ToSentenceEnd(stops, sentences, ends[0]) if sentences else TokenByToken()
    told = named(progress, "the large model continues both ways")
    written = continue_prompts(large, [begun[number] for number in open_], config, batch_size, decoder, told)
    small: list[list[int]] = [[] for _ in places]
    for number, continuation in zip(open_, written, strict=True):
        small[number] = list(continuation.token_ids)
        if sentences and small[number][-1] in ends:
            small[number] = small[number][:-1]
    return [
        (branch, real_continuation(responses[text].ids, position, stops, ends[0], longest, sentences))
        for branch, (text, position, _) in zip(small, places, strict=True)
    ]


class _ToSentenceEnd(TokenByToken):
    """Greedy decoding that ends a row once it has written a number of stop tokens."""

    def __init__(self, stops: frozenset[int], sentences: int, end: int) -> None:
        self._stops, self._sentences, self._end = torch.tensor(sorted(stops)), sentences, end

    def blocks(
        self,
        model: Any,
        batch: GrowingBatch,
        choose: TokenChoice,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
    ) -> Iterator[Block]:
        """One token per row and step; the end in the place of what would follow the last sentence."""
        stops = self._stops.to(batch.input_ids.device)
        for block in super().blocks(model, batch, choose, generation_config, model_kwargs):
            written = torch.isin(batch.sequences()[:, batch.prompt_length :], stops).sum(1)
            yield block._replace(
                tokens=block.tokens.masked_fill((written >= self._sentences)[:, None], self._end)
            )


class _Named:
    """A model and its tokenizer, as a `ModelIdentity` is made from."""

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer, self.name = model, tokenizer, name_of(causal_lm(model))


def _think_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    return tokenizer.get_vocab().get(THINK_END)


def _stop_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    known = tokenizer.get_vocab()
    return frozenset(stop_token_ids(tokenizer, [word for word in (THINK, THINK_END) if word in known]))
