"""Greedy answers, generated in batches: they depend neither on the rest of the batch nor on the model's own generation defaults."""

import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.tensors.gate import require_causal_lm, require_readable
from tokenry.core.tensors.modes import evaluation_mode


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
        tokenizer: tokenizer of the model.
        prompts: token ids of each prompt.
        max_new_tokens: number of tokens after which an answer is cut off.
        batch_size: number of prompts per batch.
        progress: function that is told the share that is done.

    Returns:
        The generated texts without special tokens, in the order of the prompts.
    """
    require_answers(model, prompts, max_new_tokens)
    greedy = greedy_config(model, tokenizer, max_new_tokens)
    answers = [""] * len(prompts)
    by_length = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    with evaluation_mode(model), torch.no_grad():
        for start in range(0, len(by_length), batch_size):
            batch = by_length[start : start + batch_size]
            generated = _generate(model, [prompts[index] for index in batch], greedy)
            texts = tokenizer.batch_decode(generated, skip_special_tokens=True)
            for index, text in zip(batch, texts, strict=True):
                answers[index] = text
            progress(min(1.0, (start + batch_size) / len(by_length)))
    return answers


def require_answers(model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raise `UserError` unless a model is a causal language model with room for each prompt and its answer, and knows all tokens.

    A model that is not of transformers is left to its own limits.
    """
    if not any(isinstance(module, PreTrainedModel) for module in model.modules()):
        return
    require_causal_lm(model)
    read = list(itertools.chain.from_iterable(prompts))
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
        eos_token_id=last or None,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (last or [0])[0],
    )


def _generate(
    model: nn.Module, prompts: Sequence[Sequence[int]], greedy: GenerationConfig
) -> Int[Tensor, "batch new"]:
    device = next(model.parameters()).device
    longest = max(map(len, prompts))
    input_ids = torch.full((len(prompts), longest), int(greedy.pad_token_id))
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, longest - len(prompt) :] = 1
    output = model.generate(  # type: ignore[operator]
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        generation_config=greedy,
    )
    return output[:, longest:]
