"""Exact bytes: forward passes, the work beside the model, and next bytes on SmolLM2 beside genlm-bytes.

The prompts stop inside words of an English story, with about 50 bytes of it before each (those of the recipe byte-probabilities).
Forward passes are counted at the model. The work beside the model is measured with the model's answers stored, against a loop over the
vocabulary as the released code has it: every token is tried after the text by encoding the two together, here only with the last token
and all at once (`encode_batch`), which is kinder than one by one. genlm-bytes sums over all token sequences, valid or not, as far as its
beam reaches; how far it is from that sum is measured on prompts so short that all sequences can be counted. Where its beam comes to
nothing within a prompt, that prompt is counted and left out for both.

`make bench` installs the peer; without it its lines are left out, which is said.
"""

import asyncio
import importlib.util
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import torch
from _report import Result, installed_version, note, result, run, speedup
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tokenry.core.text.byte_level import backend_tokenizer
from tokenry.decoding.byte_level.byte_lm import END, ByteLM, ByteStream
from tokenry.decoding.byte_level.token_tree import Context
from tokenry.models import EMBEDDED_TITLE, load_model, load_tokenizer
from tokenry.recipes.byte_probabilities import cuts_inside_words
from tokenry.recipes.testbeds.prose import read_story
from tokenry.tokenization.training.byte_level_training import train_bpe

AT_MOST_FIRST, AT_MOST_FURTHER = 1.1, 1.0
AT_LEAST_LOOP, AT_LEAST_PEER = 50.0, 1.0
OURS, PEER = "ByteLM", "genlm-bytes"
BEAM, PRUNED_BELOW = 5, 0.05
PROMPTS_OF_PEER, FURTHER, SHORT_BYTES = 8, 6, 8


@dataclass(frozen=True)
class Subject:
    """A model, and prompts with the bytes that follow them."""

    title: str
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    prompts: tuple[bytes, ...]
    following: tuple[bytes, ...]

    def byte_lm(self, **options: str) -> ByteLM:
        """A model of bytes that remembers nothing yet."""
        return ByteLM(self.model, self.tokenizer, **options)


def measure(smoke: bool) -> Iterator[Result]:
    """Forward passes, the work beside the model, and the peer."""
    torch.set_num_threads(1)
    subject = tiny_subject() if smoke else embedded_subject()
    yield from forward_passes(subject)
    yield beside_the_model(subject, rounds=1 if smoke else 2)
    if importlib.util.find_spec("genlm") and importlib.util.find_spec("genlm.bytes"):
        yield from beside_genlm(subject, rounds=1 if smoke else 2)
    else:
        note(f"{PEER} is left out: it is not installed (make bench installs it)")


def embedded_subject(prompts: int = 12, further: int = 12) -> Subject:
    """SmolLM2 and the cuts of the recipe, where enough bytes of their paragraph follow."""
    story = read_story()
    found = []
    for cut in cuts_inside_words(story, 2 * prompts):
        after = next(text.partition(cut.prompt)[2] for text in story if cut.prompt in text).encode()
        if len(after) >= further:
            found.append((cut.prompt.encode(), after[:further]))
    given, following = zip(*found[:prompts], strict=True)
    return Subject(EMBEDDED_TITLE, load_model("embedded"), load_tokenizer("embedded"), given, following)


def tiny_subject() -> Subject:
    """For smoke runs: untrained, with a tokenizer of a few hundred tokens."""
    torch.manual_seed(0)
    backend = train_bpe([__doc__], 400)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    return Subject(
        "untrained", LlamaForCausalLM(config).eval(), tokenizer, (b"Exact by", b"for"), (b"te", b"wa")
    )


def forward_passes(subject: Subject) -> Iterator[Result]:
    """Passes of the model for the first byte after each prompt, and for each byte that follows."""
    lm, passes = subject.byte_lm(), 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    hook = subject.model.base_model.register_forward_pre_hook(count)
    first, further, covers, contexts = 0, 0, [], []
    for prompt, following in zip(subject.prompts, subject.following, strict=True):
        before = passes
        stream = lm.stream(prompt)
        stream.next_logprobs()
        first += passes - before
        covers.append(stream.covers())
        contexts.append(len({cover.ids[:-1] for cover in covers[-1]}))
        before = passes
        for byte in following:
            stream.push(byte)
            stream.next_logprobs()
        further += passes - before
    hook.remove()
    settings = {"model": subject.title, "prompts": len(subject.prompts)}
    yield result(
        "forward passes for the first byte after a prompt",
        first / len(subject.prompts),
        AT_MOST_FIRST,
        **settings,
        covers=round(float(np.mean([len(of_prompt) for of_prompt in covers])), 1),
        contexts=round(float(np.mean(contexts)), 2),
    )
    bytes_after = sum(map(len, subject.following))
    yield result(
        "forward passes for each further byte",
        further / bytes_after,
        AT_MOST_FURTHER,
        **settings,
        bytes=bytes_after,
    )


def beside_the_model(subject: Subject, rounds: int) -> Result:
    """CPU time for each byte with the answers of the model stored: streams, and a loop over the vocabulary."""
    answers = StoredAnswers(subject)
    bytes_after = sum(map(len, subject.following))
    ours, loop, once = [], [], []
    for number in range(rounds + 1):
        note(f"beside the model: round {number} of {rounds}")
        started = time.process_time()
        lm = ByteLM(answers, subject.tokenizer, eos_token_ids=answers.eos_token_ids)
        lm.next_byte_logprobs(b"a")
        once.append(time.process_time() - started)
        streams = lm.streams(subject.prompts)
        started = time.process_time()
        found = [followed(*pair) for pair in zip(streams, subject.following, strict=True)]
        # In the first round the answers are made.
        if number:
            ours.append((time.process_time() - started) / bytes_after)
    # The loop is slow, and alike from prompt to prompt: one is enough.
    for _ in range(rounds):
        looped = Loop(lm, answers, subject.tokenizer, subject.prompts[0])
        started = time.process_time()
        expected = followed(looped, subject.following[0])
        loop.append((time.process_time() - started) / len(expected))
    return speedup(
        "work beside the model for each byte: loop over the vocabulary / ByteLM",
        min(loop) / min(ours),
        AT_LEAST_LOOP,
        model=subject.title,
        vocabulary=len(lm.vocabulary.order),
        bytes=bytes_after,
        rounds=rounds,
        cpu_milliseconds={"loop": round(1e3 * min(loop), 3), "ByteLM": round(1e3 * min(ours), 3)},
        cpu_seconds_once_for_the_tokenizer=round(min(once), 2),
        largest_total_variation_between_the_two=float(f"{total_variation(found[0], expected).max():.1e}"),
    )


class StoredAnswers:
    """What a model says after token sequences, asked once for each."""

    def __init__(self, subject: Subject) -> None:
        lm = subject.byte_lm()
        self.eos_token_ids = lm.eos_token_ids
        self._tree, self._first = lm.model, Context().then(subject.tokenizer.bos_token_id)
        self._rows: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, sequences: Sequence[tuple[int, ...]]) -> Tensor:
        """Log-probabilities of the next token, one row for each sequence."""
        new = [ids for ids in sequences if ids not in self._rows]
        if new:
            rows = self._tree.log_probs([self._first.then(*ids) for ids in new])
            self._rows.update(zip(new, rows, strict=True))
        return torch.stack([self._rows[ids] for ids in sequences])


class Loop:
    """A stream of bytes by loops over the vocabulary."""

    def __init__(
        self, lm: ByteLM, answers: StoredAnswers, tokenizer: PreTrainedTokenizerBase, prompt: bytes
    ) -> None:
        self._answers, self._backend, self._text = answers, backend_tokenizer(tokenizer), prompt
        self._token_bytes = lm.vocabulary.token_bytes
        self._covers = [
            (cover.ids, cover.log_prob, lm.vocabulary.decode(cover.ids)) for cover in lm.covers(prompt)
        ]

    def next_logprobs(self) -> np.ndarray:
        """Take every sequence that ends here one token further, and add up by the next byte."""
        place, masses, grown = len(self._text), [0.0] * (END + 1), []
        for ids, log_prob, data in self._covers:
            if len(data) > place:
                grown.append((ids, log_prob, data))
                continue
            row = self._answers([ids])[0].tolist()
            masses[END] += sum(math.exp(log_prob + row[number]) for number in self._answers.eos_token_ids)
            for number in self._valid_after(ids[-1]):
                more = self._token_bytes[number] or b""
                grown.append(((*ids, number), log_prob + row[number], data + more))
        for _, log_prob, data in grown:
            masses[data[place]] += math.exp(log_prob)
        self._covers = grown
        with np.errstate(divide="ignore"):
            return np.log(np.array(masses) / sum(masses))

    def push(self, byte: int) -> None:
        """Keep what goes on with this byte."""
        place = len(self._text)
        self._covers = [cover for cover in self._covers if cover[2][place] == byte]
        self._text += bytes([byte])

    def _valid_after(self, last: int) -> list[int]:
        numbers, texts = [], []
        for number, data in enumerate(self._token_bytes):
            try:
                text = ((self._token_bytes[last] or b"") + data).decode() if data else ""
            except UnicodeDecodeError:
                continue
            if text:
                numbers.append(number)
                texts.append(text)
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        pairs = zip(numbers, encodings, strict=True)
        return [number for number, encoding in pairs if encoding.ids == [last, number]]


def followed(stream: ByteStream | Loop, following: bytes) -> np.ndarray:
    """Next-byte log-probabilities before each of some bytes, all of which are pushed."""
    rows = []
    for byte in following:
        rows.append(stream.next_logprobs())
        stream.push(byte)
    return np.stack(rows)


def beside_genlm(subject: Subject, rounds: int) -> Iterator[Result]:
    """CPU time for the first byte after each prompt, and for each that follows when the most probable one is taken."""
    seconds: dict[str, list[tuple[float, float]]] = {OURS: [], PEER: []}
    rows: dict[str, np.ndarray] = {}
    asked = list(zip(subject.prompts, subject.following, strict=True))[:PROMPTS_OF_PEER]
    with asyncio.Runner() as runner:
        genlm = Genlm(subject, runner)
        answered = [pair for pair in asked if genlm.stream(pair[0]).is_alive]
        prompts = [prompt for prompt, _ in answered]
        for number in range(rounds):
            note(f"beside {PEER}: round {number + 1} of {rounds}")
            lm = subject.byte_lm()
            lm.next_byte_logprobs(b"a")
            for name, begin in ((OURS, lm.stream), (PEER, genlm.stream)):
                taken = [timed(begin, prompt) for prompt in prompts]
                seconds[name].append((sum(timing[0] for timing in taken), sum(timing[1] for timing in taken)))
                rows[name] = np.stack([timing[2] for timing in taken])
        quality = {
            "prompts_whose_beam_came_to_nothing": f"{len(asked) - len(answered)} of {len(asked)}",
            "mean_bits_of_the_true_first_byte": {
                name: round(float(surprisals(given, [following for _, following in answered]).mean()), 4)
                for name, given in rows.items()
            },
            "total_variation_from_the_sum_over_all_token_sequences": distances(subject, genlm, prompts),
        }
    counts = {"the first byte after a prompt": len(prompts), "each further byte": FURTHER * len(prompts)}
    for place, (what, count) in enumerate(counts.items()):
        least = {name: min(timing[place] for timing in taken) for name, taken in seconds.items()}
        yield speedup(
            f"{what}: {PEER} / ByteLM, CPU time",
            least[PEER] / least[OURS],
            AT_LEAST_PEER,
            model=subject.title,
            prompts=len(prompts),
            rounds=rounds,
            beam=BEAM,
            pruned_below=PRUNED_BELOW,
            cpu_milliseconds={name: round(1e3 * total / count, 2) for name, total in least.items()},
            **quality,
            genlm_bytes=installed_version("genlm-bytes"),
            genlm_backend=installed_version("genlm-backend"),
        )


def timed(
    begin: Callable[[bytes], "ByteStream | GenlmStream"], prompt: bytes
) -> tuple[float, float, np.ndarray]:
    """CPU seconds for the first byte and for all further ones, and what was said about the first."""
    started = time.process_time()
    stream = begin(prompt)
    first = row = stream.next_logprobs()
    between = time.process_time()
    for _ in range(FURTHER):
        stream.push(int(row[:END].argmax()))
        row = stream.next_logprobs()
    return between - started, time.process_time() - between, first


def surprisals(rows: np.ndarray, following: Sequence[bytes]) -> np.ndarray:
    """Bits of the first byte that follows each prompt."""
    return -rows[range(len(rows)), [text[0] for text in following]] / np.log(2)


def distances(subject: Subject, genlm: "Genlm", prompts: Sequence[bytes]) -> dict[str, float]:
    """How far both are from the sum over all token sequences, after the first bytes of the prompts."""
    short = [prompt[:SHORT_BYTES] for prompt in prompts]
    everything = subject.byte_lm(invalid="all").next_byte_logprobs(short)
    of_peer = total_variation(
        everything, np.stack([genlm.stream(prompt).next_logprobs() for prompt in short])
    )
    of_valid = total_variation(everything, subject.byte_lm().next_byte_logprobs(short))
    found = {
        "prompts of bytes": SHORT_BYTES,
        f"{PEER}, mean": of_peer.mean(),
        f"{PEER}, largest": of_peer.max(),
        "ByteLM of valid sequences only, mean": of_valid.mean(),
        "ByteLM of valid sequences only, largest": of_valid.max(),
    }
    return {name: round(float(value), 6) for name, value in found.items()}


class Genlm:
    """genlm-bytes on the same model, waited for."""

    def __init__(self, subject: Subject, runner: asyncio.Runner) -> None:
        from genlm.backend.llm import AsyncTransformer
        from genlm.bytes import BeamParams, ByteBeamState

        self.model, self.runner = AsyncTransformer(subject.model, subject.tokenizer), runner
        end = [subject.tokenizer.eos_token.encode()]
        params = BeamParams(K=BEAM, prune_threshold=PRUNED_BELOW, eos_byte_strings=end)
        self.initial = runner.run(ByteBeamState.initial(self.model, params))

    def stream(self, prompt: bytes) -> "GenlmStream":
        """Begin a text; nothing is remembered of the one before."""
        self.model.clear_cache()
        return GenlmStream(self.runner, self.runner.run(self.initial.prefill(prompt)))


class GenlmStream:
    """A text that takes one byte at a time, as `ByteStream` does."""

    def __init__(self, runner: asyncio.Runner, state: Any) -> None:
        self._runner, self._state = runner, state

    @property
    def is_alive(self) -> bool:
        """Whether the beam holds any token sequence still."""
        return len(self._state) > 0

    def next_logprobs(self) -> np.ndarray:
        """Log-probabilities of the 256 bytes and the end; the peer has the end of a token between them."""
        found = self._runner.run(self._state.logp_next()).ps
        return np.append(found[:END], found[-1])

    def push(self, byte: int) -> None:
        """Take the next byte."""

        async def pushed() -> Any:
            return await (self._state.prune() << byte)

        self._state = self._runner.run(pushed())


def total_variation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Half the summed difference of probabilities, for each row of log-probabilities."""
    return 0.5 * np.abs(np.exp(one) - np.exp(other)).sum(-1)


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
