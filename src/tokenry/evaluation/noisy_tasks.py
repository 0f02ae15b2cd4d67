"""Verifiable tasks with worked answers, of which a stated share is noise, recorded character by character.

Three tasks of reasoning-gym, each with a verifier: `chain_sum` (2-3 one-digit terms), `letter_counting` (3-4 words) and
`needle_haystack` (3-4 statements: find the one asked for and copy its name). The last is the copy task a 135 M model can
learn in part: of 120 clean samples (SmolLM2-135M-Instruct, LoRA, 40 steps) it got 9 of 20 new ones right, against 3 of 20
for `number_filtering` and 1 of 20 for `word_sorting` in the same run; `word_sequence_reversal` is beyond it.

Classes of a response's tokens; everything not in a span is "clean":
    wrong       a number, or a name, replaced by another one
    fragment    off-topic text between two sentences: a sentence of the Python documentation, used once, often in HTML tags
    truncated   the end token of a response that breaks off before its answer: an empty span at the end of the text

The documentation comes with Python (`pydoc_data.topics`), so the same seed gives the same data under the same Python version.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, cycle, islice
from random import Random
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokenry.core.chat.conversations import NO_CLASS, class_names, encode_rows
from tokenry.core.errors import UserError, require_fraction

Row = dict[str, Any]
Entrant = Mapping[str, Any]


@dataclass(frozen=True)
class NoiseLevel:
    """How likely a sample is to carry each kind of noise.

    Attributes:
        wrong: probability that facts of a sample are wrong.
        fragment: probability that off-topic sentences stand between its sentences.
        truncated: probability that it breaks off before its answer.
        wrong_facts: probability that each number or name of a wrong sample is wrong (at least one is).
        tagged: probability that a fragment stands in HTML tags.
    """

    wrong: float
    fragment: float
    truncated: float
    wrong_facts: float = 0.3
    tagged: float = 0.4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require_fraction(value, name)


NOISE_LEVELS: dict[str, NoiseLevel] = {
    "strong": NoiseLevel(wrong=0.8, fragment=0.8, truncated=0.1),
    "moderate": NoiseLevel(wrong=0.5, fragment=0.6, truncated=0.1),
    "none": NoiseLevel(wrong=0.0, fragment=0.0, truncated=0.0),
}


@dataclass(frozen=True)
class NoisyTasks:
    """Three splits without a question in common. Only `train` is noisy.

    A row holds `messages` (user, assistant), `spans` (`start`, `end`, `class`: characters of the assistant's content),
    `task` and `verifier` (see `tokenry.evaluation.verifiers`).
    """

    train: list[Row]
    trusted: list[Row]
    held_out: list[Row]

    def character_shares(self) -> dict[str, float]:
        """Compute the share of the training responses' characters in each class; they sum to 1."""
        counts: Counter[str] = Counter()
        for row in self.train:
            counts["clean"] += len(row["messages"][-1]["content"])
            for span in row["spans"]:
                counts[span["class"]] += span["end"] - span["start"]
                counts["clean"] -= span["end"] - span["start"]
        return _shares(counts)

    def token_shares(self, tokenizer: PreTrainedTokenizerBase, max_length: int = 1024) -> dict[str, float]:
        """Compute the share of the training responses' tokens in each class, end tokens included; they sum to 1."""
        encoded = encode_rows(self.train, tokenizer, max_length)
        names = class_names(encoded)
        if not names:
            return {"clean": 1.0}
        return _shares(
            Counter(names[number] for row in encoded["token_class"] for number in row if number != NO_CLASS)
        )


def noisy_tasks(
    samples: int = 150, trusted: int = 48, held_out: int = 90, seed: int = 0, noise: str = "strong"
) -> NoisyTasks:
    """Make training samples with noise, a small trusted set and held-out samples without, in equal parts of each task.

    The held-out and trusted samples do not depend on `samples` or `noise`, and the training questions not on `noise`.

    Args:
        samples: number of noisy training samples.
        trusted: number of clean samples that may be trained on.
        held_out: number of clean samples to measure on.
        noise: level of the training samples' noise: strong, moderate or none (see `NOISE_LEVELS`).
    """
    if noise not in NOISE_LEVELS:
        raise UserError(f"noise is one of {', '.join(NOISE_LEVELS)}, got {noise!r}.")
    for name, size in (("samples", samples), ("trusted", trusted), ("held_out", held_out)):
        if size < 0:
            raise UserError(f"{name} must not be negative, got {size}.")
    cases = list(islice(_cases(seed), held_out + trusted + samples))
    level, noise_draws, fragments = NOISE_LEVELS[noise], Random(f"{seed}:noise"), _fragments(seed)
    return NoisyTasks(
        held_out=[_row(case, case.answer, []) for case in cases[:held_out]],
        trusted=[_row(case, case.answer, []) for case in cases[held_out : held_out + trusted]],
        train=[
            _row(case, *_with_noise(case, level, noise_draws, fragments))
            for case in cases[held_out + trusted :]
        ],
    )


def _shares(counts: Counter[str]) -> dict[str, float]:
    return {name: count / counts.total() for name, count in counts.most_common() if count}


@dataclass(frozen=True)
class _Task:
    """One dataset of reasoning-gym: how its question is put, how it is answered, and what in the answer can be wrong."""

    settings: dict[str, int]
    question: Callable[[Entrant], str]
    sentences: Callable[[Entrant], list[str]]
    fact: Callable[[Entrant], str]
    replacement: Callable[[str, Entrant, Random], str]


@dataclass(frozen=True)
class _Case:
    """One question with its right answer, sentence by sentence."""

    task: str
    entry: Entrant
    question: str
    sentences: tuple[str, ...]

    @property
    def answer(self) -> str:
        return " ".join(self.sentences)


# A piece of a response and its class (None = clean); a sentence is a list of pieces.
_Piece = tuple[str, str | None]


def _cases(seed: int) -> Iterator[_Case]:
    """Go round the tasks for ever, never asking the same question twice."""
    asked: set[str] = set()
    streams = [_entries(name, seed, asked) for name in _TASKS]
    return (next(stream) for stream in cycle(streams))


def _entries(name: str, seed: int, asked: set[str]) -> Iterator[_Case]:
    task = _TASKS[name]
    dataset = _reasoning_gym_dataset(name, Random(f"{seed}:{name}").getrandbits(31), task.settings)
    missed = 0
    for index in count():
        entry = dataset[index]
        question = task.question(entry)
        if question in asked:
            missed += 1
            if missed > 1000:
                raise UserError(f"{name} has no more different questions: ask for fewer samples.")
            continue
        missed = 0
        asked.add(question)
        yield _Case(task=name, entry=entry, question=question, sentences=tuple(task.sentences(entry)))


def _reasoning_gym_dataset(name: str, seed: int, settings: dict[str, int]) -> Any:
    try:
        import reasoning_gym
    except ImportError as error:
        raise UserError(
            "the demo tasks come from reasoning-gym, which is not installed: pip install 'tokenry[demo]'."
        ) from error
    return reasoning_gym.create_dataset(name, seed=seed, **settings)


def _row(case: _Case, response: str, spans: list[dict[str, Any]]) -> Row:
    return {
        "messages": [
            {"role": "user", "content": case.question},
            {"role": "assistant", "content": response},
        ],
        "spans": spans,
        "task": case.task,
        "verifier": {
            "kind": "reasoning-gym",
            "dataset": case.task,
            # As text: the entries of different tasks hold different fields, which one table column cannot.
            "entry": json.dumps({"answer": case.entry["answer"], "metadata": case.entry["metadata"]}),
        },
    }


def _with_noise(
    case: _Case, level: NoiseLevel, draws: Random, fragments: Iterator[str]
) -> tuple[str, list[dict[str, Any]]]:
    sentences = list(case.sentences)
    broken_off = draws.random() < level.truncated
    if broken_off:
        sentences = _broken_off(sentences, draws)
    pieces: list[list[_Piece]] = [[(sentence, None)] for sentence in sentences]
    if draws.random() < level.wrong:
        pieces = _with_wrong_facts(sentences, case, level.wrong_facts, draws)
    if draws.random() < level.fragment and len(pieces) > 1:
        for _ in range(draws.choice((1, 2))):
            place = draws.randint(1, len(pieces) - 1)
            pieces.insert(place, [(_tagged(next(fragments), level.tagged, draws), "fragment")])
    text, spans = _joined(pieces)
    end = [{"start": len(text), "end": len(text), "class": "truncated"}] if broken_off else []
    return text, spans + end


def _broken_off(sentences: list[str], draws: Random) -> list[str]:
    """Keep the sentences up to one before the last, of which only some first words stay."""
    last = draws.randrange(len(sentences) - 1)
    words = sentences[last].split(" ")
    return [*sentences[:last], " ".join(words[: draws.randint(1, len(words) - 1)])]


def _with_wrong_facts(
    sentences: list[str], case: _Case, probability: float, draws: Random
) -> list[list[_Piece]]:
    task = _TASKS[case.task]
    facts = [list(re.finditer(task.fact(case.entry), sentence)) for sentence in sentences]
    number = sum(map(len, facts))
    wrong = {index for index in range(number) if draws.random() < probability}
    if number and not wrong:
        wrong = {draws.randrange(number)}
    pieces: list[list[_Piece]] = []
    index = 0
    for sentence, found in zip(sentences, facts, strict=True):
        parts: list[_Piece] = []
        done = 0
        for fact in found:
            if index in wrong:
                parts.append((sentence[done : fact.start()], None))
                parts.append((task.replacement(fact[0], case.entry, draws), "wrong"))
                done = fact.end()
            index += 1
        pieces.append([*parts, (sentence[done:], None)])
    return pieces


def _joined(sentences: list[list[_Piece]]) -> tuple[str, list[dict[str, Any]]]:
    """Join sentences by spaces; the space before a fragment belongs to it, as it does to the fragment's first token."""
    text = ""
    spans: list[dict[str, Any]] = []
    for number, pieces in enumerate(sentences):
        space = " " if number else ""
        for piece, token_class in pieces:
            start = len(text)
            text += space + piece
            if token_class is not None:
                spans.append({"start": start, "end": len(text), "class": token_class})
            space = ""
    return text, spans


def _fragments(seed: int) -> Iterator[str]:
    """Give every short prose sentence of the Python documentation once, in random order."""
    from pydoc_data.topics import topics

    found: dict[str, None] = {}
    for name in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            for sentence in re.split(r"(?<=[.!?:])\s+", " ".join(paragraph.split())):
                if _SENTENCE.fullmatch(sentence):
                    found[sentence] = None
    sentences = list(found)
    Random(f"{seed}:fragments").shuffle(sentences)
    yield from sentences
    raise UserError(
        f"the Python documentation has only {len(sentences)} sentences to be used once: ask for fewer noisy samples."
    )


# Prose only (no grammar rules, signatures or tables), between 4 and about 15 words.
_SENTENCE = re.compile(r"(?=.{20,80}$)[A-Z][a-z]*,? [A-Za-z\"'(),;_ \-]+[a-z\")]\.")
_TAGS = ("p", "div", "li", "b", "td")


def _tagged(sentence: str, probability: float, draws: Random) -> str:
    if draws.random() >= probability:
        return sentence
    tag = draws.choice(_TAGS)
    return f"<{tag}>{sentence}</{tag}>"


def _chain_sum_sentences(entry: Entrant) -> list[str]:
    first, *rest = entry["metadata"]["expression"].split(" ")
    total = int(first)
    sentences: list[str] = []
    for operator, term in zip(rest[::2], rest[1::2], strict=True):
        before, total = total, total + int(term) if operator == "+" else total - int(term)
        sentences.append(f"{'Then' if sentences else 'First'}, {before} {operator} {term} = {total}.")
    return [*sentences, f"The answer is {total}."]


def _letter_counting_sentences(entry: Entrant) -> list[str]:
    letter, words = entry["metadata"]["target_letter"], entry["metadata"]["span"]
    counts = [word.lower().count(letter) for word in words]
    by_word = ", ".join(f"{word} has {number}" for word, number in zip(words, counts, strict=True))
    return [
        f"{by_word}.",
        f"{' + '.join(map(str, counts))} = {sum(counts)}.",
        f"The answer is {sum(counts)}.",
    ]


def _statements(entry: Entrant) -> list[str]:
    return entry["question"].split("\n")[0].strip().removesuffix(".").split(". ")


def _needle_question(entry: Entrant) -> str:
    asked = entry["metadata"]["question"].split("?")[0]
    return f"{'. '.join(_statements(entry))}.\n{asked}?"


def _needle_sentences(entry: Entrant) -> list[str]:
    fact = entry["metadata"]["question"].split("?")[0].removeprefix("Who ")
    return [
        f"We look for who {fact}.",
        f"{entry['answer']} {fact}.",
        f"The answer is {entry['answer']}.",
    ]


def _other_number(found: str, entry: Entrant, draws: Random) -> str:
    number = int(found)
    return str(
        draws.choice([number + step for step in (-3, -2, -1, 1, 2, 3) if number < 0 or number + step >= 0])
    )


def _other_name(found: str, entry: Entrant, draws: Random) -> str:
    names = {statement.split(" ")[0] for statement in _statements(entry)} - {found}
    return draws.choice(sorted(names))


_NUMBER = r"-?\b\d+\b"

_TASKS = {
    "chain_sum": _Task(
        settings={"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1},
        question=lambda entry: entry["question"],
        sentences=_chain_sum_sentences,
        fact=lambda entry: _NUMBER,
        replacement=_other_number,
    ),
    "letter_counting": _Task(
        settings={"min_words": 3, "max_words": 4},
        question=lambda entry: entry["question"],
        sentences=_letter_counting_sentences,
        fact=lambda entry: _NUMBER,
        replacement=_other_number,
    ),
    "needle_haystack": _Task(
        settings={"min_num_statements": 3, "max_num_statements": 4},
        question=_needle_question,
        sentences=_needle_sentences,
        fact=lambda entry: rf"\b{re.escape(entry['answer'])}\b",
        replacement=_other_name,
    ),
}
