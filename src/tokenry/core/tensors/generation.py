"""Continue prompts in batches: what comes out depends neither on the rest of the batch nor on the model's own generation defaults.

greedy_answers      one greedy text per prompt
continue_prompts    token ids of each continuation, with their log-probabilities where asked: one gather per step, no second forward
answer_log_probs    log-probabilities of answers that are given

A model that reads its prompts in an encoder (T5, BART) is continued from its start token.
"""

import copy
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.tensors.alignment import predicting_rows
from tokenry.core.tensors.gate import require_causal_lm, require_readable
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.output_head import backbone, is_encoder_decoder, output_head
from tokenry.core.tensors.row_statistics import row_nll
from tokenry.core.tensors.shared_prefix import SharedPrefix, shared_prefix
from tokenry.core.tensors.step_loop import Decoder, token_log_probs


@dataclass(frozen=True)
class Continuation:
    """What a model wrote after one prompt.

    Attributes:
        token_ids: new tokens, the one that ended it included.
        log_probs: of each in nats; None where the decoding computes none.
        sources: which model wrote each; None where there is one model.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...] | None = None
    sources: tuple[int, ...] | None = None


def greedy_answers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    progress: Callable[[float], None] = lambda share: None,
) -> list[str]:
    """Generate one greedy answer per prompt; batches are padded on the left, which never changes an answer.

    Args:
        model: model with a method `generate`. Its mode is restored afterwards.
        prompts: token ids of each prompt.
        max_new_tokens: number of tokens after which an answer is cut off.
        batch_size: number of prompts per batch.
        progress: function that is told the share that is done.

    Returns:
        The generated texts without special tokens, in the order of the prompts.
    """
    require_answers(model, prompts, max_new_tokens)
    greedy = greedy_config(model, tokenizer, max_new_tokens)
    answers = continue_prompts(model, prompts, greedy, batch_size, progress=progress)
    return tokenizer.batch_decode([list(answer.token_ids) for answer in answers], skip_special_tokens=True)


def continue_prompts(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    generation_config: GenerationConfig,
    batch_size: int,
    decoder: Decoder | None = None,
    progress: Callable[[float], None] = lambda share: None,
    share_prefix: bool = False,
    **options: Any,
) -> list[Continuation]:
    """Continue each prompt, the longest first, so that a batch holds prompts of about one length.

    Args:
        model: model with a method `generate`. Its mode is restored afterwards.
        prompts: token ids of each prompt.
        generation_config: how to choose tokens, and when to end.
        batch_size: number of prompts per batch.
        decoder: the way to decode (`TokenByToken` tells log-probs); None for the model's own.
        progress: function that is told the share that is done.
        share_prefix: whether what all prompts begin with is read once only, where the model allows it.
        **options: passed to `generate`, such as `stopping_criteria`.

    Returns:
        The continuations in the order of the prompts.
    """
    found: dict[int, Continuation] = {}
    by_length = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    with evaluation_mode(model), torch.no_grad(), _unforced_end(model):
        prefix = shared_prefix(model, prompts) if share_prefix else None
        for start in range(0, len(by_length), batch_size):
            batch = by_length[start : start + batch_size]
            rows = [prompts[index] for index in batch]
            found |= zip(
                batch, _continued(model, rows, generation_config, decoder, prefix, options), strict=True
            )
            progress(min(1.0, (start + batch_size) / len(by_length)))
    return [found[index] for index in range(len(prompts))]


def answer_log_probs(
    model: nn.Module, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], batch_size: int
) -> list[tuple[float, ...]]:
    """Log-probability in nats of each token of given answers: what `continue_prompts` tells of those that the model writes itself.

    Args:
        model: language model, causal or an encoder-decoder.
        prompts: token ids of each prompt.
        answers: token ids of the answer to each, not empty; with an end token, if the end is to count.
        batch_size: number of prompts per batch.
    """
    score = _encoded_log_probs if is_encoder_decoder(model) else _continued_log_probs
    found: dict[int, tuple[float, ...]] = {}
    by_length = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    with evaluation_mode(model), torch.no_grad():
        for start in range(0, len(by_length), batch_size):
            batch = by_length[start : start + batch_size]
            given = [answers[index] for index in batch]
            values = score(model, [prompts[index] for index in batch], given)
            found |= zip(
                batch, (tuple(row.tolist()) for row in values.split([*map(len, given)])), strict=True
            )
    return [found[index] for index in range(len(prompts))]


def _encoded_log_probs(
    model: nn.Module, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> Float[Tensor, "tokens"]:
    device = next(model.parameters()).device
    (ids, real), (targets, written) = (right_padded(rows, device=device) for rows in (prompts, answers))
    logits = model(input_ids=ids, attention_mask=real.long(), labels=targets).logits
    return token_log_probs(logits[written].float(), targets[written])


def _continued_log_probs(
    model: nn.Module, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> Float[Tensor, "tokens"]:
    device = next(model.parameters()).device
    texts = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    ids, real = right_padded(texts, device=device)
    begins = torch.tensor([*map(len, prompts)], device=device)
    written = real & (torch.arange(ids.shape[1], device=device) >= begins[:, None])
    hidden_states = backbone(model)(
        input_ids=ids, attention_mask=real.long(), use_cache=False
    ).last_hidden_state
    return -row_nll(predicting_rows(hidden_states, written), ids[written], output_head(model))


def require_answers(
    model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int, encoder_decoders: bool = False
) -> None:
    """Raise `UserError` unless a model is a causal language model with room for each prompt and its answer, and knows all tokens.

    A model that is not of transformers is left to its own limits. With `encoder_decoders`, one that reads its prompt in an encoder will do:
    prompt and answer then have room for themselves.
    """
    if not any(isinstance(module, PreTrainedModel) for module in model.modules()):
        return
    read = list(itertools.chain.from_iterable(prompts))
    if encoder_decoders and is_encoder_decoder(model):
        lengths = [*map(len, prompts), max_new_tokens]
    else:
        require_causal_lm(model)
        lengths = [len(prompt) + max_new_tokens - 1 for prompt in prompts]  # the last one is not read again
    require_readable(model, read, lengths, f"the prompts, with answers of up to {max_new_tokens} tokens")


def greedy_config(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, ends: Iterable[int] = ()
) -> GenerationConfig:
    """Greedy decoding that ignores the model's own defaults: a shipped temperature or penalty would change the measurement.

    The end tokens of the model, the eos token of the tokenizer and `ends` end an answer.
    """
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    known = {*ends, *(own if isinstance(own, list) else [own]), tokenizer.eos_token_id}
    last = sorted(end for end in known if end is not None)
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        min_length=0,
        eos_token_id=last or None,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (last or [0])[0],
    )


def _continued(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    generation_config: GenerationConfig,
    decoder: Decoder | None,
    prefix: SharedPrefix | None,
    options: dict[str, Any],
) -> list[Continuation]:
    device = next(model.parameters()).device
    pad_token, has_encoder = int(generation_config.pad_token_id or 0), is_encoder_decoder(model)
    # An encoder counts its positions from the first column; an answer grows from the last one.
    input_ids, attention_mask = (right_padded if has_encoder else left_padded)(prompts, pad_token)
    begun = 1 if has_encoder else input_ids.shape[1]
    inputs = {
        "input_ids": input_ids.to(device),
        "attention_mask": attention_mask.long().to(device),
        **options,
    }
    if prefix is not None:
        inputs["past_key_values"] = prefix.cache((attention_mask == 0).sum(1).to(device))
    if decoder is None:
        ends = generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        output = model.generate(**inputs, generation_config=generation_config)  # type: ignore[operator]
        return [Continuation(_until(ends, row)) for row in output[:, begun:].tolist()]
    generation_config = copy.copy(generation_config)
    generation_config.return_dict_in_generate = True
    output = model.generate(**inputs, generation_config=generation_config, custom_generate=decoder)  # type: ignore[operator]
    columns = output.sequences[:, begun:], output.log_probs, output.sources
    return [
        Continuation(*(None if values is None else tuple(values[row, :count].tolist()) for values in columns))  # type: ignore[arg-type]
        for row, count in enumerate(output.new_tokens.tolist())
    ]


def _until(ends: Collection[int | None], row: Sequence[int]) -> tuple[int, ...]:
    """The tokens up to the first end; padding follows it."""
    end = next((place for place, token in enumerate(row) if token in ends), len(row))
    return tuple(row[: end + 1])


@contextmanager
def _unforced_end(model: nn.Module) -> Iterator[None]:
    """Without a forced end among the model's own defaults (BART): an answer that is cut off has not ended."""
    own: Any = getattr(model, "generation_config", None)
    forced = getattr(own, "forced_eos_token_id", None)
    if forced is None:
        yield
        return
    own.forced_eos_token_id = None
    try:
        yield
    finally:
        own.forced_eos_token_id = forced


def left_padded(
    prompts: Sequence[Sequence[int]], pad_token: int
) -> tuple[Int[Tensor, "batch longest"], Int[Tensor, "batch longest"]]:
    """Token ids and attention mask of prompts that end together."""
    ids, mask = right_padded([prompt[::-1] for prompt in prompts], pad_token)
    return ids.flip(1), mask.flip(1).long()


def right_padded(
    prompts: Sequence[Sequence[int]], pad_token: int = 0, device: torch.device | None = None
) -> tuple[Int[Tensor, "batch longest"], Bool[Tensor, "batch longest"]]:
    """Token ids of texts that begin together, and which of them are real."""
    rows = [torch.tensor(prompt) for prompt in prompts]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_token)
    lengths = torch.tensor([len(row) for row in rows])
    return ids.to(device), (torch.arange(ids.shape[1]) < lengths[:, None]).to(device)
