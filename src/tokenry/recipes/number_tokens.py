"""Tokenization counts (arXiv 2402.14903): does it matter from which side digits are grouped?

    identities  commas from the right give a tokenizer that groups from the left the groups of one that groups from the right
    analysis    errors planted at one digit are found there, errors at random digits are at chance
    training    three identical small decoders learn to add, their numbers cut into twos from the left, from the right, one by one
    frozen      the embedded model adds with and without commas from the right; it reads digit by digit

A sum has as many digits as its longer addend (match) or one more (mismatch); under mismatch, groups from the left put the places of
sum and addends out of line. Differences are paired, problem by problem. The decoders' layout is that of GPT-2 (learned positions): with
rotary ones, tried first, none had learned to add after so few steps.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Bool, Float

from tokenry.core.digit_groups import GroupMode, cut, format_number
from tokenry.core.errors import UserError
from tokenry.evaluation.arithmetic.addition import AdditionAnswer, accuracy_table, evaluate_addition
from tokenry.evaluation.arithmetic.addition_errors import analyze_errors
from tokenry.evaluation.arithmetic.addition_patterns import ErrorPattern, error_patterns
from tokenry.evaluation.arithmetic.addition_problems import (
    SIGNATURES,
    Signature,
    sample_addition,
    sample_problems,
)
from tokenry.models import EMBEDDED_TITLE, load_model, load_tokenizer, preferred_device
from tokenry.recipes.recipe import Claim, Progress, Reproduction, Scale, verdict
from tokenry.recipes.toys.addition_transformer import AdditionRun, AdditionSetting, learn_addition
from tokenry.runs.quiet import quiet_libraries
from tokenry.tokenization.numbers.number_pre_tokenizers import number_pre_tokenizer
from tokenry.tokenization.numbers.retokenize_numbers import retokenize_numbers

GPT35 = "gpt-3.5-turbo-0301, 1,300 problems, 8 shots"
NOT_IN_PAPER = "not in the paper"
MODES: tuple[GroupMode, ...] = ("l2r", "r2l", "single")
FORMATS = ("nosep", "comma_r2l")
# The first digit of the second token, where gpt-3.5's errors under mismatch are.
PLANTED_DIGIT = 4


@dataclass(frozen=True)
class Sizes:
    """What a scale runs."""

    setting: AdditionSetting = field(default_factory=AdditionSetting)
    model: str = "embedded"
    dtype: str | None = None
    signatures: tuple[Signature, ...] = ((1, 1, 1), (1, 1, 2), (2, 1, 2), (2, 2, 2), (4, 4, 4), (4, 4, 5))
    per_signature: int = 8
    shots: int = 4
    identities: int = 2000
    planted: int = 2000


SIZES: dict[Scale, Sizes] = {
    "laptop": Sizes(),
    "paper": Sizes(
        setting=AdditionSetting(steps=2150),
        model="meta-llama/Meta-Llama-3-8B-Instruct",
        dtype="bfloat16",
        signatures=SIGNATURES,
        per_signature=100,
        shots=8,
    ),
}


@dataclass(frozen=True)
class Measured:
    """Everything that was measured.

    Attributes:
        identities: of random numbers, whether commas from the right give the groups of a tokenizer that groups from the right, and
            whether no commas do.
        planted: patterns of answers with a wrong digit at one place.
        random: patterns of answers with a wrong digit anywhere.
        runs: the small decoders, by how their numbers are cut.
        frozen: the answers of the frozen model, by format.
        regrouping: what regrouping the frozen model's tokenizer would do.
    """

    identities: Mapping[str, Bool[np.ndarray, "numbers"]]
    planted: Sequence[ErrorPattern]
    random: Sequence[ErrorPattern]
    runs: Mapping[str, AdditionRun]
    frozen: Mapping[str, Sequence[AdditionAnswer]]
    regrouping: str


@dataclass(frozen=True)
class _NumberTokensRecipe:
    slug: str = "number-tokens"
    title: str = "Tokenization counts: the impact of tokenization on arithmetic in frontier LLMs"

    @quiet_libraries()
    def run(self, scale: Scale, output: Path, progress: Progress) -> Reproduction:
        """Run the four experiments and judge each claim."""
        started = time.perf_counter()
        sizes = SIZES[scale]
        measured = measure(sizes, progress)
        return Reproduction(
            slug=self.slug,
            claims=judge(measured),
            settings={
                "scale": scale,
                "model": EMBEDDED_TITLE if sizes.model == "embedded" else sizes.model,
                "sizes": asdict(sizes),
                "regrouping the frozen model's tokenizer": measured.regrouping,
                "decoders": {
                    mode: {
                        "accuracy": accuracy_table(run.answers, ("length",)),
                        "read in the other way": accuracy_table(run.regrouped, ("length",)),
                        "last_loss": float(np.mean(run.losses[-20:])),
                        "patterns": [asdict(each) for each in _patterns(run.answers, mode)],
                    }
                    for mode, run in measured.runs.items()
                },
                "frozen": {
                    name: accuracy_table(answers, ("signature",)) for name, answers in measured.frozen.items()
                },
            },
            seconds=time.perf_counter() - started,
            plots=(_plot(measured, output),),
        )


def measure(sizes: Sizes, progress: Progress) -> Measured:
    """Run everything."""
    progress("identities and planted errors", 0.0)
    first, second = sample_addition((7, 7, 8), sizes.planted).T
    runs: dict[str, AdditionRun] = {}
    for number, mode in enumerate(MODES):
        begin = 0.02 + 0.24 * number

        def told(what: str, share: float, begin: float = begin) -> None:
            progress(what, begin + 0.24 * share)

        other: Mapping[str, GroupMode] = {"l2r": "r2l", "r2l": "l2r"}
        runs[mode] = learn_addition(mode, sizes.setting, 0, other.get(mode), told)
    frozen, regrouping = _frozen(sizes, lambda what, share: progress(what, 0.74 + 0.26 * share))
    return Measured(
        identities=regrouping_identities(sizes.identities),
        planted=error_patterns(first, second, plant(first, second, PLANTED_DIGIT), "l2r", separated=False),
        random=error_patterns(first, second, plant(first, second, None), "l2r", separated=False),
        runs=runs,
        frozen=frozen,
        regrouping=regrouping,
    )


def regrouping_identities(number: int, seed: int = 0) -> dict[str, Bool[np.ndarray, "numbers"]]:
    """Cut random numbers of 1 to 30 digits with and without commas; tell where they come out as from the right."""
    rng = np.random.default_rng(seed)
    from_left, from_right = number_pre_tokenizer("l2r"), number_pre_tokenizer("r2l")
    found: dict[str, list[bool]] = {"commas": [], "plain": []}
    for _ in range(number):
        digits = "".join(map(str, rng.integers(0, 10, rng.integers(1, 31))))
        right = [piece for piece, _ in from_right.pre_tokenize_str(digits)]
        commas = [
            piece
            for piece, _ in from_left.pre_tokenize_str(format_number(digits, "comma_r2l"))
            if piece != ","
        ]
        found["commas"].append(commas == right == cut(digits))
        found["plain"].append([piece for piece, _ in from_left.pre_tokenize_str(digits)] == right)
    return {name: np.array(flags) for name, flags in found.items()}


def plant(first: np.ndarray, second: np.ndarray, digit: int | None, seed: int = 0) -> list[int]:
    """Sums with another digit at one place from the left, or at any place."""
    rng = np.random.default_rng(seed)
    answers = []
    for total in (first + second).tolist():
        digits = [*str(total)]
        place = int(rng.integers(len(digits))) if digit is None else digit - 1
        others = [each for each in "0123456789"[place == 0 :] if each != digits[place]]
        digits[place] = others[rng.integers(len(others))]
        answers.append(int("".join(digits)))
    return answers


def _frozen(sizes: Sizes, progress: Progress) -> tuple[dict[str, list[AdditionAnswer]], str]:
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


# --- verdicts ------------------------------------------------------------------------------------------------------------------------


def judge(measured: Measured) -> tuple[Claim, ...]:
    """Put each claim beside its measurement; a difference counts from two standard errors on."""
    return (
        *_exact_claims(measured),
        *_training_claims(measured.runs),
        _frozen_claim(measured.frozen),
    )


def _exact_claims(measured: Measured) -> tuple[Claim, ...]:
    commas, plain = measured.identities["commas"], measured.identities["plain"]
    name = f"only digit {PLANTED_DIGIT} wrong"
    (planted,) = (each for each in measured.planted if each.pattern == name)
    (control,) = (each for each in measured.random if each.pattern == name)
    chance = control.chance or 0.0
    return (
        Claim(
            claim="commas from the right give a tokenizer that groups from the left the groups of one that groups from the right",
            paper="by construction",
            measured=f"{commas.sum():,} of {len(commas):,} random numbers",
            control=f"{plain.sum():,} of {len(plain):,} without commas",
            verdict=verdict(bool(commas.all() and plain.mean() < 0.5)),
        ),
        Claim(
            claim="the analysis finds errors planted at digit 4, and random ones at chance (answers with only digit 4 wrong)",
            paper="98.9 % of 365 errors of gpt-3.5 under length mismatch",
            measured=f"{planted.share:.1%} ({planted.low:.1%} to {planted.high:.1%})",
            control=f"{control.share:.1%} ({control.low:.1%} to {control.high:.1%}) at random digits; chance {chance:.1%}",
            verdict=verdict(planted.share == 1.0 and control.low - 0.01 <= chance <= control.high + 0.01),
        ),
    )


def _training_claims(runs: Mapping[str, AdditionRun]) -> tuple[Claim, ...]:
    right = {mode: _right(run.answers) for mode, run in runs.items()}
    mismatch = np.array([answer.length == "mismatch" for answer in runs["l2r"].answers])
    gaps = right["r2l"] - right["l2r"]
    gap = {name: _estimate(gaps[chosen]) for name, chosen in (("mismatch", mismatch), ("match", ~mismatch))}
    apart = (
        gap["mismatch"][0] - gap["match"][0],
        float(np.hypot(gap["mismatch"][1], gap["match"][1])),
    )
    own = {
        mode: (
            float(values[~mismatch].mean() - values[mismatch].mean()),
            float(np.hypot(_estimate(values[~mismatch])[1], _estimate(values[mismatch])[1])),
        )
        for mode, values in right.items()
    }

    def percent(mode: str, chosen: Bool[np.ndarray, "problems"] | slice = slice(None)) -> str:
        return f"{right[mode][chosen].mean():.1%} ({mode})"

    return (
        _better(
            "trained alike, groups from the right add better than groups from the left (exact match)",
            right["r2l"],
            right["l2r"],
            f"98.1 % against 67.5 % ({GPT35}, commas from the right against none)",
            "l2r",
        ),
        Claim(
            claim="under length mismatch, groups from the left are near 0 (below 10 %), groups from the right are not",
            paper=f"8.25 % against 98.5 % ({GPT35})",
            measured=percent("l2r", mismatch),
            control=percent("r2l", mismatch),
            verdict=verdict(
                bool(right["l2r"][mismatch].mean() < 0.1 and gap["mismatch"][0] > 2 * gap["mismatch"][1])
            ),
        ),
        Claim(
            claim="the gap between the two is wider under length mismatch than under match (points)",
            paper=f"90.3 against 4.1 ({GPT35})",
            measured=f"{100 * gap['mismatch'][0]:.1f} (difference {_points(apart)})",
            control=f"{100 * gap['match'][0]:.1f} under match",
            verdict=verdict(apart[0] > 2 * apart[1]),
        ),
        Claim(
            claim="groups from the left do worse under mismatch than under match (points lost)",
            paper=f"85.6 ({GPT35}); -0.6 with commas from the right",
            measured=_points(own["l2r"]),
            control=f"{_points(own['r2l'])} from the right",
            verdict=verdict(own["l2r"][0] > 2 * own["l2r"][1]),
        ),
        _better(
            "after the same steps, groups from the right add better than single digits (exact match)",
            right["r2l"],
            right["single"],
            NOT_IN_PAPER,
            "single",
        ),
        _better(
            "once trained on groups from the left, a model adds better when its numbers are regrouped from the right, without training",
            _right(runs["l2r"].regrouped),
            right["l2r"],
            NOT_IN_PAPER,
            "as trained",
        ),
    )


def _frozen_claim(frozen: Mapping[str, Sequence[AdditionAnswer]]) -> Claim:
    return _better(
        "frozen model: commas from the right add better than none",
        _right(frozen["comma_r2l"]),
        _right(frozen["nosep"]),
        "97.8 % against 73.3 % (gpt-3.5-turbo-0301, 8 shots, 90 problems)",
        "nosep",
    )


def _better(
    claim: str, ours: Float[np.ndarray, "n"], theirs: Float[np.ndarray, "n"], paper: str, control: str
) -> Claim:
    """Judge by the paired differences: higher by two standard errors."""
    difference = _estimate(ours - theirs)
    return Claim(
        claim=claim,
        paper=paper,
        measured=f"{ours.mean():.1%} (difference {_points(difference)} points, {len(ours):,} problems)",
        control=f"{theirs.mean():.1%} ({control})",
        verdict=verdict(difference[0] > 2 * difference[1]),
    )


def _right(answers: Sequence[AdditionAnswer]) -> Float[np.ndarray, "problems"]:
    return np.array([float(answer.answer_match) for answer in answers])


def _estimate(values: Float[np.ndarray, "n"]) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def _points(estimate: tuple[float, float]) -> str:
    return f"{100 * estimate[0]:+.1f} ± {100 * estimate[1]:.1f}"


def _patterns(answers: Sequence[AdditionAnswer], mode: str) -> list[ErrorPattern]:
    valid = [answer for answer in answers if answer.valid]
    columns = ([getattr(answer, name) for answer in valid] for name in ("num1", "num2", "answer"))
    first, second, said = columns
    return error_patterns(first, second, said, mode, 2, separated=False)


# --- the picture ---------------------------------------------------------------------------------------------------------------------


def _plot(measured: Measured, output: Path) -> Path:
    """Draw accuracy by length, the losses, and which digits are wrong."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for place, (mode, run) in enumerate(measured.runs.items()):
        for shift, length, marker in ((-0.12, "match", "o"), (0.12, "mismatch", "s")):
            values = _right([answer for answer in run.answers if answer.length == length])
            mean, error = _estimate(values)
            left.errorbar(
                100 * mean, place + shift, xerr=200 * error, fmt=marker, color=f"C{place}", capsize=3
            )
        smooth = np.convolve(run.losses, np.ones(20) / 20, mode="valid")
        middle.plot(np.arange(len(smooth)) + 20, smooth, color=f"C{place}", label=mode)
        shares = wrong_digits(run.answers, max(len(str(answer.num1)) for answer in run.answers) + 1)
        right.plot(np.arange(1, len(shares) + 1), 100 * shares, "o-", color=f"C{place}", label=mode)
    left.set_yticks(range(len(measured.runs)), list(measured.runs))
    left.invert_yaxis()
    left.set(
        xlim=(-3, 103), xlabel="right sums, % (○ length match, □ mismatch; ± 2 s.e.)", title="Trained alike"
    )
    middle.set(xlabel="step", ylabel="NLL of answer tokens, nats", yscale="log", title="Learning")
    right.set(
        ylim=(-3, 103), xlabel="digit from the left", ylabel="wrong, %", title="Longest sums, length mismatch"
    )
    right.xaxis.get_major_locator().set_params(integer=True)
    middle.legend(frameon=False)
    path = output / "number_tokens.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return Path(path.name)


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


RECIPE = _NumberTokensRecipe()
