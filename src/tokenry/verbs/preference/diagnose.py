"""Which way a preference loss would move each pair of a data set, and the tokens that entangle chosen and rejected response."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Cell, Column, Findings, Heatmap, Section, Table, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._environment import environment
from tokenry.verbs._estimates import finite_or_none
from tokenry.verbs._hardware import AS_STORED, StoredHardware
from tokenry.verbs._models import model_title
from tokenry.verbs._tokens import example_tokens, token_texts
from tokenry.verbs.preference._pairs import case_table, encoded, read_pairs

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from tokenry.alignment import PairGradients, PreferencePair
    from tokenry.alignment.preference_losses import PreferenceLoss

_SHOWN = 10


@dataclass(frozen=True)
class Plan:
    """Predict which way a preference loss moves chosen and rejected responses, and name the tokens that move both together.

    Attributes:
        model: `embedded`, a folder, or a hub name.
        data: pairs with `chosen`, `rejected` and perhaps `prompt`: a file (JSONL, JSON, CSV, Parquet), a folder, or a hub name.
        loss: the loss whose step is predicted; as of `preference explain`.
        reference: the reference model; by default the model itself, as before training.
        scope: gradients of the output head in closed form (head), or of all trainable weights (full), with two backward passes per pair.
        pairs: maximum number of pairs.
        max_length: maximum tokens of prompt and response; longer pairs are left out.
        output: folder for result.json and report.html, or a .json or .html file.
    """

    model: str = argument()
    data: str = argument()
    loss: str = "dpo"
    reference: str | None = option(None, metavar="MODEL")
    scope: Literal["head", "full"] = "full"
    pairs: int = 32
    max_length: int = 1024
    hardware: StoredHardware = AS_STORED
    output: Path | None = Path("runs/preference-diagnose")

    def __post_init__(self) -> None:
        require_at_least(1, pairs=self.pairs)
        require_at_least(2, max_length=self.max_length)


def run(plan: Plan, progress: Progress) -> Result:
    """Measure the gradients of each pair, and predict a step of the loss on it alone."""
    from tokenry.alignment import preference_loss
    from tokenry.models import load_tokenizer

    loss = preference_loss(plan.loss)
    rows = read_pairs(plan.data)
    device = plan.hardware.place()
    progress("reading the model", 0.0)
    tokenizer = load_tokenizer(plan.model)
    pairs = encoded(rows[: plan.pairs], tokenizer, plan.max_length)
    left_out = len(rows[: plan.pairs]) - len(pairs)
    model = plan.hardware.load(plan.model)
    gradients, products = _measured(plan, model, pairs, progress)
    references = None
    if plan.reference is not None and loss.uses_reference:
        progress("the reference", 0.9)
        references = _references(plan, pairs)
    found = _predicted(loss, gradients, pairs, references)
    examples = [
        _example(number, pair, of_pair, one, tokenizer)
        for number, (pair, of_pair, one) in enumerate(zip(pairs, products, found, strict=True), start=1)
    ]
    data = {
        "kind": "preference diagnose",
        "model": plan.model,
        "loss": plan.loss,
        "notes": [f"{plural(left_out, 'pair')} longer than {plan.max_length} tokens left out"]
        if left_out
        else [],
        "cases": _cases(found),
        "pairs": found,
        "examples": examples,
        "settings": plan_settings(plan),
        "environment": environment(device),
    }
    title = f"{plan.loss} on pairs of {Path(plan.data).name}, {model_title(plan.model)}"
    return Result(title, data, lay_out(data), only_saved=("examples",))


def _measured(
    plan: Plan, model: "nn.Module", pairs: "Sequence[PreferencePair]", progress: Progress
) -> "tuple[list[PairGradients], list[Tensor]]":
    """Gradients of every pair in the plan's scope, and the products of their tokens by the output head."""
    from tokenry.alignment import pair_gradients
    from tokenry.alignment.token_gradients import read_head

    gradients, products = [], []
    for number, pair in enumerate(pairs):
        progress(f"pair {number + 1} of {len(pairs)}", 0.9 * number / len(pairs))
        reading = read_head(model, pair)
        products.append(reading.products)
        gradients.append(reading.gradients if plan.scope == "head" else pair_gradients(model, [pair]))
    return gradients, products


def _references(plan: Plan, pairs: "Sequence[PreferencePair]") -> "list[tuple[float, float]]":
    import torch

    from tokenry.alignment.entanglement import response_logp

    assert plan.reference is not None
    model = plan.hardware.load(plan.reference).eval()
    with torch.no_grad():
        return [
            (
                float(response_logp(model, pair.prompt, pair.chosen)),
                float(response_logp(model, pair.prompt, pair.rejected)),
            )
            for pair in pairs
        ]


def _predicted(
    loss: "PreferenceLoss",
    gradients: "Sequence[PairGradients]",
    pairs: "Sequence[PreferencePair]",
    references: "Sequence[tuple[float, float]] | None",
) -> list[dict[str, Any]]:
    """What a step on each pair alone does, and the repair of its multipliers."""
    import torch

    from tokenry.alignment import Responses, multipliers, predict_step, repaired_multipliers
    from tokenry.alignment.entanglement import CASES

    found = []
    for number, (one, pair) in enumerate(zip(gradients, pairs, strict=True)):
        given = (one.logp_w, one.logp_l) if references is None else torch.tensor([references[number]]).T
        lengths = torch.tensor([[len(pair.chosen)], [len(pair.rejected)]])
        d_w, d_l = multipliers(
            loss,
            Responses(one.logp_w, given[0].to(one.logp_w), lengths[0]),
            Responses(one.logp_l, given[1].to(one.logp_l), lengths[1]),
        )[1:]
        step = predict_step(one, d_w, d_l)
        fixed = repaired_multipliers(one, d_w, d_l)
        found.append(
            {
                "logp_chosen": float(one.logp_w),
                "logp_rejected": float(one.logp_l),
                "cosine": finite_or_none(one.cosine),
                "condition_ratio": finite_or_none(one.condition_ratio),
                "norm_chosen": float(one.norm_w),
                "norm_rejected": float(one.norm_l),
                "d_w": float(d_w),
                "d_l": float(d_l),
                "change_chosen": float(step.chosen),
                "change_rejected": float(step.rejected),
                "case": CASES[int(step.case)],
                "repaired_d_w": float(fixed[0]),
                "repaired_d_l": float(fixed[1]),
            }
        )
    return found


def _cases(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    from tokenry.alignment.entanglement import CASES

    return {case: sum(one["case"] == case for one in found) / len(found) for case in CASES}


def _example(
    number: int,
    pair: "PreferencePair",
    products: "Tensor",
    predicted: Mapping[str, Any],
    tokenizer: "PreTrainedTokenizerBase",
) -> dict[str, Any]:
    """Both responses token by token, with each token's part of ⟨g_w, g_l⟩ and its highest cosine, and the tokens that entangle most."""
    from tokenry.alignment.token_gradients import cosines, culprits

    between, alike = products[: len(pair.chosen), len(pair.chosen) :], cosines(products, len(pair.chosen))
    texts = {side: token_texts(getattr(pair, side), tokenizer) for side in ("chosen", "rejected")}
    maps = {
        side: [
            {"text": text, "learnable": True, "signals": {"inner_product": inner, "highest_cosine": cosine}}
            for text, inner, cosine in zip(
                texts[side], between.sum(axis).tolist(), alike.amax(axis).tolist(), strict=True
            )
        ]
        for axis, side in ((1, "chosen"), (0, "rejected"))
    }
    return {
        "title": f"pair {number}: {predicted['case']}",
        "maps": maps,
        "tokens": [
            {
                "chosen": texts["chosen"][one.chosen],
                "rejected": texts["rejected"][one.rejected],
                "product": one.product,
            }
            for one in culprits(products, len(pair.chosen))
        ],
    }


# --- layout --------------------------------------------------------------------------------------------------------------------------

_CHANGES = (
    "Changes are those of a step of length 1 along the gradient of each pair alone, to first order: their signs and ratio count. A "
    "condition ratio above 1 means that with equal multipliers both log-probabilities move in one direction."
)
_TOKENS = (
    "Each token's part of the inner product of both gradients, by the output head: tokens that both responses share, in like contexts, "
    "move both responses together and carry no preference."
)


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """The share of pairs in each case, every pair, and the tokens of the first ones."""
    pairs = data["pairs"]
    wanted = data["cases"]["as wanted"]
    blocks: list[Block] = [
        Text(
            f"A step of {data['loss']} moves {wanted:.0%} of {plural(len(pairs), 'pair')} as wanted.", "lead"
        ),
        *(Text(note, "warning") for note in data["notes"]),
        Section(
            "Where a step moves the pairs",
            [case_table({"predicted": data["cases"]}), Text(_CHANGES), _pairs(pairs)],
        ),
    ]
    maps = [
        Heatmap(
            example["title"],
            [(side, example_tokens({"tokens": tokens})) for side, tokens in example["maps"].items()],
            folded=number >= 2,
        )
        for number, example in enumerate(data["examples"][:_SHOWN])
    ]
    sentences = [
        (example["title"].partition(":")[0], ", ".join(_culprit(one) for one in example["tokens"][:3]))
        for example in data["examples"][:_SHOWN]
    ]
    return [*blocks, Section("Tokens that entangle", [Text(_TOKENS), Findings(sentences), *maps])]


def _culprit(one: Mapping[str, Any]) -> str:
    return f"{one['chosen']!r} with {one['rejected']!r} ({one['product']:.3g})"


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> Table:
    columns = (
        Column("log π_w", "nats", ".1f"),
        Column("log π_l", "nats", ".1f"),
        Column("cosine", format=".2f"),
        Column("condition ratio", format=".2f"),
        Column("d_w / d_l", format=".2f"),
        "case",
    )
    rows = [
        (
            str(number),
            one["logp_chosen"],
            one["logp_rejected"],
            one["cosine"],
            one["condition_ratio"],
            _ratio(one),
            one["case"],
        )
        for number, one in enumerate(pairs, start=1)
    ]
    return Table(
        "",
        ("pair", *columns),
        rows,
        notes=("The figure under d_w / d_l is the ratio after the smallest repair, where one is needed.",),
    )


def _ratio(one: Mapping[str, Any]) -> Cell:
    def ratio(d_w: float, d_l: float) -> float | None:
        return d_w / d_l if d_l else None

    now, repaired = ratio(one["d_w"], one["d_l"]), ratio(one["repaired_d_w"], one["repaired_d_l"])
    changed = repaired is not None and now is not None and abs(repaired - now) > 1e-9
    return Cell(now, f"{repaired:.2f}" if changed else "")
