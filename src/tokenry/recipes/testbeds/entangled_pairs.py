"""Preference pairs whose responses share more or less of their text, and one step of fixed length on each.

Two beds, each with three kinds of pairs:

    one token       the responses are one token each
    short suffix    the same, and a few tokens that both share
    long suffix     the same, and a dozen tokens or so that both share

`sentiment_pairs` are reviews with their right and wrong sentiment, for a pretrained model. `class_pairs` are for a tiny model of a language
of token classes: like " positive" and " negative", chosen and rejected token are of one class, which is improbable after the prompt, as
answers are for a model that was not tuned on the task; and one response may go on for longer than the other. `data_pairs` are the first
of a data set.

`measure` predicts what a step does to both log-probabilities, makes it, measures, and restores the weights.

Source: A Common Pitfall of Margin-based Language Model Alignment: Gradient Entanglement (arXiv 2410.13828), whose sentiment task has these
kinds; the reviews and the language of classes are ours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from tokenry.alignment.entanglement import BothGradients, cases, gathered, predict_step, response_logp
from tokenry.alignment.preference_pairs import PreferencePair, encode_pair
from tokenry.core.chat.reading import read_rows
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.recipes.kit import fit, linear

KINDS = ("one token", "short suffix", "long suffix", "data set")
_MADE = 3  # all but those of a data set
_SUFFIXES = (
    "",
    ", I think",
    ", as you can tell from the words that the author of this text has chosen",
)
_REVIEWS = (
    ("I loved every minute of this film and would gladly see it again.", True),
    ("The food was cold, the waiter was rude, and we left hungry.", False),
    ("A wonderful book that kept me reading until three in the morning.", True),
    ("The phone broke after two days and nobody answered my calls.", False),
    ("The staff were friendly and the room had a lovely view of the sea.", True),
    ("What a waste of money: the shoes fell apart in the first rain.", False),
    ("This is the best concert that I have been to in many years.", True),
    ("The plot makes no sense and the actors seem to be asleep.", False),
    ("Our guide knew everything about the town and made us laugh all day.", True),
    ("I waited for an hour and the parcel still arrived damaged.", False),
    ("The cake was delicious and the children asked for more.", True),
    ("The hotel was dirty, loud, and far more expensive than promised.", False),
)
_SENTIMENTS = {True: " positive", False: " negative"}

CLASSES, MEMBERS = 8, 6
_SHARED: Sequence[tuple[int, int]] = ((0, 0), (1, 4), (6, 14))
_PROMPT = 6


@dataclass(frozen=True)
class KindOfPair:
    """A pair, and what its responses share.

    Attributes:
        kind: index into `KINDS`.
        prompt: number of the prompt, which the pairs of all kinds have in common.
    """

    kind: int
    prompt: int
    pair: PreferencePair


@dataclass(frozen=True)
class MeasuredPair:
    """What was predicted of a step on one pair, and what it did.

    Attributes:
        kind: index into `KINDS`.
        condition_ratio: ⟨g_w, g_l⟩ / min(|g_w|², |g_l|²).
        predicted: changes of log π_w and log π_l, to first order.
        realised: the same after a step of DPO.
        normalised: the same after a normalised step of the same length.
        case_predicted: index into `CASES`.
        case_realised: the same after the step of DPO.
        case_normalised: the same after the normalised step.
    """

    kind: int
    prompt: int
    cosine: float
    condition_ratio: float
    predicted: tuple[float, float]
    realised: tuple[float, float]
    normalised: tuple[float, float]
    case_predicted: int
    case_realised: int
    case_normalised: int


def sentiment_pairs(tokenizer: PreTrainedTokenizerBase, prompts: int) -> list[KindOfPair]:
    """The first reviews with their right and wrong sentiment, in all kinds."""
    found = []
    for number, (review, is_positive) in enumerate(_REVIEWS[:prompts]):
        prompt = tokenizer(f"Review: {review}\nThe sentiment of this review is")["input_ids"]
        for kind, suffix in enumerate(_SUFFIXES):
            right, wrong = (
                tuple(tokenizer(_SENTIMENTS[sentiment] + suffix, add_special_tokens=False)["input_ids"])
                for sentiment in (is_positive, not is_positive)
            )
            found.append(KindOfPair(kind, number, PreferencePair(tuple(prompt), right, wrong)))
    return found


def data_pairs(source: str, tokenizer: PreTrainedTokenizerBase, number: int) -> list[KindOfPair]:
    """The first pairs of a data set."""
    rows = read_rows(source)[:number]
    return [
        KindOfPair(_MADE, place, encode_pair(row, tokenizer, place + 1)) for place, row in enumerate(rows)
    ]


def class_model(steps: int, seed: int = 0) -> LlamaForCausalLM:
    """A tiny model, trained on the language of classes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=CLASSES * MEMBERS,
                hidden_size=48,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=4,
                max_position_embeddings=64,
                bos_token_id=None,
                eos_token_id=None,
                pad_token_id=None,
            )
        )

    def batches() -> Tensor:
        return _text(torch.randint(CLASSES, (32,), generator=generator), 20, generator)

    model.train()
    fit(model, iter(batches, None), lambda rows: model(rows, labels=rows).loss, steps, 3e-3, linear)
    return model.eval()


def class_pairs(number: int, seed: int = 1) -> list[KindOfPair]:
    """Prompts of the language with two tokens of one class that does not follow there, and after these, text that does follow."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for one in range(number):
        kind = one % _MADE
        prompt = _text(torch.randint(CLASSES, (1,), generator=generator), _PROMPT, generator)[0].tolist()
        last = prompt[-1] // MEMBERS
        answer = (last + int(torch.randint(3, CLASSES, (1,), generator=generator))) % CLASSES
        right, wrong = (answer * MEMBERS + torch.randperm(MEMBERS, generator=generator)[:2]).tolist()
        fewest, most = _SHARED[kind]
        shared = _text(torch.tensor([answer]), 1 + most, generator)[0, 1:].tolist()
        ends = torch.randint(fewest, most + 1, (2,), generator=generator).tolist()
        pair = PreferencePair(tuple(prompt), (right, *shared[: ends[0]]), (wrong, *shared[: ends[1]]))
        found.append(KindOfPair(kind, one // _MADE, pair))
    return found


def _text(classes: Tensor, length: int, generator: Generator) -> Tensor:
    """Rows of text: the next class is one or two further on, and a token of a class is half as frequent as the one before it."""
    frequency, rows = 0.5 ** torch.arange(MEMBERS), []
    for _ in range(length):
        members = torch.multinomial(frequency, len(classes), replacement=True, generator=generator)
        rows.append(classes * MEMBERS + members)
        classes = (classes + 1 + torch.randint(2, classes.shape, generator=generator)) % CLASSES
    return torch.stack(rows, dim=1)


def measure(model: nn.Module, pairs: Sequence[KindOfPair], length: float) -> Iterator[MeasuredPair]:
    """Measure pair after pair, each from the same weights.

    Args:
        model: a causal language model; all its weights take part.
        length: Euclidean length of a step, the same along DPO's direction and along the normalised one.
    """
    trained = list(model.parameters())
    original = [parameter.detach().clone() for parameter in trained]
    with evaluation_mode(model):
        for one in pairs:
            yield _measured(model, trained, original, one, length)


def _measured(
    model: nn.Module,
    trained: Sequence[nn.Parameter],
    original: Sequence[Tensor],
    one: KindOfPair,
    length: float,
) -> MeasuredPair:
    both = BothGradients(model, one.pair, trained)
    gradients = gathered([both.products()])
    norm_w, norm_l, inner = float(gradients.norm_w), float(gradients.norm_l), float(gradients.inner)

    def step(d_w: float, d_l: float) -> Tensor:
        """The changes after a step along d_w g_w − d_l g_l."""
        size = max((d_w * norm_w) ** 2 + (d_l * norm_l) ** 2 - 2 * d_w * d_l * inner, 0.0) ** 0.5
        rate = length / size if size > 0 else 0.0
        with torch.no_grad():
            for parameter, won, lost in zip(trained, both.chosen, both.rejected, strict=True):
                parameter.add_(won, alpha=rate * d_w).sub_(lost, alpha=rate * d_l)
            responses = (one.pair.chosen, one.pair.rejected)
            after = torch.stack([response_logp(model, one.pair.prompt, response) for response in responses])
            for parameter, weights in zip(trained, original, strict=True):
                parameter.copy_(weights)
        return after.double().cpu() - both.logps.cpu()

    size = max(norm_w**2 + norm_l**2 - 2 * inner, 1e-30) ** 0.5
    one_each = torch.ones(1, dtype=torch.float64)
    predicted = predict_step(gradients, one_each, one_each, length / size)
    realised, normalised = step(1.0, 1.0), step(1 / norm_w, 1 / norm_l)
    case_realised, case_normalised = (int(cases(change[:1], change[1:])) for change in (realised, normalised))
    return MeasuredPair(
        one.kind,
        one.prompt,
        cosine=float(gradients.cosine),
        condition_ratio=float(gradients.condition_ratio),
        predicted=(float(predicted.chosen), float(predicted.rejected)),
        realised=(float(realised[0]), float(realised[1])),
        normalised=(float(normalised[0]), float(normalised[1])),
        case_predicted=int(predicted.case),
        case_realised=case_realised,
        case_normalised=case_normalised,
    )
