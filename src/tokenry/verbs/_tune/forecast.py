"""The cost of a run before anything is trained: steps, tokens, time and memory by one timed step, and the files it writes."""

from typing import Any

from tokenry.report.blocks import Block, Column, Findings, Table
from tokenry.verbs._side_by_side import folder_name
from tokenry.verbs._tune.bench import Bench
from tokenry.verbs._tune.course import Course
from tokenry.verbs._tune.racing import price_in_words


def forecast(bench: Bench, course: Course | None) -> dict[str, Any]:
    """Time one step, and estimate all from it."""
    per_cost, memory = bench.timed_step()
    tokens = round(sum(map(len, bench.material.train["input_ids"])) * bench.epochs)
    files = ["result.json", "report.html", "tables/*.csv"]
    racing = {entry.name for entry in course.entries} if course else set()
    files += [f"{folder_name(name)}/model" for name in bench.weighings if name not in racing]
    files += ["the winner's folder/model"] if racing else []
    return {
        "weighings": list(bench.weighings),
        "steps_of_a_run": bench.steps,
        "tokens_of_a_run": tokens,
        "validation_samples": len(bench.material.validation or []),
        "held_out_samples": len(bench.material.held_out),
        "price": course.price if course else float(len(bench.weighings)),
        "race": price_in_words(course) if course else "",
        "seeds": bench.plan.seeds,
        "minutes": bench.stages.total * per_cost / 60,
        "memory_mb": memory,
        "output": str(bench.output),
        "files": files,
    }


def in_words(found: dict[str, Any]) -> str:
    """One sentence before the start."""
    memory = f" and {found['memory_mb'] / 1000:.1f} GB" if found["memory_mb"] else ""
    return (
        f"a run is {found['steps_of_a_run']:,} steps on {found['tokens_of_a_run']:,} tokens; all of it will take about "
        f"{max(1, round(found['minutes']))} min{memory} by one timed step, and is written into {found['output']}."
    )


def lay_out_forecast(found: dict[str, Any]) -> list[Block]:
    """The plan as `--dry-run` prints it."""
    rows = [
        ("optimisation steps of a run", found["steps_of_a_run"]),
        ("tokens of a run", found["tokens_of_a_run"]),
        ("samples to judge a race by", found["validation_samples"]),
        ("held-out samples", found["held_out_samples"]),
        ("price in plain runs, at most", found["price"]),
        ("seeds", found["seeds"]),
        ("estimated minutes", found["minutes"]),
        ("estimated peak memory, MB", found["memory_mb"]),
    ]
    sentences = [
        "nothing was trained",
        in_words(found).rstrip("."),
        *filter(None, [found["race"].rstrip(".")]),
    ]
    blocks: list[Block] = [
        Findings([("", f"{sentence[:1].upper()}{sentence[1:]}.") for sentence in sentences])
    ]
    blocks.append(Table("The plan", (Column("what"), Column("how much", "", ",.1f")), rows))
    weighings = [("trained", name) for name in found["weighings"]]
    return [
        *blocks,
        Findings([*weighings, *(("written", name) for name in found["files"])], "Weighings and files"),
    ]
