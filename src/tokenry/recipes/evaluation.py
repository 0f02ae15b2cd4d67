"""Measure one model on one data set: what `tokenry evaluate` prints."""

from collections.abc import Sequence
from typing import Any

from tokenry.core.errors import UserError
from tokenry.core.records import Estimate
from tokenry.evaluation import generate_answers, held_out_nll, verifier_accuracy
from tokenry.finetuning.conversations import encode_rows
from tokenry.finetuning.rows import read_rows
from tokenry.models import load_model, load_tokenizer, preferred_dtype
from tokenry.recipes.noisy_tasks import noisy_tasks


def evaluate_model(
    name: str,
    data: str,
    *,
    max_length: int = 2048,
    chat_template: str | None = None,
    dtype: str | None = None,
    answers: int = 45,
    seed: int = 42,
) -> dict[str, Any]:
    """Measure NLL per response token (nats), bits per byte, and accuracy where rows carry verifiers.

    Raises:
        UserError: a model or data that cannot be read.
    """
    tokenizer = load_tokenizer(name)
    rows = noisy_tasks(seed=seed).held_out if data == "demo" else read_rows(data)
    encoded = encode_rows(rows, tokenizer, max_length, chat_template=chat_template)
    model = load_model(name, dtype=dtype or preferred_dtype())
    held_out = held_out_nll(model, encoded, tokenizer=tokenizer)
    measures = [_measure("nll per token, nats", held_out.nll_per_token)]
    if held_out.bits_per_byte is not None:
        measures.append(_measure("bits per byte", held_out.bits_per_byte))
    items = [row for row in rows if row.get("verifier") and row.get("messages")][:answers]
    if len(items) > 1:
        said = generate_answers(model, tokenizer, [item["messages"][:-1] for item in items])
        measures.append(_measure("accuracy", verifier_accuracy(said, items)))
    return {
        "kind": "evaluation",
        "model": name,
        "data": data,
        "dtype": str(model.dtype),
        "measures": measures,
    }


def evaluate_with_harness(name: str, tasks: Sequence[str]) -> dict[str, Any]:
    """Hand a model over to lm-evaluation-harness (extra `lm-eval`) and return its figures.

    Raises:
        UserError: the harness is not installed.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise UserError(
            "--lm-eval needs the harness: install it with `pip install 'tokenry[lm-eval]'`."
        ) from error
    model = HFLM(pretrained=load_model(name, dtype=preferred_dtype()), tokenizer=load_tokenizer(name))
    results = simple_evaluate(model=model, tasks=list(tasks))["results"]
    measures = [
        {
            "measure": f"{task}: {metric.partition(',')[0]}",
            "value": float(value),
            "standard_error": _standard_error(figures, metric),
            "samples": None,
        }
        for task, figures in results.items()
        for metric, value in figures.items()
        if isinstance(value, int | float) and "_stderr" not in metric
    ]
    return {"kind": "lm-eval", "model": name, "data": ",".join(tasks), "measures": measures}


def _standard_error(figures: dict[str, Any], metric: str) -> float | None:
    name, _, filtering = metric.partition(",")
    error = figures.get(f"{name}_stderr,{filtering}")
    return float(error) if isinstance(error, int | float) else None


def _measure(name: str, estimate: Estimate) -> dict[str, Any]:
    return {"measure": name, **estimate.model_dump()}
