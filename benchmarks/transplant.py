"""Transplanting a tokenizer: the heuristics against a loop over the tokens, and whole transplants beside two peers.

The loop is what the released TokenAdapt does for every token: a softmax over its pieces, one query over all old vectors, a weighted
sum of rows each. OMP is timed beside mergekit's on the same arrays. Whole transplants give SmolLM2-135M-Instruct the recipe's tokenizer
of 8,192 tokens: tokenry's TokenAdapt (characters as auxiliary space), `mergekit-tokensurgeon` with its subword mean, and
tokenizer-adapter's average, in bits per byte of what comes out; and, by the method that all three have, in CPU time.

`make bench` installs the peers; without them their lines are left out, which is said.
"""

import contextlib
import copy
import importlib
import importlib.util
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from _measure import interleaved
from _report import Result, installed_version, note, result, run, speedup
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from tokenry.core.stats import Estimate
from tokenry.core.text.bits_per_byte import text_loss
from tokenry.models import embedded_folder
from tokenry.recipes.testbeds.tokenizer_swap import DOCSTRINGS, PROSE, TokenizerSwap, embedded_swap
from tokenry.tokenization.transfer.transplant.embedding_heuristics import (
    Wanted,
    global_mixture,
    hybrid,
    local_mixture,
)
from tokenry.tokenization.transfer.transplant.matching_pursuit import omp

TARGET = 5.0
TEMPERATURE, NEIGHBOURS, WEIGHT = 0.3, 3, 0.3
TOKENADAPT, RETOK = "tokenry", "tokenry, mean of pieces"
MERGEKIT, ADAPTER = "mergekit", "tokenizer_adapter"
ROUNDS = 3


def measure(smoke: bool) -> Iterator[Result]:
    """The heuristics, OMP, and whole transplants."""
    yield from heuristics(smoke)
    for peer in (MERGEKIT, ADAPTER):
        if not importlib.util.find_spec(peer):
            note(f"{peer} is left out: it is not installed (make bench installs it)")
    if importlib.util.find_spec(MERGEKIT):
        yield from pursuit(smoke)
    if not smoke and importlib.util.find_spec(MERGEKIT) and importlib.util.find_spec(ADAPTER):
        yield from transplants()


def heuristics(smoke: bool) -> Iterator[Result]:
    """Local, global and hybrid rows of new tokens, all at once and one by one."""
    old, new, auxiliary, dim = (200, 20, 16, 8) if smoke else (20_000, 1_000, 384, 576)
    draw = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 6, (new,), generator=draw)
    pieces = torch.randint(old, (new, 5), generator=draw)
    pieces[torch.arange(5) >= counts[:, None]] = -1
    ratio = torch.rand(new, 5, generator=draw) * (pieces >= 0)
    vectors = torch.randn(new, auxiliary, generator=draw)
    wanted = Wanted(pieces, ratio, vectors, torch.full((new,), -1))
    old_vectors = torch.randn(old, auxiliary, generator=draw)
    matrix = torch.randn(old, dim, generator=draw)
    found: dict[str, Tensor] = {}

    def at_once() -> None:
        local = local_mixture(wanted, old_vectors, TEMPERATURE)
        other = global_mixture(wanted, old_vectors, NEIGHBOURS, TEMPERATURE, 0.0)
        found["at once"] = hybrid(local, other, WEIGHT).rows(matrix)

    def one_by_one() -> None:
        index = nn.functional.normalize(old_vectors, dim=1)
        found["loop"] = torch.stack(
            [_one_token(pieces[i], ratio[i], vectors[i], index, matrix) for i in range(new)]
        )

    rounds = 1 if smoke else 5
    seconds = interleaved({"at once": at_once, "loop": one_by_one}, rounds, threads=1)
    yield speedup(
        f"heuristics, {old:,} old and {new:,} new tokens, loop / at once",
        seconds["loop"].cpu / seconds["at once"].cpu,
        TARGET,
        old_tokens=old,
        new_tokens=new,
        auxiliary_dimensions=auxiliary,
        dimensions=dim,
        largest_difference=float((found["at once"] - found["loop"]).abs().max()),
        cpu_seconds={name: round(each.cpu, 4) for name, each in seconds.items()},
        threads=1,
        rounds=rounds,
    )


def _one_token(pieces: Tensor, ratio: Tensor, vector: Tensor, index: Tensor, matrix: Tensor) -> Tensor:
    ids = [int(piece) for piece in pieces if piece >= 0]
    unit = vector / vector.norm()
    cosines = torch.stack([unit @ index[piece] for piece in ids])
    quality = (cosines.softmax(0) + ratio[: len(ids)]) / 2
    weights = (quality / (TEMPERATURE + 1e-5)).softmax(0)
    local = torch.zeros(matrix.shape[1])
    for weight, piece in zip(weights, ids, strict=True):
        local += weight * matrix[piece]
    near = (index @ unit).topk(NEIGHBOURS)
    of_near = (near.values / (TEMPERATURE + 1e-5)).softmax(0)
    of_near = of_near.masked_fill(near.values < 0, 0.0)
    if of_near.sum() == 0:
        return local
    other = torch.zeros(matrix.shape[1])
    for weight, neighbour in zip(of_near / of_near.sum(), near.indices, strict=True):
        other += weight * matrix[neighbour]
    return (1 - WEIGHT) * local + WEIGHT * other


def pursuit(smoke: bool) -> Iterator[Result]:
    """Orthogonal matching pursuit beside mergekit's, on the same arrays."""
    batch_omp = importlib.import_module("mergekit.tokensurgeon.omp").batch_omp
    targets, atoms, dim, k = (4, 30, 12, 3) if smoke else (256, 5_000, 576, 64)
    draw = torch.Generator().manual_seed(0)
    points = torch.randn(atoms, dim, generator=draw)
    wanted = torch.randn(targets, dim, generator=draw)
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def step(name: str, function: Callable[..., tuple[Tensor, Tensor]]) -> Callable[[], None]:
        def call() -> None:
            found[name] = function(wanted, points, k)

        return call

    rounds = 1 if smoke else 3
    seconds = interleaved({"tokenry": step("tokenry", omp), MERGEKIT: step(MERGEKIT, batch_omp)}, rounds, 1)
    sums = {name: (c[:, :, None] * points[i]).sum(1) for name, (i, c) in found.items()}
    errors = {name: float((made - wanted).norm() / wanted.norm()) for name, made in sums.items()}
    yield result(
        f"OMP, {targets} targets, {atoms:,} atoms, k = {k}: CPU time, tokenry / mergekit",
        seconds["tokenry"].cpu / seconds[MERGEKIT].cpu,
        1.0,
        mergekit=installed_version(MERGEKIT),
        same_atoms=bool(found["tokenry"][0].equal(found[MERGEKIT][0])),
        relative_error=errors,
        cpu_seconds={name: round(each.cpu, 4) for name, each in seconds.items()},
        threads=1,
        rounds=rounds,
    )


def transplants() -> Iterator[Result]:
    """The same pair by three tools: what it takes, and what comes out."""
    torch.set_num_threads(1)
    subject = embedded_swap(lambda what, share: note(what))
    makers: dict[str, Callable[[TokenizerSwap, Path], tuple[PreTrainedModel, float]]] = {
        TOKENADAPT: partial(_tokenry, settings="auxiliary='characters'"),
        RETOK: partial(_tokenry, settings="method='retok'"),
        MERGEKIT: _tokensurgeon,
        ADAPTER: _adapter,
    }
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    losses: dict[str, dict[str, Estimate]] = {}
    for name in [*makers, *(ROUNDS - 1) * (RETOK, MERGEKIT)]:
        note(name)
        with tempfile.TemporaryDirectory() as folder:
            model, taken = makers[name](subject, Path(folder))
            seconds[name].append(taken)
            losses[name] = losses.get(name) or {
                kind: text_loss(model, subject.new, texts).bits_per_byte
                for kind, texts in subject.texts.items()
            }
    versions = {name: installed_version(name) for name in (MERGEKIT, ADAPTER)}
    for peer in (MERGEKIT, ADAPTER):
        for kind in (DOCSTRINGS, PROSE):
            yield result(
                f"SmolLM2 to 8,192 tokens, bits per byte of {kind}: tokenry / {peer.replace('_', '-')}",
                losses[TOKENADAPT][kind].value / losses[peer][kind].value,
                1.0,
                versions=versions,
                bits_per_byte={name: round(of_kind[kind].value, 4) for name, of_kind in losses.items()},
                texts=len(subject.texts[kind]),
            )
    yield result(
        "SmolLM2 to 8,192 tokens by the mean of pieces, CPU time from folder to folder: tokenry / mergekit",
        min(seconds[RETOK]) / min(seconds[MERGEKIT]),
        1.0,
        versions=versions,
        cpu_seconds={name: [round(each, 1) for each in taken] for name, taken in seconds.items()},
        threads=1,
        rounds=ROUNDS,
    )


def _tokenry(subject: TokenizerSwap, folder: Path, settings: str) -> tuple[PreTrainedModel, float]:
    """As a program of its own, like mergekit's."""
    subject.new.save_pretrained(folder / "new")
    code = (
        "import sys; from tokenry.core.plans import build_plan; from tokenry.verbs.tokenizer import transplant; "
        "from pathlib import Path; given = dict(model='embedded', new_tokenizer=sys.argv[1], output=Path(sys.argv[2])); "
        f"transplant.run(build_plan(transplant.Plan, dict(**given, {settings})), lambda what, share: None)"
    )
    seconds = _cpu([sys.executable, "-c", code, str(folder / "new"), str(folder / "made")])
    return AutoModelForCausalLM.from_pretrained(folder / "made").eval(), seconds


def _tokensurgeon(subject: TokenizerSwap, folder: Path) -> tuple[PreTrainedModel, float]:
    """The program takes a donor model for its tokenizer; the subword mean does not look at its weights."""
    config = copy.deepcopy(subject.model.config)
    config.vocab_size = len(subject.new)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "donor")
    subject.new.save_pretrained(folder / "donor")
    program = Path(sys.executable).with_name("mergekit-tokensurgeon")
    arguments = [embedded_folder(), folder / "donor", folder / "made", "-a", "subword", "--quiet"]
    seconds = _cpu([str(program), *map(str, arguments)])
    return AutoModelForCausalLM.from_pretrained(folder / "made").eval(), seconds


def _adapter(subject: TokenizerSwap, folder: Path) -> tuple[PreTrainedModel, float]:
    adapter = importlib.import_module(ADAPTER).TokenizerAdapter()
    model = copy.deepcopy(subject.model)
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        made = adapter.adapt_from_pretrained(model, subject.new, subject.old)
    return made.eval(), time.process_time() - started


def _cpu(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
