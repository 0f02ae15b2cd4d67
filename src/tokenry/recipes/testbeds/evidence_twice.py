"""A tiny language model that answers from evidence that stands in its context twice, and texts whose answer a model must copy.

    context   9 4 A7 2 B3 5 B3 8 A7 1 6 3      fillers, a value of class A in two places and one of class B in two places
    query     A                                the answer is A7: either copy suffices

In training a value stands there one to three times. As either copy suffices, no single replacement takes the answer away.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tokenry.attribution import Probability, TargetProbability
from tokenry.recipes.kit.fit import fit, one_cycle

CLASSES, VALUES, FILLERS = 2, 12, 30
VOCABULARY = CLASSES * (VALUES + 1) + FILLERS
_FIRST_VALUE, _FIRST_FILLER = CLASSES, CLASSES * (VALUES + 1)


@dataclass(frozen=True)
class EvidenceSetting:
    """Size of the model and of its training."""

    length: int = 14
    steps: int = 700
    batch_size: int = 64
    hidden: int = 48
    learning_rate: float = 4e-3


@dataclass(frozen=True)
class Evidence:
    """Contexts with the places of their evidence.

    Attributes:
        contexts: without the query.
        queries: class that is asked for, which is also its token.
        answers: value of that class in the context.
        copies: places of the answer.
    """

    contexts: Int[Tensor, "cases seq"]
    queries: Int[Tensor, "cases"]
    answers: Int[Tensor, "cases"]
    copies: Int[Tensor, "cases 2"]


def draw_evidence(cases: int, length: int, generator: Generator) -> Evidence:
    """Contexts with two copies of a value of each class."""
    contexts = torch.randint(FILLERS, (cases, length), generator=generator) + _FIRST_FILLER
    places = (
        torch.rand(cases, length, generator=generator).argsort(1)[:, : 2 * CLASSES].view(cases, CLASSES, 2)
    )
    values = torch.randint(VALUES, (cases, CLASSES), generator=generator) + _FIRST_VALUE
    values += VALUES * torch.arange(CLASSES)
    contexts.scatter_(1, places.flatten(1), values[:, :, None].expand(-1, -1, 2).flatten(1))
    queries = torch.randint(CLASSES, (cases,), generator=generator)
    row = torch.arange(cases)
    return Evidence(contexts, queries, values[row, queries], places[row, queries])


def train_model(setting: EvidenceSetting, seed: int) -> tuple[LlamaForCausalLM, list[float]]:
    """Train the model; returns it with the loss of every step."""
    generator = Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=setting.hidden, intermediate_size=2 * setting.hidden, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=64, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        )
    )  # fmt: skip

    def loss(evidence: Evidence) -> Tensor:
        ids = torch.cat([evidence.contexts, evidence.queries[:, None]], dim=1)
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, 0]
        return torch.nn.functional.cross_entropy(logits, evidence.answers)

    losses = fit(
        model, _varied(setting, generator), loss, setting.steps, setting.learning_rate, one_cycle, clip=1.0
    )
    return model.eval(), losses


def answer_probability(model: LlamaForCausalLM, query: int, answer: int) -> Probability:
    """The model as a black box: p(answer) of contexts, after which it is asked the query."""
    subject = TargetProbability(model, (answer,), batch_size=128)

    def p(contexts: Int[Tensor, "probes seq"]) -> Float[Tensor, "probes"]:
        return subject(torch.cat([contexts, torch.full((len(contexts), 1), query)], dim=1))

    return p


def _varied(setting: EvidenceSetting, generator: Generator) -> Iterator[Evidence]:
    """Batches in which each value stands one to three times."""
    while True:
        evidence = draw_evidence(setting.batch_size, setting.length, generator)
        contexts, row = evidence.contexts, torch.arange(setting.batch_size)
        lost = torch.rand(len(row), generator=generator) < 0.4
        contexts[row[lost], evidence.copies[lost, 0]] = _FIRST_FILLER
        place = torch.randint(setting.length, (len(row),), generator=generator)
        is_filler = contexts[row, place] >= _FIRST_FILLER
        more = is_filler & (torch.rand(len(row), generator=generator) < 0.4)
        contexts[row[more], place[more]] = evidence.answers[more]
        yield evidence


COPIED: tuple[tuple[str, str], ...] = (
    ("The capital of the island is Oslo, and its people like to fish. The capital of the island is", " Oslo"),
    (
        "My new colleague is called Martin. He sits by the window all day. My new colleague is called",
        " Martin",
    ),
    ("The train leaves from platform seven this morning. Hurry up, the train leaves from platform", " seven"),
    ("Her favourite fruit is mango, which she eats every summer. Her favourite fruit is", " mango"),
    ("The secret word is river. Nobody else in the room knows it. The secret word is", " river"),
    ("The painter used only green for the walls. Look, the painter used only", " green"),
    ("Our dog is named Bruno and sleeps in the kitchen. Our dog is named", " Bruno"),
    ("The meeting was moved to Thursday because of the rain. The meeting was moved to", " Thursday"),
    ("In the box there was a violin under old papers. In the box there was a", " violin"),
    ("The winner of the race was Kenya, to the joy of all. The winner of the race was", " Kenya"),
)
"""A text that ends before a word that stands in it once, early, and that word."""
