"""A tiny transformer that reads problems in every role of SIFT.

A problem states how many there are of four kinds of fruit, and asks for two of them. Its query and its sticker are worded differently:

    query       three quinces come ; pippins : two ; seven plums come ; ... how many apples and damsons ?      a kind has four names
    sticker     **Conditions:** quince 3 , apple 2 , plum 7 , ... **Question:** apple plum
    solution    apple 2 plum 7 answer is 2 7

The reader learns all roles on fresh problems: to note a query, to answer from each wording and from both, to correct a note in which facts are
wrong, missing or invented, and to write the note behind a solution. Of the names of a kind it sees the last one seldom, and problems that
it is asked have all of them equally often: rare words are meant to be misread, and greedily each time the same; `Slips` adds misreadings
that are drawn anew in every call. Positions are rotary: with learned ones, numbers are hardly looked up after three times as many texts.

Source: the testbed is ours, after SIFT: Grounding LLM Reasoning in Contexts via Stickers (arXiv 2502.14922).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
from jaxtyping import Int
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tokenry.core.tensors.alignment import IGNORED
from tokenry.decoding import SIFTPrompts
from tokenry.models import Generated, LocalText, Sampling, TextModel
from tokenry.models.text_model import GREEDY, Prompt
from tokenry.recipes.kit import fit, one_cycle

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KINDS = {
    "apple": ("apples", "pippins", "russets", "costards"),
    "pear": ("pears", "bartletts", "concordes", "comices"),
    "plum": ("plums", "damsons", "mirabelles", "greengages"),
    "quince": ("quinces", "smyrnas", "vrajas", "champions"),
    "cherry": ("cherries", "morellos", "bings", "rainiers"),
    "berry": ("berries", "loganberries", "tayberries", "boysenberries"),
}
FACTS, MOST = 4, 32
_ROLES = ("note", "correct", "invert", "solve")
_SIGNS = [
    ";",
    ":",
    ",",
    "?",
    "come",
    "how",
    "many",
    "and",
    "answer",
    "is",
    "**Conditions:**",
    "**Question:**",
]
PAD, END = "<pad>", "<end>"
PROMPTS = SIFTPrompts(
    "note {query}", "correct {query} {sticker}", "invert {prediction}", "solve {text}", chat=False
)


Fact = tuple[int, str]
"""A number and a kind of fruit."""


@dataclass(frozen=True)
class FactProblem:
    """Facts, the two kinds that are asked for, and the query that words them."""

    facts: tuple[Fact, ...]
    asked: tuple[str, ...]
    query: str

    @property
    def answer(self) -> str:
        """The numbers of the kinds that are asked for, in their order."""
        return " ".join(str(number) for number, _ in asked_facts(self.facts, self.asked))


@dataclass(frozen=True)
class FactReader:
    """Size and training of the reader.

    Attributes:
        width: width of the hidden states.
        batch_size: texts per step, of all roles.
        learning_rate: highest learning rate.
        wrong: share of the facts that are wrong, missing or invented in the notes that are to be corrected, or stand beside a query.
        weights: how often each name of a kind is seen in training.
    """

    layers: int = 3
    width: int = 64
    steps: int = 900
    batch_size: int = 32
    learning_rate: float = 3e-3
    wrong: float = 0.15
    weights: tuple[int, ...] = (4000, 600, 60, 1)

    def prepared(self, problems: int, seed: int, progress: Callable[[float], None]) -> "Exam":
        """Train the reader, and draw problems that it has not seen."""
        reader = train_reader(self, seed, progress)
        drawn = draw_problems(problems, Random(f"exam {seed}"))
        return Exam(
            reader, [problem.query for problem in drawn], [problem.answer for problem in drawn], PROMPTS, MOST
        )


@dataclass(frozen=True)
class Exam:
    """A model, and problems that it is asked.

    Attributes:
        model: what answers.
        answers: the right answers.
        prompts: what is asked in each role.
        max_new_tokens: maximum number of tokens of a text.
    """

    model: TextModel
    queries: Sequence[str]
    answers: Sequence[str]
    prompts: SIFTPrompts
    max_new_tokens: int


# --- problems and their texts ------------------------------------------------------------------------------------------


def draw_problems(number: int, draws: Random) -> list[FactProblem]:
    """Draw problems in which all names of a kind are equally frequent."""
    return [_problem(draws) for _ in range(number)]


def _problem(draws: Random, weights: Sequence[int] | None = None) -> FactProblem:
    facts = tuple((draws.randint(1, 9), kind) for kind in draws.sample(list(KINDS), FACTS))
    asked = tuple(kind for _, kind in draws.sample(facts, 2))
    worded = " ; ".join(_worded(*fact, draws, weights) for fact in facts)
    return FactProblem(
        facts, asked, f"{worded} ; how many {' and '.join(_named(kind, draws, weights) for kind in asked)} ?"
    )


def _worded(number: int, kind: str, draws: Random, weights: Sequence[int] | None) -> str:
    name, written = _named(kind, draws, weights), NUMBERS[number - 1]
    return f"{written} {name} come" if draws.random() < 0.5 else f"{name} : {written}"


def _named(kind: str, draws: Random, weights: Sequence[int] | None) -> str:
    return draws.choices(KINDS[kind], weights)[0]


def asked_facts(facts: Sequence[Fact], asked: Sequence[str]) -> list[Fact]:
    """The facts that are asked for, in the order of the question."""
    return [fact for kind in asked for fact in facts if fact[1] == kind]


def sticker_of(facts: Sequence[Fact], asked: Sequence[str]) -> str:
    """The note of facts and question."""
    return f"**Conditions:** {' , '.join(f'{kind} {number}' for number, kind in facts)} **Question:** {' '.join(asked)}"


def solution_of(facts: Sequence[Fact], asked: Sequence[str]) -> str:
    """The facts that matter, and the answer."""
    found = asked_facts(facts, asked)
    return f"{' '.join(f'{kind} {number}' for number, kind in found)} answer is {' '.join(str(number) for number, _ in found)}"


def _spoiled(facts: Sequence[Fact], share: float, draws: Random) -> list[Fact]:
    """Facts of which a share has another number or another kind, is missing, or has an invented one beside it."""
    found: list[Fact] = []
    for number, kind in facts:
        other = draws.randint(1, 9), draws.choice(list(KINDS))
        changes = [[(other[0], kind)], [(number, other[1])], [], [(number, kind), other]]
        found += draws.choice(changes) if draws.random() < share else [(number, kind)]
    return found


def _lesson(role: int, setting: FactReader, draws: Random) -> tuple[str, str]:
    """A prompt and what is to be written after it, in one of six roles."""
    problem = _problem(draws, setting.weights)
    facts, asked = problem.facts, problem.asked
    sticker, solution = sticker_of(facts, asked), solution_of(facts, asked)
    spoiled = sticker_of(_spoiled(facts, setting.wrong, draws), asked)
    return [
        (f"note {problem.query}", sticker),
        (f"correct {problem.query} {spoiled}", sticker),
        (f"invert {solution}", sticker_of(asked_facts(facts, asked), asked)),
        (f"solve {problem.query}", solution),
        (f"solve {sticker}", solution),
        (f"solve {problem.query} {spoiled}", solution),
    ][role]


# --- the trained reader ------------------------------------------------------------------------------------------------


def reader_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word."""
    names = [name for kind, names in KINDS.items() for name in (kind, *names)]
    words = [PAD, END, *_ROLES, *_SIGNS, *NUMBERS, *names, *map(str, range(1, 10))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


def train_reader(
    setting: FactReader,
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
) -> LocalText:
    """Train a reader on fresh problems at every step, on equally many texts of every role."""
    tokenizer = reader_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=setting.width,
        intermediate_size=2 * setting.width,
        num_hidden_layers=setting.layers,
        num_attention_heads=4,
        max_position_embeddings=4 * MOST,
        initializer_range=0.5 * setting.width**-0.5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    draws = Random(seed)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            lessons = [_lesson(place % 6, setting, draws) for place in range(setting.batch_size)]
            yield _rows(lessons, tokenizer)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        total: Tensor = model(input_ids=batch[0], labels=batch[1]).loss
        return total

    fit(
        model.train(),
        batches(),
        loss,
        setting.steps,
        setting.learning_rate,
        one_cycle,
        clip=1.0,
        fused=True,
        progress=progress,
    )
    return LocalText(model.eval(), tokenizer, batch_size=500, name="reader")


def _rows(
    lessons: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerFast
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Token ids, and labels on what is to be written."""
    vocabulary = tokenizer.get_vocab()
    rows, labels = [], []
    for prompt, text in lessons:
        read, written = ([vocabulary[word] for word in part.split()] for part in (prompt, f"{text} {END}"))
        rows.append(torch.tensor(read + written))
        labels.append(torch.tensor([IGNORED] * len(read) + written))
    padded = torch.nn.utils.rnn.pad_sequence(rows, True, vocabulary[PAD])
    return padded, torch.nn.utils.rnn.pad_sequence(labels, True, IGNORED)


class Slips:
    """A reader that takes some numbers for others, anew in every call.

    Args:
        reader: what reads.
        rate: share of the numbers that are misread.
    """

    def __init__(self, reader: TextModel, rate: float, seed: int) -> None:
        self.reader, self.rate, self.name = reader, rate, f"{reader.name} with slips"
        self._draws = Random(seed)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling = GREEDY) -> list[Generated]:
        """Read each prompt with slips of its own, once for each sample."""
        seen = [self._slipped(str(prompt)) for prompt in prompts for _ in range(sampling.samples)]
        return self.reader.generate(seen, replace(sampling, samples=1))

    def _slipped(self, prompt: str) -> str:
        words = prompt.split(" ")
        for place, word in enumerate(words):
            if (word in NUMBERS or word.isdigit()) and self._draws.random() < self.rate:
                number = self._draws.randint(1, 9)
                words[place] = str(number) if word.isdigit() else NUMBERS[number - 1]
        return " ".join(words)
