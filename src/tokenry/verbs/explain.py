"""Which tokens of a text made the model's answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option, plan_settings
from tokenry.core.stats import estimate_of_mean
from tokenry.report.blocks import Block, Column, Heatmap, Section, Table, Text, Token, Value
from tokenry.report.result import Result
from tokenry.verbs._environment import environment
from tokenry.verbs._estimates import estimate_row, stored_estimate
from tokenry.verbs._hardware import AS_STORED, StoredHardware
from tokenry.verbs._models import model_title

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

METHODS = ("reagent:stop=ranking,max_steps=32", "input-x-gradient", "attention-last")
_RANDOM_DRAWS, _SHOWN = 16, 5
_METRICS = {
    "soft_ns": "Soft-NS",
    "soft_nc": "Soft-NC",
    "sufficiency": "sufficiency",
    "comprehensiveness": "comprehensiveness",
    "aopc": "AOPC",
}


@dataclass(frozen=True)
class Plan:
    """Show which tokens of a text made the model's next tokens, by several attribution methods, and how faithful each is beside random scores.

    Attributes:
        text: the text, or a text file.
        answer: the continuation that is explained, such as " Oslo"; by default the model's own next token.
        model: `embedded`, a folder, or a hub name.
        methods: attribution method; repeat for several. Options follow the name, as in reagent:probes=64.
        per: whether tokens are scored one by one, or the words of the text as a whole (by reagent and leave-one-out).
        output: folder for result.json and report.html, or a .json file; nothing is written without it.
    """

    text: str = argument()
    answer: str | None = None
    model: str = option("embedded", metavar="NAME")
    methods: tuple[str, ...] = option(METHODS, flag="--method", metavar="NAME[:OPTION=VALUE,...]")
    per: Literal["token", "word"] = "token"
    hardware: StoredHardware = AS_STORED
    output: Path | None = None

    def __post_init__(self) -> None:
        if not self.methods:
            raise UserError("give at least one attribution method with --method.")


def run(plan: Plan, progress: Progress) -> Result:
    """Attribute the answer by every method, and measure the faithfulness of each."""
    from tokenry.attribution import ATTRIBUTIONS, TargetProbability, attribute
    from tokenry.core.text.words import words_of
    from tokenry.models import load_tokenizer
    from tokenry.models.quiet import quiet_libraries
    from tokenry.verbs._tokens import token_texts
    from tokenry.verbs.score import source_text

    methods = {name: ATTRIBUTIONS.make(name) for name in plan.methods}
    text = source_text(plan.text)
    if not (text or "").strip():
        raise UserError("the text is empty, or data and not a text: give the text itself, or a text file.")
    with quiet_libraries():
        progress("loading the model", 0.0)
        tokenizer, model = load_tokenizer(plan.model), plan.hardware.load(plan.model)
        words = words_of(tokenizer, text or "")
        ids, vocabulary = words.input_ids, _ordinary_tokens(tokenizer, model)
        answer = None if plan.answer is None else [_answer_ids(plan.answer, tokenizer)]
        groups = words.of_token[None] if plan.per == "word" else None
        rows = []
        for number, (name, method) in enumerate(methods.items()):
            progress(name, (number + 0.5) / (len(methods) + 1))
            found = attribute(model, ids[None], answer, method, groups=groups, vocabulary=vocabulary)
            rows.append(
                {
                    "method": name,
                    "scores": found.scores[0].tolist(),
                    "standard_error": None if found.standard_error is None else found.standard_error[0].tolist(),
                    "converged": bool(found.converged[0]),
                    "forwards": found.forwards,
                    "notes": list(found.notes),
                    "faithfulness": _faithfulness(model, ids, found.scores[0], found.targets[0][0]),
                }
            )  # fmt: skip
        progress("random scores", len(methods) / (len(methods) + 1))
        target = found.targets[0]
        random = [
            _faithfulness(
                model, ids, attribute(model, ids[None], [target], f"random:seed={seed}").scores[0], target[0]
            )
            for seed in range(_RANDOM_DRAWS)
        ]
        probability = float(TargetProbability(model, target)(ids[None])[0])
    data = {
        "kind": "explain",
        "model": plan.model,
        "answer": {
            "tokens": list(target),
            "text": tokenizer.decode(list(target)),
            "probability": probability,
        },
        "tokens": token_texts(ids.tolist(), tokenizer),
        "methods": rows,
        "random": {
            name: estimate_row(estimate_of_mean([draw[name] for draw in random])) for name in _METRICS
        },
        "settings": plan_settings(plan),
        "environment": environment(model.device),
    }
    return Result(f"What made {model_title(plan.model)} say so", data, lay_out(data))


def _faithfulness(model: "PreTrainedModel", ids: "Tensor", scores: "Tensor", target: int) -> dict[str, float]:
    from tokenry.attribution import faithfulness

    return faithfulness(model, ids, scores, target)._asdict()


def _answer_ids(answer: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    ids: list[int] = tokenizer(answer, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UserError("the answer has no tokens: leave --answer out to explain the model's next token.")
    return ids


def _ordinary_tokens(tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel") -> "Tensor":
    """The tokens of text, from which replacements are drawn: none that is special or that was added."""
    import torch

    from tokenry.core.tensors.gate import embedding_rows

    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    number = min(len(tokenizer), embedding_rows(model))
    return torch.tensor([token for token in range(number) if token not in special])


# --- layout --------------------------------------------------------------------------------------------------------------------------

_ABOUT = (
    "The text is perturbed where the scores say it matters. Soft-NS and sufficiency: does the prediction survive if the most important "
    "tokens are kept? Soft-NC, comprehensiveness and AOPC: does it change if they are removed? Higher is more faithful. Random scores are "
    f"the mean of {_RANDOM_DRAWS} draws; a method that is not above them says nothing about this answer."
)


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """The text coloured by every method, the faithfulness of each beside random scores, and its most important tokens."""
    answer, methods = data["answer"], data["methods"]
    maps = [(row["method"], _coloured(data["tokens"], row)) for row in methods]
    notes = [Text(f"{row['method']}: {note}", "warning") for row in methods for note in row["notes"]]
    rows: list[tuple[Value, ...]] = [
        (row["method"], *(row["faithfulness"][name] for name in _METRICS), row["forwards"]) for row in methods
    ]
    rows.append(("random", *(stored_estimate(data["random"][name]) for name in _METRICS), 0))
    columns: tuple[Column | str, ...] = (
        "method",
        *(Column(title, format=".3f") for title in _METRICS.values()),
        "sequences read",
    )
    return [
        Text(f"Explained: {answer['text']!r}, of probability {answer['probability']:.3f}.", "lead"),
        *notes,
        Section("Importance", [Heatmap("Share of the largest score", maps), *map(_top, methods, [data["tokens"]] * len(methods))]),
        Section("Faithfulness", [Text(_ABOUT), Table("", columns, rows)]),
    ]  # fmt: skip


def _coloured(texts: list[str], row: Mapping[str, Any]) -> list[Token]:
    """Shares of the largest score; where scores are sums of random trials, only their differences count, and the least is 0."""
    scores = row["scores"]
    if row["standard_error"] is not None:
        scores = [score - min(scores) for score in scores]
    largest = max(map(abs, scores)) or 1.0
    return [
        Token(text, signals={"importance": score / largest})
        for text, score in zip(texts, scores, strict=True)
    ]


def _top(row: Mapping[str, Any], texts: list[str]) -> Table:
    scores, errors = row["scores"], row["standard_error"]
    best = sorted(range(len(scores)), key=lambda place: -scores[place])[:_SHOWN]
    headings: tuple[Column | str, ...] = ("place", "token", Column("score", format=".3g"))
    if errors is None:
        return Table(row["method"], headings, [(place, repr(texts[place]), scores[place]) for place in best])
    return Table(
        row["method"],
        (*headings, Column("standard error", format=".2g")),
        [(place, repr(texts[place]), scores[place], errors[place]) for place in best],
    )
