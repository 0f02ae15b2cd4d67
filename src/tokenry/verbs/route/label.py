"""Labelled tokens, which a router is trained on: where a small model differs from a large one, and whether that matters."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import require_folder_name
from tokenry.core.io.progress import Progress, part
from tokenry.core.plans import option, plan_settings
from tokenry.report.blocks import Block, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._chats import ANSWER_TOKENS, DEMO, verified_prompts
from tokenry.verbs._hardware import Hardware
from tokenry.verbs.route._pair import BATCH_SIZE, LABELS_FILE, LoadedPair, ModelPair

if TYPE_CHECKING:
    from tokenry.decoding.r2r import DivergenceVerifier

_FEW = 100
_FEW_DIVERGENT = 30


@dataclass(frozen=True)
class Plan:
    """Let the large model answer prompts, and label every token by whether the small model's own would send the answer another way.

    Attributes:
        data: prompts with verifiers: `demo`, or a file, folder or hub name as for `tokenry tune`.
        verifier: what decides: whether the answer stays right (exact), the large model's log-probabilities (gap), or a judge.
        judge: model that judges, or an endpoint as URL#MODEL; by default the large model.
        items: maximum number of prompts.
        max_new_tokens: maximum number of tokens of an answer; those that do not end are left out.
        top_k: number of the small model's logits that a router will read.
        seed: random seed of the demo data.
        output: folder for labels.safetensors, result.json and report.html.
    """

    pair: ModelPair
    data: str = DEMO
    verifier: Literal["exact", "gap", "judge"] = "exact"
    judge: str | None = option(None, metavar="MODEL")
    items: int = 200
    max_new_tokens: int = ANSWER_TOKENS
    top_k: int = 100
    seed: int = 0
    hardware: Hardware = Hardware()
    output: Path = Path("runs/route")

    def __post_init__(self) -> None:
        require_folder_name(self.output, "the labels")
        require_at_least(1, items=self.items, max_new_tokens=self.max_new_tokens, top_k=self.top_k)
        if self.judge is not None and self.verifier != "judge":
            raise UserError("--judge goes with --verifier judge.")


def run(plan: Plan, progress: Progress) -> Result:
    """Answer, read, judge, and save the labels."""
    from tokenry.decoding.fitted_rule import without_nan
    from tokenry.decoding.r2r import LogProbGap, agreement, label_responses, write_responses
    from tokenry.evaluation.verifiers import encode_prompts

    items, prompts = verified_prompts(plan.data, plan.items, plan.seed)
    progress("loading both models", 0.0)
    loaded = plan.pair.load(plan.hardware)
    encoded = encode_prompts(loaded.tokenizer, prompts, plan.max_new_tokens, BATCH_SIZE)
    told = part(progress, 0.05, 0.4)
    responses = write_responses(
        loaded.large, loaded.tokenizer, encoded, plan.max_new_tokens, BATCH_SIZE, told
    )
    verifier = _verifier(plan, loaded, [items[number] for number in responses])
    labelled, divergences, verdicts = label_responses(
        loaded.small,
        loaded.large,
        loaded.tokenizer,
        list(responses.values()),
        verifier,
        top_k=plan.top_k,
        batch_size=BATCH_SIZE,
        progress=part(progress, 0.4, 0.95),
    )
    names = (replace(labelled.small, name=plan.pair.small), replace(labelled.large, name=plan.pair.large))
    replace(labelled, small=names[0], large=names[1]).save(plan.output / LABELS_FILE)
    gaps = LogProbGap()(divergences)
    data = {
        "kind": "route label",
        "small": plan.pair.small,
        "large": plan.pair.large,
        "verifier": plan.verifier,
        "prompts": len(prompts),
        "answers": len(responses),
        "tokens": len(labelled.divergent),
        "mismatches": len(verdicts),
        "divergent": sum(verdict == 1 for verdict in verdicts),
        "without_verdict": sum(verdict < 0 for verdict in verdicts),
        "agreement_with_gap": without_nan(asdict(agreement(verdicts, gaps))),
        "settings": plan_settings(plan),
    }
    return Result(f"Labelled tokens of {plan.pair.small} and {plan.pair.large}", data, lay_out(data))


def _verifier(plan: Plan, loaded: LoadedPair, items: list[dict[str, Any]]) -> "DivergenceVerifier":
    from tokenry.decoding.r2r import ExactVerifier, JudgeVerifier, LogProbGap
    from tokenry.evaluation.verifiers import is_right
    from tokenry.models import LocalText
    from tokenry.verbs.cascade._answers import text_model

    if plan.verifier == "gap":
        return LogProbGap()
    if plan.verifier == "judge":
        own = LocalText(loaded.large, loaded.tokenizer, name=loaded.name_of_large)
        judge = own if plan.judge is None else text_model(plan.judge, plan.hardware)
        return JudgeVerifier(judge, loaded.tokenizer)

    def outcome(text: int, answer: Any) -> bool:
        written = loaded.tokenizer.decode(list(answer), skip_special_tokens=True)
        return is_right(written.strip(), items[text]["verifier"])

    return ExactVerifier(outcome)


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out how often the models differ, and how often it matters."""
    tokens, mismatches, agreed = max(1, data["tokens"]), data["mismatches"], data["agreement_with_gap"]
    rows = [
        ("answers that end", f"{data['answers']:,} of {data['prompts']:,} prompts"),
        ("tokens", f"{data['tokens']:,}"),
        ("the small model differs", f"{mismatches:,} ({mismatches / tokens:.1%})"),
        (
            "divergent",
            f"{data['divergent']:,} ({data['divergent'] / tokens:.1%}), by the verifier {data['verifier']}",
        ),
    ]
    if data["without_verdict"]:
        rows.append(("without a verdict", f"{data['without_verdict']:,}"))
    if agreed["share"] is not None and data["verifier"] != "gap":
        kappa = "" if agreed["kappa"] is None else f", kappa {agreed['kappa']:.2f}"
        rows.append(("agreement with the gap of log-probabilities", f"{agreed['share']:.1%}{kappa}"))
    warnings = []
    if data["answers"] < _FEW or data["divergent"] < _FEW_DIVERGENT:
        warnings.append(
            f"{data['divergent']} divergent tokens of {data['answers']} answers are few to train a router on: label more prompts (--items)."
        )
    return [
        *(Text(warning, "warning") for warning in warnings),
        Table(f"labels of {data['small']}, beside {data['large']}", ("what", "found"), rows),
    ]
