"""Tokenization counts (arXiv 2402.14903): does it matter from which side digits are grouped?

    training    three identical small decoders learn to add, their numbers cut into twos from the left, from the right, one by one
    frozen      the embedded model adds with and without commas from the right; it reads digit by digit

Headline: the abstract's, with trained decoders, since no model that two cores can ask groups digits: SmolLM2 reads them one by one.
A sum has as many digits as its longer addend (match) or one more (mismatch); under mismatch, groups from the left put the places of
sum and addends out of line. Differences are paired, problem by problem. The decoders' layout is that of GPT-2 (learned positions): with
rotary ones, tried first, none had learned to add after so few steps.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress, part
from tokenry.core.stats import (
    Estimate,
    all_of,
    estimate_of_mean,
    independent_difference,
    paired_difference,
    shown,
)
from tokenry.core.text.digit_groups import GroupMode
from tokenry.evaluation.arithmetic.addition import AdditionAnswer, accuracy_table, evaluate_addition
from tokenry.evaluation.arithmetic.addition_errors import analyze_errors
from tokenry.evaluation.arithmetic.addition_patterns import ErrorPattern, error_patterns
from tokenry.evaluation.arithmetic.addition_problems import (
    SIGNATURES,
    Signature,
    sample_problems,
)
from tokenry.models import EMBEDDED_TITLE, load_model, load_tokenizer, preferred_device
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.addition_transformer import AdditionRun, AdditionSetting, learn_addition
from tokenry.tokenization.numbers.retokenize_numbers import retokenize_numbers

GPT35 = "gpt-3.5-turbo-0301, 1,300 problems, 8 shots"
MODES: tuple[GroupMode, ...] = ("l2r", "r2l", "single")
FORMATS = ("nosep", "comma_r2l")


@dataclass(frozen=True)
class AdditionSizes:
    """What a scale runs."""

    setting: AdditionSetting = field(default_factory=AdditionSetting)
    model: str = "embedded"
    dtype: str | None = None
    signatures: tuple[Signature, ...] = ((1, 1, 1), (1, 1, 2), (2, 1, 2), (2, 2, 2), (4, 4, 4), (4, 4, 5))
    per_signature: int = 8
    shots: int = 4


@dataclass(frozen=True)
class AdditionTrial:
    """Everything that was measured.

    Attributes:
        runs: the small decoders, by how their numbers are cut.
        frozen: the answers of the frozen model, by format.
        regrouping: what regrouping the frozen model's tokenizer would do.
    """

    runs: Mapping[str, AdditionRun]
    frozen: Mapping[str, Sequence[AdditionAnswer]]
    regrouping: str


@recipe(
    "number-tokens",
    laptop=AdditionSizes(),
    paper=AdditionSizes(
        setting=AdditionSetting(steps=2150),
        model="meta-llama/Meta-Llama-3-8B-Instruct",
        dtype="bfloat16",
        signatures=SIGNATURES,
        per_signature=100,
        shots=8,
    ),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Train the decoders, ask the frozen model, and judge each claim."""
    sizes: AdditionSizes = run.sizes
    measured = measure(sizes, run.progress)
    run.settings |= {
        "model": EMBEDDED_TITLE if sizes.model == "embedded" else sizes.model,
        "sizes": asdict(sizes),
        "regrouping the frozen model's tokenizer": measured.regrouping,
        "decoders": {mode: _as_json(decoder, mode) for mode, decoder in measured.runs.items()},
        "frozen": {
            name: accuracy_table(answers, ("signature",)) for name, answers in measured.frozen.items()
        },
    }
    with run.figure(12, 3.4) as figure:
        draw(figure, measured.runs)
    yield from training_claims(measured.runs)
    yield frozen_claim(measured.frozen)


def _as_json(decoder: AdditionRun, mode: str) -> dict[str, Any]:
    return {
        "accuracy": accuracy_table(decoder.answers, ("length",)),
        "read in the other way": accuracy_table(decoder.regrouped, ("length",)),
        "last_loss": float(np.mean(decoder.losses[-20:])),
        "patterns": [asdict(pattern) for pattern in _patterns(decoder.answers, mode)],
    }


def measure(sizes: AdditionSizes, progress: Progress) -> AdditionTrial:
    """Run everything."""
    other: Mapping[str, GroupMode] = {"l2r": "r2l", "r2l": "l2r"}
    runs: dict[str, AdditionRun] = {
        mode: learn_addition(
            mode, sizes.setting, 0, other.get(mode), part(progress, 0.25 * number, 0.25 * (number + 1))
        )
        for number, mode in enumerate(MODES)
    }
    frozen, regrouping = _frozen(sizes, part(progress, 0.75, 1.0))
    return AdditionTrial(runs, frozen, regrouping)


def _frozen(sizes: AdditionSizes, progress: Progress) -> tuple[dict[str, list[AdditionAnswer]], str]:
    """Ask the frozen model in every format, and with a regrouped tokenizer where it can be regrouped."""
    progress("loading the frozen model", 0.0)
    model = load_model(sizes.model, sizes.dtype).to(preferred_device())
    tokenizer = load_tokenizer(sizes.model)
    asked = sample_problems(sizes.signatures, sizes.per_signature, sizes.shots)
    answers = {}
    for number, name in enumerate(FORMATS):
        progress(f"frozen model, {name}", (1 + number) / (2 + len(FORMATS)))
        answers[name] = evaluate_addition(model, tokenizer, fmt=name, problems=asked, batch_size=8)
    try:
        regrouped = retokenize_numbers(tokenizer)
    except UserError as error:
        return answers, str(error)
    progress("frozen model, regrouped", (1 + len(FORMATS)) / (2 + len(FORMATS)))
    answers["regrouped"] = evaluate_addition(model, regrouped, problems=asked, batch_size=8, name="regrouped")
    return answers, "done: see `regrouped`"


def training_claims(runs: Mapping[str, AdditionRun]) -> Iterator[Claim]:
    """Differences between the decoders are paired, problem by problem; those between match and mismatch are over different problems."""
    right = {mode: _right(run.answers) for mode, run in runs.items()}
    mismatch = np.array([answer.length == "mismatch" for answer in runs["l2r"].answers])
    gaps = {
        name: paired_difference(right["r2l"][chosen], right["l2r"][chosen]).scaled(100)
        for name, chosen in (("mismatch", mismatch), ("match", ~mismatch))
    }

    def lost(mode: str) -> Estimate:
        match, other = (estimate_of_mean(right[mode][chosen]) for chosen in (~mismatch, mismatch))
        return independent_difference(match, other).scaled(100)

    yield _better(
        "trained alike, groups from the right add better than groups from the left (exact match)",
        right["r2l"],
        right["l2r"],
        "l2r",
        f"98.1 % against 67.5 % ({GPT35}, commas from the right against none)",
    )
    yield Claim(
        "under length mismatch, groups from the left are near 0 (below 10 %), groups from the right are not",
        f"8.25 % against 98.5 % ({GPT35})",
        measured=f"{estimate_of_mean(right['l2r'][mismatch]):.1%} (l2r)",
        control=f"{estimate_of_mean(right['r2l'][mismatch]):.1%} (r2l)",
        verdict=all_of((shown(estimate_of_mean(0.1 - right["l2r"][mismatch])), shown(gaps["mismatch"]))),
    )
    wider = independent_difference(gaps["mismatch"], gaps["match"])
    yield Claim(
        "the gap between the two is wider under length mismatch than under match (points)",
        f"90.3 against 4.1 ({GPT35})",
        measured=f"{gaps['mismatch'].value:.1f} (difference {wider:+.1f})",
        control=f"{gaps['match'].value:.1f} under match",
        verdict=shown(wider),
    )
    yield Claim(
        "groups from the left do worse under mismatch than under match (points lost)",
        f"85.6 ({GPT35}); -0.6 with commas from the right",
        measured=f"{lost('l2r'):+.1f}",
        control=f"{lost('r2l'):+.1f} from the right",
        verdict=shown(lost("l2r")),
    )
    yield _better(
        "after the same steps, groups from the right add better than single digits (exact match)",
        right["r2l"],
        right["single"],
        "single",
        "not in the paper",
    )


def frozen_claim(frozen: Mapping[str, Sequence[AdditionAnswer]]) -> Claim:
    """The paper's own experiment, on a model that reads digit by digit."""
    return _better(
        "frozen model: commas from the right add better than none (exact match)",
        _right(frozen["comma_r2l"]),
        _right(frozen["nosep"]),
        "nosep",
        "97.8 % against 73.3 % (gpt-3.5-turbo-0301, 8 shots, 90 problems)",
    )


def _better(
    claim: str, ours: Float[np.ndarray, "n"], theirs: Float[np.ndarray, "n"], against: str, paper: str
) -> Claim:
    return Claim.above(claim, 100 * ours, 100 * theirs, against, unit=" %", paper=paper)


def _right(answers: Sequence[AdditionAnswer]) -> Float[np.ndarray, "problems"]:
    return np.array([float(answer.answer_match) for answer in answers])


def _patterns(answers: Sequence[AdditionAnswer], mode: str) -> list[ErrorPattern]:
    valid = [answer for answer in answers if answer.valid]
    columns = ([getattr(answer, name) for answer in valid] for name in ("num1", "num2", "answer"))
    first, second, said = columns
    return error_patterns(first, second, said, mode, 2, separated=False)


def draw(figure: Figure, runs: Mapping[str, AdditionRun]) -> None:
    """Accuracy by length, the losses, and which digits are wrong."""
    left, middle, right = figure.subplots(1, 3)
    for place, (mode, run) in enumerate(runs.items()):
        for shift, length, marker in ((-0.12, "match", "o"), (0.12, "mismatch", "s")):
            values = _right([answer for answer in run.answers if answer.length == length])
            found = estimate_of_mean(values).scaled(100)
            half = found.high - found.value
            left.errorbar(found.value, place + shift, xerr=half, fmt=marker, color=f"C{place}", capsize=3)
        smooth = np.convolve(run.losses, np.ones(20) / 20, mode="valid")
        middle.plot(np.arange(len(smooth)) + 20, smooth, color=f"C{place}", label=mode)
        shares = wrong_digits(run.answers, max(len(str(answer.num1)) for answer in run.answers) + 1)
        right.plot(np.arange(1, len(shares) + 1), 100 * shares, "o-", color=f"C{place}", label=mode)
    left.set_yticks(range(len(runs)), list(runs))
    left.invert_yaxis()
    left.set(
        xlim=(-3, 103), xlabel="correct sums, % (○ length match, □ mismatch; 95 %)", title="Trained alike"
    )
    middle.set(xlabel="step", ylabel="NLL of answer tokens, nats", yscale="log", title="Learning")
    right.set(
        ylim=(-3, 103), xlabel="digit from the left", ylabel="wrong, %", title="Longest sums, length mismatch"
    )
    right.xaxis.get_major_locator().set_params(integer=True)
    middle.legend(frameon=False)


def wrong_digits(answers: Sequence[AdditionAnswer], length: int) -> Float[np.ndarray, "digits"]:
    """How often each digit is wrong, in answers of the right number of digits to sums of `length` digits that are longer than addends."""
    chosen = [
        answer
        for answer in answers
        if answer.valid
        and answer.length == "mismatch"
        and len(str(answer.num1 + answer.num2)) == len(str(answer.answer)) == length
    ]
    if not chosen:
        return np.full(length, np.nan)
    columns = ([getattr(answer, name) for answer in chosen] for name in ("num1", "num2", "answer"))
    first, second, said = columns
    return (analyze_errors(first, second, said)["digit_error_mag"] > 0).mean(0)
