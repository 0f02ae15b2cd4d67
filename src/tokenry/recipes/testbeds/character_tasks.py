"""Problems of three kinds for tiny character models, in which long answers are easy and short ones hard.

    COPY    4 to 8 digits, to be repeated            C58231___=    5.8,2;3.1
    ADD     two numbers below 100                    A34+56___=    9,0
    MOD     a number below 50 modulo 3 or 7          M43+7____=    1

Between two characters of an answer stands a filler, one of four at random, which means nothing: a long answer carries much noise in its
log-probabilities. An answer is right if its digits are, whatever its fillers, and if it ends.

Source: the testbed is ours, after the mixture of lengths and difficulties in Language Model Cascades (arXiv 2404.10136).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Generator, Tensor
from transformers import GenerationConfig, GPT2LMHeadModel, PreTrainedTokenizerFast

from tokenry.core.errors import require_at_least
from tokenry.core.tensors.alignment import IGNORED
from tokenry.core.tensors.generation import Continuation, continue_prompts
from tokenry.core.tensors.step_loop import Decoder, TokenByToken
from tokenry.recipes.kit import fit, one_cycle
from tokenry.recipes.testbeds.small_gpt2 import small_gpt2

CHARACTERS = "\0$0123456789.,;:+_=CAM"
"""The vocabulary: padding, the end of an answer, digits, fillers, and what prompts are written with."""
PAD, END = 0, 1
FILLERS = ".,;:"
TASKS = ("COPY", "ADD", "MOD")
PROMPT, ANSWER = 10, 17
_ID = {character: number for number, character in enumerate(CHARACTERS)}


@dataclass(frozen=True)
class Problem:
    """One problem: its kind, what is asked, and the digits of the right answer."""

    task: str
    prompt: str
    answer: str

    @property
    def prompt_ids(self) -> list[int]:
        """The prompt as tokens."""
        return encoded(self.prompt)


@dataclass(frozen=True)
class CharacterModel:
    """Size and training of a model.

    Attributes:
        width: width of the hidden states.
        batch_size: problems per step.
        learning_rate: highest learning rate.
        positions: number of tokens that it can read.
    """

    layers: int
    width: int
    steps: int
    batch_size: int = 64
    learning_rate: float = 3e-3
    positions: int = PROMPT + ANSWER

    def __post_init__(self) -> None:
        require_at_least(
            1, layers=self.layers, width=self.width, steps=self.steps, batch_size=self.batch_size
        )


def encoded(text: str) -> list[int]:
    """The tokens of a text."""
    return [_ID[character] for character in text]


def decoded(ids: Sequence[int]) -> str:
    """The text of tokens."""
    return "".join(CHARACTERS[token] for token in ids)


def draw_problems(number: int, generator: Generator) -> list[Problem]:
    """Draw problems of all three kinds, equally often."""
    draws = torch.randint(1 << 30, (number, 12), generator=generator).tolist()
    return [_problem(TASKS[place % len(TASKS)], row) for place, row in enumerate(draws)]


def _problem(task: str, draws: Sequence[int]) -> Problem:
    if task == "COPY":
        asked = answer = "".join(str(draw % 10) for draw in draws[: 4 + draws[-1] % 5])
    elif task == "ADD":
        one, other = draws[0] % 100, draws[1] % 100
        asked, answer = f"{one:02}+{other:02}", str(one + other)
    else:
        number, modulus = draws[0] % 50, (3, 7)[draws[1] % 2]
        asked, answer = f"{number:02}+{modulus}", str(number % modulus)
    return Problem(task, f"{task[0]}{asked:_<{PROMPT - 2}}=", answer)


def written_answer(problem: Problem, generator: Generator) -> str:
    """The answer with fillers between its characters, and its end."""
    fillers = torch.randint(len(FILLERS), (len(problem.answer),), generator=generator).tolist()
    between = (f"{FILLERS[filler]}{digit}" for filler, digit in zip(fillers, problem.answer, strict=True))
    return "".join(between)[1:] + CHARACTERS[END]


def train_character_model(
    setting: CharacterModel, seed: int, progress: Callable[[float], None] = lambda share: None
) -> GPT2LMHeadModel:
    """Train a model on fresh problems at every step."""
    model = small_gpt2(
        len(CHARACTERS),
        setting.width,
        setting.layers,
        setting.positions,
        seed,
        activation_function="relu",
        loss_type="ForCausalLM",
        eos_token_id=END,
        pad_token_id=PAD,
    )
    generator = torch.Generator().manual_seed(seed)

    def batches() -> Iterator[Int[Tensor, "batch seq"]]:
        while True:
            yield _rows(draw_problems(setting.batch_size, generator), generator)

    def loss(rows: Int[Tensor, "batch seq"]) -> Tensor:
        labels = rows.masked_fill(rows == PAD, IGNORED)
        labels[:, :PROMPT] = IGNORED
        total: Tensor = model(input_ids=rows, labels=labels).loss
        return total

    fit(
        model.train(),
        batches(),
        loss,
        setting.steps,
        setting.learning_rate,
        one_cycle,
        clip=1.0,
        progress=progress,
    )
    return model.eval()


def _rows(problems: Sequence[Problem], generator: Generator) -> Int[Tensor, "batch seq"]:
    rows = [encoded(problem.prompt + written_answer(problem, generator)) for problem in problems]
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD
    )


def character_tokenizer() -> PreTrainedTokenizerFast:
    """The vocabulary as a tokenizer."""
    tokenizer = Tokenizer(WordLevel(dict(_ID)))
    tokenizer.pre_tokenizer = Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=CHARACTERS[PAD], eos_token=CHARACTERS[END]
    )


def answers_of(
    model: GPT2LMHeadModel,
    problems: Sequence[Problem],
    batch_size: int = 500,
    decoder: Decoder | None = None,
) -> list[Continuation]:
    """Greedy answers, with the log-probability of each token, the end among them; by another decoder where one is given."""
    greedy = GenerationConfig(max_new_tokens=ANSWER, do_sample=False, eos_token_id=END, pad_token_id=PAD)
    return continue_prompts(
        model, [problem.prompt_ids for problem in problems], greedy, batch_size, decoder or TokenByToken()
    )


def is_right(problem: Problem, answer: Continuation) -> bool:
    """Whether the digits of an answer are right, and it ends after them."""
    return digits(answer.token_ids) == problem.answer


def digits(answer: Sequence[int]) -> str | None:
    """The digits of an answer, without its fillers; None if it does not end."""
    text = decoded(answer)
    return "".join(filter(str.isdigit, text)) if text.endswith(CHARACTERS[END]) else None
