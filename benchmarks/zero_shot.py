"""Zero-shot scores of text: all from one pass against one pass each, and batches against one text at a time.

One pass each is how the released codes score: every score runs the model over the same batch and takes what it needs from full logits by
softmax and log-softmax. One text at a time is our own detector with batches of 1, on short texts, where most of a pass is overhead.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from _measure import Step, interleaved
from _report import Result, run, speedup
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tokenry.data import ZeroShotDetector
from tokenry.models import LocalText, load_model, load_tokenizer

Scored = Callable[[Tensor, Tensor], Tensor]


def measure(smoke: bool) -> Iterator[Result]:
    """Both ratios, in CPU time of one thread."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer("embedded")
    model = tiny_model(len(tokenizer)) if smoke else load_model("embedded", dtype="float32").eval()
    scorer = LocalText(model, tokenizer, batch_size=8, name="SmolLM2-135M")
    yield one_pass(scorer, *((3, 20, 1) if smoke else (6, 48, 2)))
    yield batches(scorer, *((4, 6, 1) if smoke else (32, 6, 2)))


def tiny_model(vocabulary: int) -> LlamaForCausalLM:
    """For smoke runs: untrained."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes)).eval()


def texts_of(scorer: LocalText, texts: int, tokens: int) -> list[str]:
    """Random words, each a token of its own."""
    known = (token[1:] for token in scorer.tokenizer.get_vocab() if token.startswith("Ġ"))
    words = [word for word in known if word.isascii() and word.isalpha() and len(word) > 3]
    draws = np.random.default_rng(0)
    return ["".join(f" {word}" for word in draws.choice(sorted(words), tokens)) for _ in range(texts)]


def one_pass(scorer: LocalText, texts: int, tokens: int, rounds: int) -> Result:
    """Five scores of one batch."""
    detector, written = ZeroShotDetector(scorer), texts_of(scorer, texts, tokens)
    ids = torch.tensor(scorer.tokenizer(written)["input_ids"])

    def each() -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {
                name: score(scorer.model(input_ids=ids, use_cache=False).logits[:, :-1], ids[:, 1:]).numpy()
                for name, score in RELEASED.items()
            }

    found, expected = detector.score(written), each()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4)
    steps: dict[str, Step] = {"tokenry": partial(detector.score, written), "one pass each": each}
    return compared(
        "five zero-shot scores: one pass each / one pass",
        steps,
        rounds,
        texts=texts,
        tokens=tokens,
    )


def batches(scorer: LocalText, texts: int, tokens: int, rounds: int) -> Result:
    """The same detector with batches of 32 and of 1."""
    written = texts_of(scorer, texts, tokens)
    many, single = (
        ZeroShotDetector(LocalText(scorer.model, scorer.tokenizer, batch_size=size, name=scorer.name))
        for size in (32, 1)
    )
    np.testing.assert_allclose(
        many.score(written)["likelihood"], single.score(written)["likelihood"], rtol=1e-3, atol=1e-4
    )
    steps: dict[str, Step] = {
        "tokenry": partial(many.score, written),
        "single": partial(single.score, written),
    }
    return compared(
        "zero-shot scores of short texts: one at a time / batches of 32",
        steps,
        rounds,
        texts=texts,
        tokens=tokens,
    )


def log_p(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities of the labels from full logits."""
    return logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]


def ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Ranks by sorting whole rows."""
    order = logits.argsort(-1, descending=True)
    return (order == labels[..., None]).int().argmax(-1) + 1.0


def entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean entropy."""
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean(-1)


def discrepancy(logits: Tensor, labels: Tensor) -> Tensor:
    """Fast-DetectGPT in closed form."""
    p, log_probabilities = logits.softmax(-1), logits.log_softmax(-1)
    mean = (p * log_probabilities).sum(-1)
    variance = (p * log_probabilities.square()).sum(-1) - mean.square()
    return (log_p(logits, labels).sum(-1) - mean.sum(-1)) / variance.sum(-1).sqrt()


RELEASED: Mapping[str, Scored] = {
    "likelihood": lambda logits, labels: log_p(logits, labels).mean(-1),
    "rank": lambda logits, labels: -ranks(logits, labels).mean(-1),
    "logrank": lambda logits, labels: -ranks(logits, labels).log().mean(-1),
    "entropy": entropy,
    "fast_detectgpt": discrepancy,
}


def compared(name: str, steps: Mapping[str, Step], rounds: int, **settings: int) -> Result:
    seconds = interleaved(steps, rounds, threads=1)
    other = next(step for step in steps if step != "tokenry")
    return speedup(
        name,
        seconds[other].cpu / seconds["tokenry"].cpu,
        3,
        threads=1,
        rounds=rounds,
        cpu_milliseconds={step: round(1000 * taken.cpu, 1) for step, taken in seconds.items()},
        **settings,
    )


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
