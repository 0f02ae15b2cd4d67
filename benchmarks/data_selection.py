"""Choosing training data: pair scores, document losses, fastText's classifier and the filter of a corpus, beside loops and peers.

The released loop counts the pairs of a document one by one, and looks up every loss and every benchmark by its names. fastText is the wheel's `predict`, one text at a time and in lists, on the same
`.bin` file. Losses are measured beside one document at a time in the order of the corpus, with logits of every position in float32, and
beside the released stream: one window at a time, of which the tokens of a stride are scored and the rest, 2.7 times as much, is read again. The
filter runs from file to file beside datatrove's `FastTextClassifierFilter` between its reader and its writer. One core each.

`make bench` installs fasttext; datatrove is measured where it is installed: without them their lines are left out, which is said.
"""

import importlib
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import interleaved
from _report import Result, installed_version, note, run, speedup
from torch import Tensor

from tokenry.core.io.corpus import read_shard
from tokenry.core.text.bits_per_byte import first_token, scored_spans
from tokenry.core.text.docstrings import read_docstrings
from tokenry.data import FastTextScorer, document_bpc, filter_shard, predictive_strength
from tokenry.recipes.testbeds.docstring_model import bpe_tokenizer, small_model

LABEL = "__label__1"
ROUNDS = 3


def measure(smoke: bool) -> Iterator[Result]:
    """Pair scores, losses, inference and the filter."""
    texts = list(read_docstrings(("jinja2",) if smoke else ("scipy",)).train)
    yield pair_scores(smoke)
    yield from losses(texts, smoke)
    if not importlib.util.find_spec("fasttext"):
        note("fasttext is left out: it is not installed (make bench installs it)")
        return
    with tempfile.TemporaryDirectory() as folder:
        scorer = trained(texts, Path(folder), smoke)
        yield from inference(scorer, texts, smoke)
        yield from filtering(scorer, texts, Path(folder), smoke)


def pair_scores(smoke: bool) -> Result:
    """The strength of documents under six models, at once and pair by pair."""
    documents, calls = (200, 1) if smoke else (20_000, 20)  # one call is over before a clock can tell
    draw = np.random.default_rng(0)
    loss, benchmark = draw.normal(size=(documents, 6)), np.arange(6.0)
    names = [f"model {place}" for place in range(6)]
    of_documents = {
        f"document {place}": dict(zip(names, row, strict=True)) for place, row in enumerate(loss.tolist())
    }
    of_models = {name: {"average": float(score)} for name, score in zip(names, benchmark, strict=True)}
    found: dict[str, Any] = {}

    def at_once() -> None:
        for _ in range(calls):
            found["at once"] = predictive_strength(loss, benchmark, normalise=False)

    def loop() -> None:
        scores = {}
        for document in of_documents:
            score = 0
            for one, other in combinations(range(6), 2):
                rises = of_models[names[one]]["average"] < of_models[names[other]]["average"]
                falls = of_models[names[one]]["average"] > of_models[names[other]]["average"]
                before, after = of_documents[document][names[one]], of_documents[document][names[other]]
                score += (rises and before > after) or (falls and before < after)
            scores[document] = score
        found["loop"] = [*scores.values()]

    seconds = interleaved({"at once": at_once, "loop": loop}, 1 if smoke else ROUNDS, threads=1)
    of_loop, of_call = seconds["loop"].cpu, max(seconds["at once"].cpu, 1e-9) / calls
    return speedup(
        f"pair scores of {documents:,} documents, 6 models, released loop / at once",
        of_loop / of_call,
        200.0,
        same_scores=found["loop"] == found["at once"].tolist(),
        cpu_milliseconds={"at once": round(1e3 * of_call, 3), "loop": round(1e3 * of_loop, 3)},
        threads=1,
    )


def losses(texts: Sequence[str], smoke: bool) -> Iterator[Result]:
    """Document losses in batches of one length, one by one with all logits, and as a stream of overlapping windows."""
    vocabulary, count, longest = (420, 6, 100) if smoke else (8000, 200, 400)
    window, stride = (64, 17) if smoke else (256, 69)  # 1901 and 512 of the paper, for this model
    tokenizer = bpe_tokenizer(texts, vocabulary)
    model = small_model(len(tokenizer)).eval()
    documents = [text[:longest] for text in texts[:count]]
    encoded = tokenizer(documents, add_special_tokens=False)["input_ids"]
    stream = list(chain.from_iterable(encoded))
    found: dict[str, Any] = {}

    def batched() -> None:
        found["batched"] = document_bpc(model, tokenizer, documents, window=255, batch_tokens=8192).nll

    @torch.no_grad()
    def nll_of(ids: list[int]) -> Tensor:
        logits = model(torch.tensor([ids])).logits[0, :-1].float()
        return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")

    def one_by_one() -> None:
        first = first_token(tokenizer)
        found["one by one"] = np.array([float(nll_of([first, *ids][:256]).sum()) for ids in encoded])

    def in_windows() -> None:
        for begin, end, scored in scored_spans(len(stream), window, stride, whole=True):
            nll_of(stream[begin:end])[scored - begin - 1 :].tolist()

    steps = {"batched": batched, "one by one": one_by_one, "released stream": in_windows}
    seconds = interleaved(steps, 1 if smoke else ROUNDS, threads=1)
    for name in ("one by one", "released stream"):
        yield speedup(
            f"losses of {count:,} documents, 3 layers × 64, {name} / batched",
            seconds[name].cpu / seconds["batched"].cpu,
            2.5,
            largest_difference=float(np.abs(found["batched"] - found["one by one"]).max()),
            characters=sum(map(len, documents)),
            window=window,
            stride=stride,
            cpu_seconds={key: round(each.cpu, 3) for key, each in seconds.items()},
            threads=1,
        )


def trained(texts: Sequence[str], folder: Path, smoke: bool) -> FastTextScorer:
    """A classifier of whole docstrings against shuffled ones, of the paper's size."""
    draw = np.random.default_rng(0)
    some = texts[: 40 if smoke else 1000]
    shuffled = [" ".join(draw.permutation(text.split())) for text in some]
    bucket, dim = (1000, 8) if smoke else (2_000_000, 100)
    scorer = FastTextScorer.train(
        [*some, *shuffled], [1] * len(some) + [0] * len(some), bucket=bucket, dim=dim
    )
    scorer.save(folder / "scorer.bin")
    return FastTextScorer.load(folder / "scorer.bin")


def inference(scorer: FastTextScorer, texts: Sequence[str], smoke: bool) -> Iterator[Result]:
    """The same file read by numpy and by fasttext."""
    fasttext = importlib.import_module("fasttext")
    model = fasttext.load_model(str(scorer.path))
    lines = [text.replace("\n", " ") for text in texts]
    found: dict[str, Any] = {}

    def ours() -> None:
        found["numpy"] = scorer.score(lines)

    def of_label(labels: Sequence[str], probabilities: Sequence[float]) -> float:
        return float(probabilities[list(labels).index(LABEL)])

    def singly() -> None:
        found["one at a time"] = [of_label(*model.predict(line, k=2)) for line in lines]

    def in_lists() -> None:
        labels, probabilities = model.predict(lines, k=2)
        found["in lists"] = list(map(of_label, labels, probabilities))

    steps = {"numpy": ours, "one at a time": singly, "in lists": in_lists}
    seconds = interleaved(steps, 1 if smoke else ROUNDS, threads=1)
    megabytes = sum(len(line.encode()) for line in lines) / 1e6
    for name in ("one at a time", "in lists"):
        yield speedup(
            f"fastText classifier on {len(lines):,} texts, fasttext.predict {name} / numpy",
            seconds[name].cpu / seconds["numpy"].cpu,
            0.7 if name == "one at a time" else 1.0,
            fasttext=installed_version("fasttext-numpy2-wheel"),
            largest_difference=float(np.abs(np.array(found[name]) - found["numpy"]).max()),
            megabytes_of_text=round(megabytes, 2),
            cpu_seconds={key: round(each.cpu, 3) for key, each in seconds.items()},
            threads=1,
        )


def filtering(scorer: FastTextScorer, texts: Sequence[str], folder: Path, smoke: bool) -> Iterator[Result]:
    """From a file of JSON lines to a file of those that are kept."""
    corpus, repeats = folder / "corpus/rows.jsonl", 1 if smoke else 4
    corpus.parent.mkdir()
    rows = [json.dumps({"text": text, "id": str(number)}) for number, text in enumerate(texts)] * repeats
    corpus.write_text("\n".join(rows) + "\n", encoding="utf-8")
    threshold = float(np.median(scorer.score(texts)))
    kept: dict[str, int] = {}
    seconds: dict[str, list[float]] = {"tokenry": [], "datatrove": []}
    peer = (
        _datatrove(corpus.parent, scorer.path, threshold) if importlib.util.find_spec("datatrove") else None
    )
    for number in range(1 if smoke else ROUNDS):
        started = time.process_time()
        target = folder / f"kept-{number}.jsonl"
        kept["tokenry"] = filter_shard(scorer, read_shard(corpus), threshold, corpus, target).kept_documents
        seconds["tokenry"].append(time.process_time() - started)
        if peer:
            started = time.process_time()
            kept["datatrove"] = peer(folder / f"peer-{number}")
            seconds["datatrove"].append(time.process_time() - started)
    megabytes = corpus.stat().st_size / 1e6
    taken = {name: min(values) for name, values in seconds.items() if values}
    settings = {
        "documents": len(rows),
        "megabytes_of_text": round(megabytes, 1),
        "cpu_seconds": {name: round(value, 3) for name, value in taken.items()},
        "kept": kept,
        "threads": 1,
    }
    yield speedup("select-data filter, megabytes per second", megabytes / taken["tokenry"], 3.0, **settings)
    if peer is None:
        note("datatrove is left out: it is not installed")
        return
    yield speedup(
        "select-data filter, datatrove's FastTextClassifierFilter / tokenry, CPU time",
        taken["datatrove"] / taken["tokenry"],
        1.5,
        datatrove=installed_version("datatrove"),
        **settings,
    )


def _datatrove(corpus: Path, model: Path, threshold: float) -> Callable[[Path], int]:
    """The same filter as a pipeline of datatrove in this process, its model loaded: from a folder for the kept to their number."""
    importlib.import_module("loguru").logger.disable("datatrove")
    pipeline = importlib.import_module("datatrove.pipeline")
    readers, filters, writers = (
        importlib.import_module(f"{pipeline.__name__}.{name}") for name in ("readers", "filters", "writers")
    )
    classifier = filters.FastTextClassifierFilter(
        str(model), keep_labels=[("1", threshold)], newline_replacement=" "
    )
    assert classifier.model is not None

    def filtered(output: Path) -> int:
        chosen = classifier(readers.JsonlReader(str(corpus))())
        return sum(1 for _ in writers.JsonlWriter(str(output), compression=None)(chosen))

    return filtered


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
