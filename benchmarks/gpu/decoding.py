"""Log-probs of tokens while a Llama of one billion parameters generates, beside generation alone and a second pass that reads them."""

from collections.abc import Iterator
from functools import partial

import torch
from _gpu import by_turns, llama, milliseconds, run
from _report import Result, result
from torch import Tensor

from tokenry.core.tensors.step_loop import TokenByToken, token_log_probs

ALONE, TOLD, AGAIN = "generate", "generate with log-probs", "generate and a second pass"


def measure(device: torch.device, smoke: bool) -> Iterator[Result]:
    """Greedy generation of a batch of prompts."""
    model = llama(device, smoke)
    rows, length, new_tokens = (2, 5, 3) if smoke else (32, 128, 128)
    prompts = torch.randint(10, model.config.vocab_size, (rows, length), device=device)
    options = {
        "max_new_tokens": new_tokens,
        "min_new_tokens": new_tokens,
        "do_sample": False,
        "pad_token_id": 0,
    }
    generate = partial(model.generate, input_ids=prompts, attention_mask=torch.ones_like(prompts), **options)
    steps = {
        ALONE: generate,
        TOLD: partial(generate, custom_generate=TokenByToken(), return_dict_in_generate=True),
        AGAIN: lambda: read_again(model, generate(), new_tokens),
    }
    seconds = by_turns(steps, device, rounds=1 if smoke else 2)
    for other, target in ((ALONE, 1.05), (AGAIN, 1.0)):
        yield result(
            f"{TOLD} / {other}",
            seconds[TOLD] / seconds[other],
            target,
            prompts=rows,
            new_tokens=new_tokens,
            milliseconds=milliseconds(seconds),
        )


@torch.no_grad()
def read_again(model, sequences: Tensor, new_tokens: int) -> Tensor:
    """Log-probs of the new tokens by one more forward."""
    logits = model(sequences, logits_to_keep=new_tokens + 1, use_cache=False).logits[:, :-1]
    answers = sequences[:, -new_tokens:]
    return token_log_probs(logits.flatten(0, 1).float(), answers.flatten()).view_as(answers)


if __name__ == "__main__":
    run(measure, __file__, gigabytes=12, seconds=45)
