"""Encoders side by side on labelled texts: tokens, speed, accuracy, and whether the differences are more than noise."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenry.core.errors import UserError, require_at_least, require_fraction
from tokenry.core.io.progress import Progress, part
from tokenry.core.plans import argument, embedded, option, plan_settings
from tokenry.core.stats import Estimate
from tokenry.core.train.classifier import ClassifierConfig
from tokenry.report.blocks import Block, Column, Findings, Table, Text, Value
from tokenry.report.result import Result
from tokenry.verbs._estimates import between
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs.evaluate._labelled_texts import encoder_data, matrix, read_labelled, read_predictions

_TRAINING = ("epochs", "batch_size", "learning_rate", "warmup", "weight_decay", "bfloat16")
FEW_TEXTS = 200
"""Test texts below which the report says what they cannot settle."""


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Compare encoders and their tokenizers on labelled texts, the others with the first one.

    Attributes:
        data: file of labelled texts: text, labels (a list of names) or label (one name), and split (train, validation or test).
        models: encoders to fine-tune alike, folders or hub names separated by commas, the baseline first.
        predictions: instead of models, files with stored probabilities of the test texts; can be repeated, the baseline first.
        external: file of texts from elsewhere with the same labels.
        max_length: maximum number of tokens of a text; longer ones are cut.
        margin: share of the test texts that an encoder may be worse by, in exact match, to count as not worse.
        inference_batch_size: texts of a batch when speed is measured.
        rounds: rounds of the speed measurement, of which the median counts.
        draws: resamples behind the intervals.
        seed: random seed of new heads, training, and the split where the data name none.
    """

    data: Path = argument()
    models: tuple[str, ...] = option((), metavar="A,B", commas=True)
    predictions: tuple[Path, ...] = option((), metavar="FILE")
    external: Path | None = option(None, metavar="FILE")
    max_length: int = 512
    training: ClassifierConfig = embedded(ClassifierConfig(), only=_TRAINING)
    margin: float = 0.05
    inference_batch_size: int = 32
    rounds: int = 5
    draws: int = 2000
    seed: int = 0
    hardware: Hardware = embedded(Hardware(), only=("device",))

    def __post_init__(self) -> None:
        require_at_least(2, draws=self.draws)
        require_at_least(1, max_length=self.max_length, rounds=self.rounds)
        require_at_least(1, inference_batch_size=self.inference_batch_size)
        require_at_least(0, seed=self.seed)
        require_fraction(self.margin, "margin")
        if bool(self.models) == bool(self.predictions):
            raise UserError("give either --models, which are fine-tuned, or --predictions, which are stored.")
        if len(self.models or self.predictions) < 2:
            raise UserError(
                f"a comparison needs at least two, the baseline first, got {len(self.models or self.predictions)}."
            )
        if self.predictions and self.external is not None:
            raise UserError(
                "--external goes with --models: compare stored predictions of other texts in a run of their own."
            )


def run(plan: Plan, progress: Progress) -> Result:
    """Fine-tune and measure the encoders, or compare what is stored."""
    progress("reading the data", 0.0)
    data = compared_encoders(plan, progress) if plan.models else compared_predictions(plan)
    first = data["encoders"][0]["name"]
    others = ", ".join(row["name"] for row in data["encoders"][1:])
    data = {"kind": "encoders", **data, "settings": plan_settings(plan)}
    return Result(f"{others} against {first}", data, lay_out(data))


def compared_encoders(plan: Plan, progress: Progress) -> dict[str, Any]:
    """Fine-tune the encoders on the data, and measure them."""
    from tokenry.evaluation.encoders import compare_encoders
    from tokenry.models import load_text_classifier

    external = None if plan.external is None else read_labelled(plan.external)
    data = encoder_data(read_labelled(plan.data), external, plan.seed)
    names = _short_names(plan.models)
    device = plan.hardware.place()
    classifiers = {}
    for name, model in zip(names, plan.models, strict=True):
        classifier = load_text_classifier(
            model, data.names, data.multi_label, plan.max_length, dtype="float32", seed=plan.seed
        )
        classifier.model.to(device)
        classifiers[name] = classifier
    report = compare_encoders(
        classifiers,
        data,
        replace(plan.training, seed=plan.seed),
        margin=plan.margin,
        inference_batch_size=plan.inference_batch_size,
        rounds=plan.rounds,
        draws=plan.draws,
        progress=part(progress, 0.05, 1.0),
    )
    sizes = {part_name: len(texts.texts) for part_name, texts in data.parts().items()}
    return {"texts": sizes, **report.as_json()}


def compared_predictions(plan: Plan) -> dict[str, Any]:
    """Compare stored probabilities of the test texts."""
    from tokenry.core.io.files import without_nan
    from tokenry.evaluation.encoders import compare_with_first, multilabel_metrics
    from tokenry.evaluation.encoders.compare import comparisons_json, metrics_json

    source = read_labelled(plan.data)
    rows = source.rows if source.rows[0].split is None else source.parts(plan.seed)["test"]
    if not rows:
        raise UserError(f"{plan.data} has no test texts: give them, or leave the split out.")
    test, threshold = matrix(rows, source.names), 0.5 if source.multi_label else None
    stored = {
        name: read_predictions(path, test.texts, source.names)
        for name, path in zip(_short_names(list(map(str, plan.predictions))), plan.predictions, strict=True)
    }
    encoders = [
        {"name": name, "metrics": {"test": metrics_json(multilabel_metrics(test.labels, prob, threshold))}}
        for name, prob in stored.items()
    ]
    comparisons = compare_with_first(test.labels, stored, threshold, plan.margin, plan.draws)
    return without_nan(
        {
            "texts": {"test": len(rows)},
            "labels": list(source.names),
            "encoders": encoders,
            "comparisons": comparisons_json(comparisons),
            "external": [],
        }
    )


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay the comparison out: what can be said first, then every number."""
    encoders = data["encoders"]
    measured = "tokens" in encoders[0]
    blocks: list[Block] = [Text(warning, "warning") for warning in warnings(data)]
    blocks.append(Findings([(row["name"], sentence) for row, sentence in findings(data)], "what can be said"))
    if measured:
        blocks += [_tokens(encoders), _speed(encoders)]
    blocks += [_metrics(encoders, data["labels"]), _paired(data["comparisons"], "test", encoders[0]["name"])]
    if data["external"]:
        blocks.append(_paired(data["external"], "external", encoders[0]["name"]))
    return [*blocks, *(_labels(row, data["labels"], encoders[0]["name"]) for row in data["comparisons"])]


def findings(data: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Each encoder against the first one in sentences."""
    first, *others = data["encoders"]
    for row, compared in zip(others, data["comparisons"], strict=True):
        if row.get("speed_up"):
            factors = row["speed_up"]
            yield (
                row,
                f"{row['tokens']['reduction']:.1%} fewer tokens per text than {first['name']}, {factors['total']:.2f} times as fast: "
                f"{factors['tokens']:.2f} by tokens × {factors['architecture']:.2f} by architecture × {factors['kernels']:.2f} by kernels.",
            )
        match, exact = (each["metrics"]["test"]["exact_match"] for each in (row, first)), compared["exact"]
        ours, theirs = match
        yield (
            row,
            f"exact match {ours:.1%} against {theirs:.1%}: {exact['only_a']} texts right only here, {exact['only_b']} only there, "
            f"p = {exact['p']:.4f} (exact McNemar). Not worse by more than {100 * compared['margin']:g} points: {compared['not_worse']}.",
        )
        if compared["texts_to_settle"] and exact["p"] >= 0.05:
            yield (
                row,
                f"a difference of that size takes about {compared['texts_to_settle']:,} test texts to be found in 4 of 5 tests.",
            )
        if "external" in row["metrics"]:
            falls = [
                [each["metrics"]["test"][name] - each["metrics"]["external"][name] for each in (row, first)]
                for name in ("exact_match", "macro_average_precision")
            ]
            yield (
                row,
                f"on the external texts exact match falls by {100 * falls[0][0]:.1f} points ({first['name']}: {100 * falls[0][1]:.1f}), "
                f"average precision by {100 * falls[1][0]:.1f} ({100 * falls[1][1]:.1f}).",
            )


def warnings(data: Mapping[str, Any]) -> Iterator[str]:
    """What must not be missed."""
    if data["texts"]["test"] < FEW_TEXTS:
        from tokenry.core.stats import mcnemar_power

        number = data["texts"]["test"]
        gap = next(
            (gap for gap in range(1, 31) if mcnemar_power(number, gap / 100, max(0.12, gap / 100)) >= 0.75),
            None,
        )
        settled = "not even gaps of 30 points" if gap is None else f"only gaps of about {gap} points or more"
        yield f"{number} test texts settle {settled}, where 12 % of the texts divide the encoders."
    for row in data["encoders"]:
        if row.get("tokens") and row["tokens"]["truncated"] > 0.01:
            yield f"{row['name']} cuts {row['tokens']['truncated']:.0%} of the texts at the maximum length, which hides what its tokens cost."
    support = data["encoders"][0]["metrics"]["test"]["support"]
    if missing := [label for label, count in zip(data["labels"], support, strict=True) if not count]:
        yield f"no test text has {', '.join(missing)}: F1 is 0 there by convention, and average precision leaves it out."


def _tokens(encoders: Sequence[Mapping[str, Any]]) -> Table:
    names = (
        "mean",
        "median",
        "p95",
        "truncated",
        "fertility",
        "characters_per_token",
        "sorted_padding_waste",
        "padding_waste",
    )
    columns = (
        Column("mean", "tokens", ".1f"), Column("median", "tokens", ".0f"), Column("p95", "tokens", ".0f"),
        Column("cut", "%"), Column("per word", "tokens", ".2f"), Column("per token", "characters", ".2f"),
        Column("padding, sorted", "%"), Column("padding, unsorted", "%"),
    )  # fmt: skip
    rows = [(row["name"], *(row["tokens"][name] for name in names)) for row in encoders]
    return Table("tokens of the test texts, special tokens included", ("encoder", *columns), rows)


def _speed(encoders: Sequence[Mapping[str, Any]]) -> Table:
    columns = (
        Column("training", "s", ".1f"), Column("training", "texts/s", ".1f"), Column("inference", "texts/s", ".1f"),
        Column("inference", "texts per CPU s", ".1f"), Column("memory", "MB", ".0f"), Column("speed-up", "", ".2f"),
    )  # fmt: skip
    return Table("speed", ("encoder", *columns), [_speed_row(row) for row in encoders])


def _speed_row(row: Mapping[str, Any]) -> tuple[Value, ...]:
    training, speed = row["training"], row["speed"]
    peak = speed["peak_bytes"]
    return (
        row["name"],
        training["seconds"],
        training["texts"] / training["seconds"],
        speed["texts_per_second"],
        speed["texts"] / speed["cpu_seconds"],
        None if peak is None else peak / 1e6,
        1.0 if row["speed_up"] is None else row["speed_up"]["total"],
    )


def _metrics(encoders: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Table:
    names = ("exact_match", "macro_f1", "micro_f1", "weighted_f1", "hamming_loss", "macro_average_precision")
    columns = ("exact match", "macro F1", "micro F1", "weighted F1", "Hamming loss", "average precision")
    rows = [
        (row["name"], part_name, *(metrics[name] for name in names))
        for row in encoders
        for part_name, metrics in row["metrics"].items()
    ]
    return Table(
        f"metrics of {len(labels)} labels",
        ("encoder", "texts", *(Column(column, "", ".3f") for column in columns)),
        rows,
        notes=["Tuned: with the thresholds that have the highest F1 on the validation texts, instead of 0.5."]
        if any("tuned" in row[1] for row in rows)
        else (),
    )


def _paired(comparisons: Sequence[Mapping[str, Any]], part_name: str, first: str) -> Table:
    rows = []
    for row in comparisons:
        for metric, estimate in {"exact match": row["exact_match"], **row["differences"]}.items():
            if metric != "exact_match":
                found = Estimate(**estimate)
                rows.append(
                    (
                        row["name"],
                        metric.replace("_", " "),
                        found.value,
                        between(found.low, found.high, "+.3f"),
                    )
                )
    return Table(
        f"difference to {first} on the {part_name} texts",
        ("encoder", "metric", Column("difference", "", "+.3f"), "95 % interval"),
        rows,
        notes=["Exact match: Tango's score interval; all others: bootstrap over texts."],
    )


def _labels(row: Mapping[str, Any], labels: Sequence[str], first: str) -> Table:
    won, even, lost = row["wins"]
    return Table(
        f"F1 of each label, {row['name']} against {first}",
        ("label", Column(row["name"], "F1", ".3f"), Column(first, "F1", ".3f"), Column("p", "", ".3f"), Column("p, Holm", "", ".3f")),
        [
            (label, found["f1_a"], found["f1_b"], found["p"], found["holm"])
            for label, found in zip(labels, row["labels"], strict=True)
        ],
        notes=[f"{row['name']} is higher on {won} labels, equal on {even}, lower on {lost}. p: exact McNemar test of the label."],
        folded=len(labels) > 20,
    )  # fmt: skip


def _short_names(models: Sequence[str]) -> list[str]:
    """The last parts of names and paths where they differ, else all of them."""
    short = [
        Path(model).stem if Path(model).suffix in (".json", ".jsonl") else Path(model).name
        for model in models
    ]
    return short if len(set(short)) == len(short) else list(models)
