"""Exact bytes from a Llama of one billion parameters: the cost of a byte beside that of a token, and many prompts together."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from _gpu import WARMING, by_turns, llama, milliseconds, run
from _report import Result, result, speedup
from bytes import Subject, embedded_subject, tiny_subject
from torch import Tensor

ROUNDS = 3


def measure(device: torch.device, smoke: bool) -> Iterator[Result]:
    """The first byte after a prompt, and after all prompts."""
    subject = tiny_subject() if smoke else embedded_subject(prompts=12)
    model = llama(device, smoke, vocab_size=len(subject.tokenizer))
    subject = replace(subject, title="Llama, 1B, untrained", model=model)
    steps = {
        "a token": partial(next_token, subject, device),
        "a byte": FirstBytes(subject, [subject.prompts[:1]]),
        "bytes together": FirstBytes(subject, [subject.prompts]),
        "bytes one by one": FirstBytes(subject, [(prompt,) for prompt in subject.prompts]),
    }
    seconds = by_turns(steps, device, ROUNDS)
    settings = {"prompts": len(subject.prompts), "milliseconds": milliseconds(seconds)}
    yield result(
        "the first byte after a prompt / the first token",
        seconds["a byte"] / seconds["a token"],
        3.0,
        **settings,
    )
    yield speedup(
        "the first bytes of several prompts: one by one / together",
        seconds["bytes one by one"] / seconds["bytes together"],
        2.0,
        **settings,
    )


@torch.no_grad()
def next_token(subject: Subject, device: torch.device) -> Tensor:
    """Log-probabilities of the token after the first prompt, on the CPU, where those of bytes end too."""
    ids = subject.tokenizer(subject.prompts[0].decode(), return_tensors="pt").input_ids.to(device)
    return subject.model(ids, logits_to_keep=1).logits.float().log_softmax(-1).cpu()


class FirstBytes:
    """Log-probabilities of the byte after each prompt of each batch; every call has a `ByteLM` that remembers no text yet."""

    def __init__(self, subject: Subject, batches: list[tuple[bytes, ...]]) -> None:
        self.batches = batches
        self.fresh = [subject.byte_lm() for _ in range(WARMING + ROUNDS)]
        for lm in self.fresh:
            lm.next_byte_logprobs(b"a")  # what it makes once for its tokenizer

    def __call__(self) -> None:
        """Ask about every batch."""
        lm = self.fresh.pop()
        for prompts in self.batches:
            lm.next_byte_logprobs(list(prompts))


if __name__ == "__main__":
    run(measure, __file__, gigabytes=12, seconds=75)
