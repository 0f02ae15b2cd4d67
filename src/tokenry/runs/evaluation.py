"""Measure one model on one data set: what `tokenry evaluate` prints."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tokenry.core.errors import UserError
from tokenry.core.gate import require_causal_lm
from tokenry.core.progress import Progress
from tokenry.core.stats import Estimate
from tokenry.evaluation import generate_answers, held_out_nll, verifier_accuracy
from tokenry.evaluation.generation import require_answers
from tokenry.evaluation.verifiers import encode_prompts
from tokenry.finetuning.conversations import encode_with_notes
from tokenry.finetuning.template import training_template
from tokenry.models import load_model, load_tokenizer, preferred_device, preferred_dtype
from tokenry.runs.material import answerable, read_checked, say
from tokenry.runs.noisy_tasks import noisy_tasks
from tokenry.runs.plan import DEMO
from tokenry.runs.quiet import quiet_libraries
from tokenry.runs.stages import Stages, answers_cost

ANSWER_TOKENS = 48


@quiet_libraries()
def evaluate_model(
    name: str,
    data: str,
    report: Progress,
    *,
    max_length: int = 2048,
    chat_template: str | None = None,
    dtype: str | None = None,
    answers: int = 45,
    seed: int = 42,
) -> dict[str, Any]:
    """Measure NLL per response token (nats), bits per byte, and accuracy where rows carry verifiers.

    Raises:
        UserError: a model or data that cannot be read, or a model that is no causal language model.
    """
    report("reading the model and the data", 0.0)
    tokenizer = load_tokenizer(name)
    if chat_template:
        tokenizer.chat_template = training_template(tokenizer, chat_template)
    rows = noisy_tasks(seed=seed).held_out if data == DEMO else read_checked(data)
    encoding = encode_with_notes(rows, tokenizer, max_length, chat_template)
    say(encoding.notes)
    encoded = encoding.dataset
    items, prompts = answerable(rows, answers)
    device = preferred_device()
    model = load_model(name, dtype=dtype or preferred_dtype(device)).to(device)
    if items:
        require_answers(model, encode_prompts(tokenizer, prompts), ANSWER_TOKENS)
    reading = float(sum(map(len, encoded["input_ids"])))
    answering = answers_cost(len(items), ANSWER_TOKENS)
    stages = Stages(report, [reading, answering])
    stages.begin("held-out loss", reading)
    held_out = held_out_nll(model, encoded, tokenizer=tokenizer)
    measures = [_measure("nll per token, nats", held_out.nll_per_token)]
    if held_out.bits_per_byte is not None:
        measures.append(_measure("bits per byte", held_out.bits_per_byte))
    stages.begin("answers", answering)
    if items:
        said = generate_answers(model, tokenizer, prompts, max_new_tokens=ANSWER_TOKENS)
        measures.append(_measure("accuracy", verifier_accuracy(said, items)))
    report("done", 1.0)
    return {
        "kind": "evaluation",
        "model": name,
        "data": data,
        "dtype": str(model.dtype).removeprefix("torch."),
        "measures": measures,
        "notes": list(encoding.notes),
    }


@quiet_libraries()
def evaluate_with_harness(name: str, tasks: Sequence[str]) -> dict[str, Any]:
    """Hand a model over to lm-evaluation-harness (extra `lm-eval`) and return its figures.

    Raises:
        UserError: the harness is not installed, or does not know a task.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise UserError(
            "--lm-eval needs the harness: install it with `pip install 'tokenry[lm-eval]'`."
        ) from error
    device = preferred_device()
    model = load_model(name, dtype=preferred_dtype(device)).to(device)
    require_causal_lm(model)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    harness = HFLM(pretrained=model, tokenizer=load_tokenizer(name))
    try:
        results = simple_evaluate(model=harness, tasks=list(tasks))
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
    return {"kind": "lm-eval", "model": name, "data": ",".join(tasks), "measures": measures}


def _standard_error(figures: dict[str, Any], metric: str) -> float | None:
    name, _, filtering = metric.partition(",")
    error = figures.get(f"{name}_stderr,{filtering}")
    return float(error) if isinstance(error, int | float) else None


def _measure(name: str, estimate: Estimate) -> dict[str, Any]:
    return {"measure": name, **asdict(estimate)}
