"""Answers from stickers: what a question states and asks is written down first, and an answer is accepted where it does not depend on that."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress, part
from tokenry.core.plans import argument, option, plan_settings
from tokenry.core.stats import Estimate, paired_difference, shown
from tokenry.report.blocks import Block, Column, Section, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._chats import lines_or_rows
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._models import model_title, text_model
from tokenry.verbs._output import OptionalOutput

if TYPE_CHECKING:
    from tokenry.decoding import SIFTResult

Verifier = Mapping[str, Any]

_SHOWN = 20
_ACCEPTED = {
    0: "plain answer",
    1: "stage 1",
    2: "stage 2, sticker corrected",
    3: "stage 3, sticker from the reasoning",
}


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Answer questions from stickers: a model notes conditions and question, answers from the note alone and from both, and corrects
    the note while the answers differ (SIFT).

    Attributes:
        questions: text file with one question per line, or rows (JSONL, JSON, CSV, Parquet) with `question`, `prompt` or `messages`; where
            they have an `answer` or a `verifier`, answers are marked.
        model: `embedded`, a folder, or a hub name; `embedded` if no endpoint is given.
        endpoint: OpenAI-compatible server instead, as URL#MODEL.
        max_stage: last stage before the plain answer: 1, 2 or 3.
        repeats: attempts at stage 2 and at stage 3.
        typed: correct a sticker at once that lacks a number of its question.
        consistency: what is sampled several times and voted on.
        samples: number of samples that are voted on.
        equality: compare answers as numbers, or by notation as in the published figures.
        control: also let plain answers vote, with as many calls as SIFT made, spread evenly over the questions.
        max_new_tokens: maximum number of tokens of a text.
        temperature: sampling temperature; 0 takes the most probable token.
        top_p: share of the probability to sample from, in (0, 1].
        max_calls: number of texts after which nothing more is asked; what is finished is kept.
        max_tokens: number of tokens, prompts included, that is not passed.
        batch_size: number of texts that a local model writes at once.
        seed: random seed of samples.
    """

    questions: Path = argument()
    model: str | None = option(None, metavar="NAME")
    endpoint: str | None = option(None, metavar="URL#MODEL")
    max_stage: int = 3
    repeats: tuple[int, ...] = option((1, 1), commas=True)
    typed: bool = False
    consistency: Literal["none", "sticker", "prediction", "sift"] = "none"
    samples: int = 10
    equality: Literal["numeric", "math_v2"] = "numeric"
    control: bool = False
    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    max_calls: int | None = None
    max_tokens: int | None = None
    batch_size: int = 8
    seed: int = 0
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        require_at_least(1, max_new_tokens=self.max_new_tokens, batch_size=self.batch_size)
        require_at_least(0, seed=self.seed)
        if self.model is not None and self.endpoint is not None:
            raise UserError("--model names a local model and --endpoint a server: give one of them.")


def run(plan: Plan, progress: Progress) -> Result:
    """Read the questions, answer them, and mark the answers where it can be done."""
    from tokenry.core.text.answers import equal_answers, final_answer
    from tokenry.core.text.math_v2 import math_v2_answer, math_v2_equal
    from tokenry.decoding.sift.config import SIFTConfig
    from tokenry.decoding.sift.pipeline import SIFT, self_consistency
    from tokenry.models.text_model import Sampling

    queries, verifiers = read_questions(plan.questions)
    if plan.control and None in verifiers:
        raise UserError(
            f"--control compares how often answers are right, and {plan.questions} does not say it: give rows with an answer or a verifier."
        )
    names = ("max_stage", "repeats", "typed", "consistency", "samples", "max_calls", "max_tokens")
    config = SIFTConfig(**{name: getattr(plan, name) for name in names})
    sampling = Sampling(plan.max_new_tokens, plan.temperature, plan.top_p, seed=plan.seed, log_probs=False)
    reading: dict[str, Any] = {"extract": final_answer, "equivalent": equal_answers}
    if plan.equality == "math_v2":
        reading = {"extract": math_v2_answer, "equivalent": math_v2_equal}
    name = plan.endpoint or plan.model or "embedded"
    progress("loading the model", 0.0)
    model = text_model(name, plan.hardware, batch_size=plan.batch_size, share_prefix=True)
    sift = SIFT(model, config, sampling=sampling, **reading)
    results = sift.run(queries, part(progress, 0.1, 0.6 if plan.control else 0.95))
    control = None
    if plan.control:
        progress("plain answers", 0.6)
        voted = Sampling(plan.max_new_tokens, 0.6, 0.9, seed=plan.seed, log_probs=False)
        count = math.ceil(sum(len(result.calls) for result in results) / len(results))
        plain = self_consistency(model, queries, max(1, count), sampling=voted, **reading)
        control = marked(queries, plain, verifiers)
    data = {
        "kind": "sift",
        "model": name,
        "answers": marked(queries, results, verifiers),
        "roles": roles(results),
        "control": control,
        "settings": plan_settings(plan),
    }
    return Result(f"Answers from stickers by {model_title(name)}", data, lay_out(data))


def marked(
    queries: Sequence[str], results: "Sequence[SIFTResult]", verifiers: Sequence[Verifier | None]
) -> list[dict[str, Any]]:
    """Each answer with its stickers and predictions, what it took, and whether it is right; None where nothing says so."""
    from tokenry.decoding.sift.typed_stickers import missing_numbers
    from tokenry.evaluation.verifiers import is_right

    return [
        {
            "question": query,
            "answer": result.answer,
            "text": result.text,
            "stage": result.stage,
            "right": None if verifier is None else is_right(result.text, verifier),
            "stickers": [
                {"text": sticker.text, "complete": sticker.is_complete, "missing_numbers": list(missing_numbers(query, sticker.text))}
                for sticker in result.stickers
            ],
            "predictions": [
                {"stage": prediction.stage, "alone": prediction.alone.answer, "beside": prediction.beside.answer, "equal": prediction.equal}
                for prediction in result.predictions
            ],
            "calls": [call.name for call in result.calls],
            "tokens_read": sum(call.prompt_tokens for call in result.calls),
            "tokens_written": sum(call.completion_tokens for call in result.calls),
            "failure": result.failure,
        }
        for query, result, verifier in zip(queries, results, verifiers, strict=True)
    ]  # fmt: skip


def roles(results: "Sequence[SIFTResult]") -> list[dict[str, Any]]:
    """Calls and tokens of each role, over all questions."""
    from tokenry.decoding.sift.prompts import ROLES

    calls = [call for result in results for call in result.calls]
    return [
        {
            "role": role,
            "name": name,
            "calls": len(own),
            "tokens_read": sum(call.prompt_tokens for call in own),
            "tokens_written": sum(call.completion_tokens for call in own),
        }
        for role, name in ROLES.items()
        if (own := [call for call in calls if call.role == role])
    ]


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the answers, where they were accepted, what they cost, and how they came about."""
    answers = data["answers"]
    notes = [f"The first {_SHOWN} of {len(answers):,}; the JSON has all."] if len(answers) > _SHOWN else []
    return [
        *(Text(warning, "warning") for warning in warnings(answers)),
        Table(
            "Answers",
            ("question", "answer", "accepted", Column("calls"), "right"),
            [
                (answer["question"], answer["answer"], _ACCEPTED[answer["stage"]], len(answer["calls"]), _yes(answer["right"]))
                for answer in answers[:_SHOWN]
            ],
            notes,
        ),
        stages(answers),
        cost(data),
        *([] if data["control"] is None else [beside_voting(data)]),
        Section("Stickers and predictions", [_course(answer) for answer in answers[:_SHOWN]], folded=True),
    ]  # fmt: skip


def warnings(answers: Sequence[Mapping[str, Any]]) -> list[str]:
    """What must not be missed of the answers."""
    found = []
    if failures := [answer["failure"] for answer in answers if answer["failure"]]:
        found.append(
            f"A text is missing for {len(failures)} of {len(answers)} questions; the first: {failures[0]}"
        )
    stickers = [sticker for answer in answers for sticker in answer["stickers"]]
    if loose := sum(not sticker["complete"] for sticker in stickers):
        found.append(
            f"{loose} of {len(stickers)} stickers have no headings, so their raw text was used: the model hardly follows the form."
        )
    return found


def stages(answers: Sequence[Mapping[str, Any]]) -> Table:
    """How many questions were settled at each stage, and how many of them rightly."""
    counts = Counter(answer["stage"] for answer in answers)
    rows = []
    for stage in (1, 2, 3, 0):
        right = [
            answer["right"] for answer in answers if answer["stage"] == stage and answer["right"] is not None
        ]
        share = sum(right) / len(right) if right else None
        rows.append((_ACCEPTED[stage], counts[stage], counts[stage] / len(answers), share))
    return Table(
        "Where answers were accepted",
        ("accepted", Column("questions"), Column("share", "%", ".0f"), Column("of these right", "%", ".0f")),
        rows,
    )


def cost(data: Mapping[str, Any]) -> Table:
    """Calls and tokens by role."""
    names = ("calls", "tokens_read", "tokens_written")
    rows = [(role["name"], *(role[name] for name in names)) for role in data["roles"]]
    rows.append(("all", *(sum(role[name] for role in data["roles"]) for name in names)))
    calls = rows[-1][1] / len(data["answers"])
    heads = ("role", Column("calls"), Column("tokens read"), Column("tokens written"))
    return Table("Cost", heads, rows, (f"{calls:.1f} calls per question.",))


def beside_voting(data: Mapping[str, Any]) -> Table:
    """How often SIFT is right, and plain answers that vote, with as many calls for each question."""
    both = [[float(answer["right"]) for answer in data[name]] for name in ("answers", "control")]
    written = [sum(answer["tokens_written"] for answer in data[name]) for name in ("answers", "control")]
    difference = (
        paired_difference(*both) if len(both[0]) > 1 else Estimate(both[0][0] - both[1][0], float("nan"), 1)
    )
    return Table(
        "beside voting",
        ("", Column("right", "%", ".1f"), Column("tokens written")),
        [
            ("SIFT", sum(both[0]) / len(both[0]), written[0]),
            ("plain answers that vote", sum(both[1]) / len(both[1]), written[1]),
        ],
        (
            f"Difference {difference.scaled(100).with_interval('+.1f')} points; that SIFT is right more often: {shown(difference)}.",
            "As many calls as SIFT made, spread evenly over the questions and rounded up (temperature 0.6, top-p 0.9).",
        ),
    )


def _course(answer: Mapping[str, Any]) -> Table:
    """The stickers of a question with what was predicted from them; one that was not fit for it has no predictions."""
    predictions = iter(answer["predictions"])
    several = len(answer["stickers"]) != len(answer["predictions"])
    rows = []
    for sticker in answer["stickers"]:
        prediction = None if several else next(predictions)
        rows.append((
            sticker["text"],
            ", ".join(sticker["missing_numbers"]),
            prediction and prediction["alone"],
            prediction and prediction["beside"],
        ))  # fmt: skip
    if several:
        rows += [("", "", prediction["alone"], prediction["beside"]) for prediction in predictions]
    return Table(
        answer["question"], ("sticker", "numbers it lacks", "from it alone", "with the question"), rows
    )


def _yes(right: bool | None) -> str | None:
    return None if right is None else "yes" if right else "no"


def read_questions(path: Path) -> tuple[list[str], list[Verifier | None]]:
    """Read questions, and what tells whether their answers are right."""
    rows = lines_or_rows(path, "question")
    if not rows:
        raise UserError(f"{path} holds no questions: give one per line.")
    return [_query(row, where) for where, row in rows], [_verifier(row) for _, row in rows]


def _query(row: Mapping[str, Any], where: str) -> str:
    messages = row.get("messages") or ()
    asked = [message.get("content") for message in messages if message.get("role") == "user"]
    query = next((text for text in (row.get("question"), row.get("prompt"), *asked[-1:]) if text), None)
    if not isinstance(query, str) or not query.strip():
        raise UserError(
            f"{where} has no question: give a text under question or prompt, or messages with a user's turn."
        )
    return query


def _verifier(row: Mapping[str, Any]) -> Verifier | None:
    answer = row.get("answer")
    return row.get("verifier") or (None if answer is None else {"kind": "math", "answer": str(answer)})
