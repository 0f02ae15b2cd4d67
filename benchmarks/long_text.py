"""Long texts: hacks against a loop with NLTK's words, their rate and growth with the text, and what a shorter window saves.

The texts are the docstrings of scipy, repeated; the loop drops the same stop words and judges every word anew, as it is usually written.
The encoder has 4 layers of width 256 and is trained for a step on a batch of 8.
"""

from collections.abc import Iterator

import torch
from _measure import Step, interleaved
from _report import Result, result, run, speedup
from nltk.tokenize import wordpunct_tokenize
from transformers import BertConfig, BertForSequenceClassification

from tokenry.compression.text import TextHacks, stopword_list
from tokenry.core.text.docstrings import read_docstrings

MEGABYTE = 1e6
LENGTHS = (128, 512)


def measure(smoke: bool) -> Iterator[Result]:
    """Shortening, and training at both windows."""
    yield from shortening(smoke)
    yield window(smoke)


def shortening(smoke: bool) -> Iterator[Result]:
    """CPU time of dropping stop words, and of all hacks."""
    found = read_docstrings(["scipy"], most_files=4 if smoke else 120)
    texts = list(found.train) * (1 if smoke else 4)
    stopwords, double = stopword_list("english"), [f"{text} {text}" for text in texts]
    alone = TextHacks(stopwords=stopwords)
    every = TextHacks(stopwords=stopwords, punctuation=True, min_count=2, recurring=True).fit(texts)
    steps: dict[str, Step] = {
        "NLTK": lambda: loop(texts, stopwords),
        "stop words": lambda: alone.transform(texts),
        "all hacks": lambda: every.transform(texts),
        "twice the text": lambda: every.transform(double),
    }
    seconds = interleaved(steps, 1 if smoke else 5, threads=1)
    size = sum(map(len, texts)) / MEGABYTE
    settings = {
        "megabytes": round(size, 3),
        "cpu_seconds": {name: round(taken.cpu, 4) for name, taken in seconds.items()},
        "threads": 1,
    }
    cpu = {name: taken.cpu for name, taken in seconds.items()}
    yield speedup("stop words: NLTK loop / tokenry", cpu["NLTK"] / cpu["stop words"], 1.0, **settings)
    yield speedup("all hacks: megabytes per CPU second", size / cpu["all hacks"], 1.0, **settings)
    yield result(
        "all hacks: twice the text / the text", cpu["twice the text"] / cpu["all hacks"], 2.2, **settings
    )


def loop(texts: list[str], stopwords: frozenset[str]) -> list[str]:
    """Stop words dropped word by word."""
    return [
        " ".join(word for word in wordpunct_tokenize(text) if word.casefold() not in stopwords)
        for text in texts
    ]


def window(smoke: bool) -> Result:
    """CPU time of a training step at both windows."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    if smoke:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForSequenceClassification(BertConfig(**sizes, vocab_size=1000, num_labels=8))

    def step(length: int) -> Step:
        ids, labels = torch.randint(1000, (8, length)), torch.arange(8)
        return lambda: model(input_ids=ids, labels=labels).loss.backward()

    seconds = interleaved({str(length): step(length) for length in LENGTHS}, 1 if smoke else 3, threads=1)
    short, long = (seconds[str(length)].cpu for length in LENGTHS)
    return speedup(
        "training step: 512 tokens / 128 tokens", long / short, 4.0,
        cpu_seconds={name: round(taken.cpu, 3) for name, taken in seconds.items()}, batch=8, threads=1, **sizes,
    )  # fmt: skip


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
