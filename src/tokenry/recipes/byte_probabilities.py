"""Exact byte probabilities (arXiv 2410.09303): where a prompt stops inside a word, who still knows the next byte?

Random cuts inside words of an English story, about 50 bytes of it before each cut, the embedded model:

    next byte    surprisal of the true next byte, and whether it is the most probable, under
                 naive (the tokens of the prompt as they are), token healing (one token taken back), exact (all covers)
    middle       greedy, the rest of the word from the cursor on, as in filling in the middle; right if it is the text's own

Compared cut by cut. Headline: filling in the middle, against token healing, as in the abstract. The paper's own figures are for code models of 7 billion parameters and for ensembles of several models; an ensemble
needs a second model, so it is measured at the paper's scale only.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from tokenry.core.io.progress import Progress, part
from tokenry.core.stats import estimate_of_mean, more_often, shown
from tokenry.decoding.byte_level.byte_baselines import healed_next_byte, naive_next_byte
from tokenry.decoding.byte_level.byte_ensemble import ByteEnsemble
from tokenry.decoding.byte_level.byte_lm import ByteLM
from tokenry.models import EMBEDDED_TITLE, load_model, load_tokenizer, preferred_device
from tokenry.recipes.kit import Claim, RecipeRun, recipe
from tokenry.recipes.testbeds.prose import read_story

NAIVE, HEALED, EXACT, ENSEMBLE = "naive", "token healing", "exact", "exact, ensemble"
ABSTRACT = "18 % better on fill-in-the-middle code benchmarks, and above token healing (abstract)"
ABSTRACT_ENSEMBLE = "up to 3.7 % better than the single models (abstract)"

MARK = 0.5
_CONTEXT = 50
_LONGEST_REST = 16
# Texts that take their bytes together attend past each other: more at once cost more for each.
_TOGETHER = 8


@dataclass(frozen=True)
class Cut:
    """A place inside a word.

    Attributes:
        prompt: the text before it.
        rest: the rest of the word, with the character after it.
    """

    prompt: str
    rest: str


@dataclass(frozen=True)
class WordAnswer:
    """What one method says about one cut.

    Attributes:
        bits: surprisal of the true next byte.
        first: whether that is the most probable byte.
        completed: whether the greedy continuation is the rest of the word.
    """

    bits: float
    first: bool
    completed: bool


Answers = Mapping[str, Sequence[WordAnswer]]
"""Of each method one answer per cut."""


@dataclass(frozen=True)
class ByteSizes:
    """What a scale runs."""

    models: tuple[str, ...]
    cuts: int
    dtype: str | None = None


@recipe(
    "byte-probabilities",
    laptop=ByteSizes(("embedded",), 100),
    paper=ByteSizes(
        ("meta-llama/Llama-2-7b-hf", "mistralai/Mistral-7B-v0.1", "01-ai/Yi-1.5-6B"), 500, "bfloat16"
    ),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Ask every method about every cut, and judge each claim."""
    sizes: ByteSizes = run.sizes
    run.progress("loading", 0.0)
    lms = [
        ByteLM(load_model(name, sizes.dtype).to(preferred_device()), load_tokenizer(name))
        for name in sizes.models
    ]
    cuts = cuts_inside_words(read_story(), sizes.cuts)
    answers = measure(lms, cuts, part(run.progress, 0.1, 0.95))
    run.settings |= {
        "models": [EMBEDDED_TITLE if name == "embedded" else name for name in sizes.models],
        "text": "In the Year 2889",
        "cuts": [asdict(cut) for cut in cuts],
        "answers": {name: [asdict(answer) for answer in of_one] for name, of_one in answers.items()},
    }
    with run.figure(10, 3.2) as figure:
        draw(figure, answers)
    yield from judge(answers)


def cuts_inside_words(paragraphs: Sequence[str], number: int, seed: int = 0) -> list[Cut]:
    """Choose places between two letters of a word, each with about 50 bytes of its paragraph before it, from the beginning of a word."""
    places = [
        (text, match.start())
        for text in paragraphs
        for match in re.finditer(r"(?<=[^\W\d_])(?=[^\W\d_])", text)
        if _CONTEXT < match.start() < len(text) - _LONGEST_REST
    ]
    chosen = random.Random(seed).sample(places, number)
    return [_cut(text, place) for text, place in chosen]


def _cut(text: str, place: int) -> Cut:
    start = text.rindex(" ", 0, place - _CONTEXT) + 1 if " " in text[: place - _CONTEXT] else 0
    rest = re.match(r"\w*.?", text[place:])
    return Cut(text[start:place], rest.group() if rest else "")


def measure(lms: Sequence[ByteLM], cuts: Sequence[Cut], progress: Progress) -> Answers:
    """Ask every method about every cut; the first model alone, and all of them together where there are several."""
    answers: dict[str, list[WordAnswer]] = {}
    for start in range(0, len(cuts), _TOGETHER):
        progress(f"cut {start + 1} of {len(cuts)}", start / len(cuts))
        for name, some in _answers(lms, cuts[start : start + _TOGETHER]).items():
            answers.setdefault(name, []).extend(some)
    return answers


def _answers(lms: Sequence[ByteLM], cuts: Sequence[Cut]) -> Answers:
    lm = lms[0]
    prompts, lengths = [cut.prompt.encode() for cut in cuts], [len(cut.rest.encode()) for cut in cuts]
    given = list(zip(prompts, lengths, strict=True))
    logprobs = {
        EXACT: lm.next_byte_logprobs(prompts),
        HEALED: np.stack([healed_next_byte(lm, prompt) for prompt in prompts]),
        NAIVE: np.stack([naive_next_byte(lm, prompt) for prompt in prompts]),
    }
    rests = {
        EXACT: _greedy(lm, prompts, lengths),
        HEALED: [_by_tokens(lm, *cut, back=1) for cut in given],
        NAIVE: [_by_tokens(lm, *cut, back=0) for cut in given],
    }
    if len(lms) > 1:
        ensemble = ByteEnsemble(lms)
        logprobs[ENSEMBLE] = ensemble.next_byte_logprobs(prompts)
        rests[ENSEMBLE] = _greedy(ensemble, prompts, lengths)
    return {
        name: [_answer(*row) for row in zip(cuts, rows, rests[name], strict=True)]
        for name, rows in logprobs.items()
    }


def _greedy(model: ByteLM | ByteEnsemble, prompts: Sequence[bytes], lengths: Sequence[int]) -> list[bytes]:
    found = model.generate(prompts, max_bytes=max(lengths), temperature=0)
    texts = [sample.text for sample in found] if isinstance(found, list) else [found.text]
    return [text[:length] for text, length in zip(texts, lengths, strict=True)]


def _by_tokens(lm: ByteLM, prompt: bytes, length: int, back: int) -> bytes:
    """The most probable tokens after those of the prompt, or after all but the last, which the next one must then begin with."""
    ids = lm.encode(prompt)
    ids, given = ids[: len(ids) - back], lm.vocabulary.decode(ids[len(ids) - back :])
    written = b""
    while len(written) < len(given) + length:
        (row,) = lm.next_token_logprobs([ids])
        order = lm.vocabulary.with_prefix(given) if not written else lm.vocabulary.order
        best = int(order[row[order].argmax()])
        ids, written = [*ids, best], written + (lm.vocabulary.token_bytes[best] or b"")
    return written[len(given) :][:length]


def _answer(cut: Cut, logprobs: np.ndarray, rest: bytes) -> WordAnswer:
    true = cut.rest.encode()
    return WordAnswer(
        bits=float(-logprobs[true[0]] / np.log(2)),
        first=int(logprobs.argmax()) == true[0],
        completed=rest == true,
    )


def judge(answers: Answers) -> Iterator[Claim]:
    """Put each claim beside its measurement, cut by cut."""
    yield _more(
        answers,
        "completed",
        "greedy from the cursor, the word is completed as in the text more often than with token healing",
        ABSTRACT,
    )
    yield _lower(answers, EXACT, HEALED, "consistently above token healing, no figure of this kind")
    yield _lower(answers, HEALED, NAIVE, None)
    yield _more(
        answers,
        "first",
        "the true next byte is the most probable one more often than with token healing",
        None,
    )
    bits = estimate_of_mean(_bits(answers[EXACT]))
    yield Claim(
        f"inside a word, exact probabilities know the next byte (mean surprisal below {MARK} bits)",
        "no such figure: the mark is ours, from a trial on another text",
        measured=f"{bits:.3f} bits",
        control=f"{_bits(answers[NAIVE]).mean():.3f} bits ({NAIVE})",
        verdict=shown(bits.scaled(-1), least=-MARK),
    )
    if ENSEMBLE in answers:
        yield _lower(answers, ENSEMBLE, EXACT, ABSTRACT_ENSEMBLE)


def _lower(answers: Answers, one: str, other: str, paper: str | None) -> Claim:
    return Claim.above(
        f"the true next byte is less surprising: {one} below {other} (mean bits)",
        _bits(answers[one]),
        _bits(answers[other]),
        other,
        lower=True,
        spec=".3f",
        paper=paper,
    )


def _more(answers: Answers, what: str, words: str, paper: str | None) -> Claim:
    """Judged by the cuts on which exact probabilities and token healing differ."""
    ours, theirs = (np.array([getattr(answer, what) for answer in answers[name]]) for name in (EXACT, HEALED))
    won, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    controls = ", ".join(f"{100 * _mean(answers[name], what):.0f} % ({name})" for name in (HEALED, NAIVE))
    return Claim(
        words,
        paper,
        measured=f"{100 * ours.mean():.0f} % ({won} of {len(ours)} cuts won, {lost} lost against {HEALED})",
        control=controls,
        verdict=more_often(won, lost, len(ours)),
    )


def _bits(answers: Sequence[WordAnswer]) -> Float[np.ndarray, "cuts"]:
    return np.array([answer.bits for answer in answers])


def _mean(answers: Sequence[WordAnswer], what: str) -> float:
    return float(np.mean([getattr(answer, what) for answer in answers]))


def draw(figure: Figure, answers: Answers) -> None:
    """The surprisal of every cut, and how often each method is right."""
    names = [name for name in (NAIVE, HEALED, EXACT, ENSEMBLE) if name in answers]
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    for place, name in enumerate(names):
        bits = _bits(answers[name])
        spread = np.linspace(-0.25, 0.25, len(bits))
        left.plot(np.maximum(bits, 1e-4), place + spread, "o", color="0.45", fillstyle="none", markersize=4)
        left.plot([bits.mean()] * 2, [place - 0.35, place + 0.35], color="C3", linewidth=2)
    for shift, what, label in (
        (-0.18, "first", "most probable byte is right"),
        (0.18, "completed", "word is completed"),
    ):
        shares = [100 * _mean(answers[name], what) for name in names]
        right.barh([place + shift for place in range(len(names))], shares, height=0.32, label=label)
    left.axvline(MARK, color="black", linewidth=0.8, linestyle=":")
    left.set(
        xscale="log",
        xlabel=f"surprisal of the true next byte, bits (red: mean; dotted: {MARK})",
        title="Prompts that stop inside a word",
    )
    right.set(xlim=(0, 100), xlabel="% of the prompts")
    right.legend(loc="upper right", fontsize=8)
    for axes in (left, right):
        axes.set_yticks(range(len(names)), names if axes is left else [])
        axes.invert_yaxis()
