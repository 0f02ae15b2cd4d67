"""A model's loss on held-out answers, and the accuracy of its own."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Column, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._chats import ANSWER_TOKENS, DEMO, answerable, read_checked
from tokenry.verbs._estimates import stored_estimate
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._models import model_title
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs._stages import Stages, answers_cost


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Measure a model on data: NLL per response token, bits per byte, accuracy by the data's own verifiers.

    Attributes:
        model: `embedded`, a folder (adapters too), or a hub name.
        data: `demo`, or a file, folder or hub name as for `tokenry tune`.
        max_length: maximum number of tokens of a sample; longer ones are cut.
        chat_template: `open-instruct`, or a jinja file; by default the tokenizer's own.
        answers: items answered and verified, where the data has verifiers.
        seed: random seed of the demo data.
        lm_eval: tasks handed to lm-evaluation-harness instead, separated by commas.
    """

    model: str = argument("embedded")
    data: str = argument(DEMO)
    max_length: int = 2048
    chat_template: str | None = None
    answers: int = 45
    seed: int = 42
    lm_eval: str | None = option(None, metavar="TASKS")
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        require_at_least(2, max_length=self.max_length)
        require_at_least(0, answers=self.answers, seed=self.seed)


def run(plan: Plan, progress: Progress) -> Result:
    """Measure the model on the data, or hand it to lm-evaluation-harness."""
    plan.hardware.place()
    data = measured(plan, progress) if plan.lm_eval is None else measured_by_harness(plan, progress)
    return Result(
        f"{model_title(plan.model)} on {data['data']}",
        data | {"settings": plan_settings(plan)},
        lay_out(data),
    )


def measured(plan: Plan, progress: Progress) -> dict[str, Any]:
    """Measure NLL per response token, bits per byte, and accuracy where rows carry verifiers."""
    from tokenry.core.chat.conversations import encode_with_notes
    from tokenry.core.chat.template import training_template
    from tokenry.core.tensors.generation import require_answers
    from tokenry.evaluation import generate_answers, held_out_nll, verifier_accuracy
    from tokenry.evaluation.noisy_tasks import noisy_tasks
    from tokenry.evaluation.verifiers import encode_prompts
    from tokenry.models import load_tokenizer

    progress("reading the model and the data", 0.0)
    tokenizer = load_tokenizer(plan.model)
    if plan.chat_template:
        tokenizer.chat_template = training_template(tokenizer, plan.chat_template)
    rows = noisy_tasks(seed=plan.seed).held_out if plan.data == DEMO else read_checked(plan.data)
    encoding = encode_with_notes(rows, tokenizer, plan.max_length, plan.chat_template)
    items, prompts = answerable(rows, plan.answers)
    model = plan.hardware.load(plan.model)
    if items:
        require_answers(model, encode_prompts(tokenizer, prompts), ANSWER_TOKENS)
    reading = float(sum(map(len, encoding.dataset["input_ids"])))
    answering = answers_cost(len(items), ANSWER_TOKENS)
    stages = Stages(progress, [reading, answering])
    stages.begin("held-out loss", reading)
    held_out = held_out_nll(model, encoding.dataset, tokenizer=tokenizer)
    estimates = {"nll per token, nats": held_out.nll_per_token, "bits per byte": held_out.bits_per_byte}
    stages.begin("answers", answering)
    if items:
        answers = generate_answers(model, tokenizer, prompts, max_new_tokens=ANSWER_TOKENS)
        estimates["accuracy"] = verifier_accuracy(answers, items)
    return {
        "kind": "evaluation",
        "model": plan.model,
        "data": plan.data,
        "dtype": str(model.dtype).removeprefix("torch."),
        "measures": [{"measure": name, **asdict(found)} for name, found in estimates.items() if found],
        "notes": list(encoding.notes),
    }


def measured_by_harness(plan: Plan, progress: Progress) -> dict[str, Any]:
    """Hand the model to lm-evaluation-harness (extra `lm-eval`), and read its figures."""
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise UserError(
            "--lm-eval needs the harness: install it with `pip install 'tokenry[lm-eval]'`."
        ) from error
    from tokenry.models import load_tokenizer, require_causal_lm

    assert plan.lm_eval is not None
    progress("reading the model", 0.0)
    model = plan.hardware.load(plan.model)
    require_causal_lm(model, plan.model)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    harness = HFLM(pretrained=model, tokenizer=load_tokenizer(plan.model))
    progress(f"lm-evaluation-harness: {plan.lm_eval}", 0.05)
    try:
        results = simple_evaluate(model=harness, tasks=plan.lm_eval.split(","))
    except KeyError as error:
        raise UserError(f"lm-evaluation-harness does not know a task: {error.args[0]}.") from error
    measures = [
        {
            "measure": f"{task}: {metric.partition(',')[0]}",
            "value": float(value),
            "standard_error": _standard_error(figures, metric),
            "samples": figures.get("sample_len"),
        }
        for task, figures in results["results"].items()
        for metric, value in figures.items()
        if isinstance(value, int | float) and "_stderr" not in metric and metric != "sample_len"
    ]
    return {"kind": "lm-eval", "model": plan.model, "data": plan.lm_eval, "measures": measures}


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """One row per measure, and the parts of the data that were cut, skipped or not read."""
    rows = [(row["measure"], stored_estimate(row), row["samples"]) for row in data["measures"]]
    table = Table(
        f"{model_title(data['model'])} on {data['data']}",
        ("measure", "value", Column("n", "items")),
        rows,
        notes=["A value ± its standard error over the n items."],
    )
    return [*(Text(f"data: {note}", "warning") for note in data.get("notes", ())), table]


def _standard_error(figures: Mapping[str, Any], metric: str) -> float | None:
    name, _, filtering = metric.partition(",")
    error = figures.get(f"{name}_stderr,{filtering}")
    return float(error) if isinstance(error, int | float) else None
