"""A mixture of instruction data, noise of three kinds put into its answers, and text to forget.

Read from files that are not shipped (`--data`): GSM8K, the tasks of self-instruct, a sample of T0 prompts, and two NLTK corpora.

    documentation   sentences of the Python documentation between those of the answer, 40 % of them in HTML tags: a style of its own
    prose           sentences of State of the Union addresses in the same places: off-topic, but English that a base model predicts
    wrong           numbers, and names where an answer has no number, replaced by those of other answers

The share of noise is that of the answers' characters (documentation, prose) or facts (wrong), over all training samples.
"""

import gzip
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

Row = dict[str, Any]

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=\S)")
_FACT = re.compile(r"\d[\d,.]*\d|\d|\b[A-Z][a-z]{2,}\b")
_LONGEST = 500  # characters of a question or an answer


@dataclass(frozen=True)
class Mixture:
    """The data behind all cells, read from `folder`."""

    folder: Path

    @cached_property
    def pools(self) -> dict[str, list[tuple[str, str]]]:
        """Questions with their answers by source; the order is that of the files."""
        return {
            "gsm8k": [pair for pair in self._gsm8k() if _fits(pair)],
            "t0": [pair for pair in self._t0() if _fits(pair)],
            "self_instruct": [pair for pair in self._self_instruct() if _fits(pair)],
        }

    def held_out(self, items: int) -> dict[str, list[Row]]:
        """The same clean items for every cell, from each source."""
        return {
            source: [_row(pair) for pair in Random(source).sample(pool, items)]
            for source, pool in self.pools.items()
        }

    def train(self, samples: int, noise: str, share: float, seed: int, held_out: int) -> list[Row]:
        """Draw training samples and put noise into their answers: 2 of GSM8K, 2 of T0 and, while they last, 1 of self-instruct."""
        random = Random(f"{seed}:{noise}:{share}")
        drawn = self._draw(samples, seed, held_out)
        if noise == "wrong":
            facts = sorted({fact for _, answer in drawn for fact in _FACT.findall(answer)})
            noisy = [
                (question, _with_wrong_facts(answer, share, facts, random)) for question, answer in drawn
            ]
        else:
            sentences = self.documentation if noise == "documentation" else self.prose
            noisy = _with_sentences(drawn, share, sentences, noise == "documentation", random)
        return [_row(pair) for pair in noisy]

    def _draw(self, samples: int, seed: int, held_out: int) -> list[tuple[str, str]]:
        draws = {}
        for source, pool in self.pools.items():
            kept = {question for question, _ in Random(source).sample(pool, held_out)}
            rest = [pair for pair in pool if pair[0] not in kept]
            Random(f"{seed}:{source}").shuffle(rest)
            draws[source] = iter(rest)
        round_of_sources = ("gsm8k", "t0", "gsm8k", "t0", "self_instruct")

        def in_turn() -> Iterator[tuple[str, str]]:
            while True:
                pairs = [pair for source in round_of_sources for pair in islice(draws[source], 1)]
                if not pairs:
                    return
                yield from pairs

        return list(islice(in_turn(), samples))

    @cached_property
    def documentation(self) -> list[str]:
        """Sentences of the Python documentation, in random order."""
        from pydoc_data.topics import topics

        return _sentences(" ".join(topics.values()), "documentation")

    @cached_property
    def prose(self) -> list[str]:
        """Sentences of State of the Union addresses, in random order."""
        return _sentences(" ".join(self._corpus("state_union")), "prose")

    def retained(self, items: int) -> list[Row]:
        """Passages of inaugural addresses: text that no cell trains on."""
        passages = [
            " ".join(text.split())[start : start + 400]
            for text in self._corpus("inaugural")
            for start in (400, 2400)
        ]
        whole = [passage for passage in passages if len(passage) == 400]
        return [{"text": passage} for passage in Random("retained").sample(whole, items)]

    def _corpus(self, name: str) -> list[str]:
        with zipfile.ZipFile(self.folder / "nltk" / f"{name}.zip") as archive:
            names = sorted(entry for entry in archive.namelist() if entry.endswith(".txt"))
            return [archive.read(entry).decode("latin-1") for entry in names]

    def _gsm8k(self) -> Iterator[tuple[str, str]]:
        for row in _lines(self.folder / "gsm8k" / "train.jsonl.gz"):
            answer = re.sub(r"<<.*?>>", "", row["answer"]).replace("\n#### ", "\nThe answer is ") + "."
            yield row["question"], answer

    def _t0(self) -> Iterator[tuple[str, str]]:
        for row in _lines(self.folder / "self_instruct" / "t0_sample.jsonl.gz"):
            yield row["prompt"].strip(), row["completion"].removesuffix("<|endoftext|>").strip()

    def _self_instruct(self) -> Iterator[tuple[str, str]]:
        for name in ("user_oriented_instructions", "seed_tasks"):
            for row in _lines(self.folder / "self_instruct" / f"{name}.jsonl.gz"):
                for instance in row["instances"]:
                    question = "\n\n".join(filter(None, (row["instruction"], instance["input"])))
                    yield question.strip(), instance["output"].strip()


def _lines(path: Path) -> Iterator[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def _fits(pair: tuple[str, str]) -> bool:
    return all(0 < len(text) <= _LONGEST for text in pair)


def _row(pair: tuple[str, str]) -> Row:
    question, answer = pair
    row: Row = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
    if "The answer is " in answer:
        row["verifier"] = {"kind": "number", "answer": answer.rpartition("The answer is ")[2]}
    return row


def _sentences(text: str, seed: str) -> list[str]:
    found = [" ".join(sentence.split()) for sentence in _SENTENCE.split(text)]
    good = sorted({sentence for sentence in found if 30 <= len(sentence) <= 160})
    Random(seed).shuffle(good)
    return good


def _with_sentences(
    pairs: list[tuple[str, str]], share: float, sentences: list[str], tagged: bool, random: Random
) -> list[tuple[str, str]]:
    """Insert off-topic sentences at random places until they are a share of all answers' characters; none stands twice."""
    answers = [re.findall(r".*?[.!?]\s+(?=\S)|.+", f"{answer} ", flags=re.DOTALL) for _, answer in pairs]
    clean = sum(len(answer) for _, answer in pairs)
    noise, unused = 0, iter(sentences)
    while share and noise < share / (1 - share) * clean:
        sentence = next(unused, "")
        if not sentence:
            raise ValueError(f"the noise has only {len(sentences)} sentences: ask for fewer samples.")
        if tagged and random.random() < 0.4:
            sentence = f"<p>{sentence}</p>"
        answer = random.choice(answers)
        answer.insert(random.randint(0, len(answer)), f"{sentence} ")
        noise += len(sentence) + 1
    return [(question, "".join(answer).strip()) for (question, _), answer in zip(pairs, answers, strict=True)]


def _with_wrong_facts(answer: str, share: float, facts: list[str], random: Random) -> str:
    return _FACT.sub(lambda fact: random.choice(facts) if random.random() < share else fact[0], answer)
