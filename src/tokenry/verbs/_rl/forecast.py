"""The cost of a run before anything is kept: tokens, forward passes, time and memory, by one generation that is carried out."""

from typing import Any

from tokenry.report.blocks import Block, Column, Findings, Table
from tokenry.report.writing import plural
from tokenry.verbs._rl.arms import Arms
from tokenry.verbs._side_by_side import folder_name


def forecast(arms: Arms) -> dict[str, Any]:
    """Carry out one generation with its updates, and estimate all from it."""
    plan, trial = arms.plan, arms.rehearse()
    share = arms.stages.total / (len(arms.credits) * arms.generations * arms.generation_cost)
    return {
        "runs": list(arms.credits),
        "steps": plan.steps,
        "generations": arms.generations,
        "responses": arms.responses,
        "tokens": arms.responses * plan.max_new_tokens,
        "generating_passes": plan.max_new_tokens,
        "scoring_passes": int(plan.updates > 1),
        "learning_passes": plan.updates,
        "seconds": trial["seconds"],
        "minutes": trial["seconds"] * len(arms.credits) * arms.generations * share / 60,
        "memory_mb": trial["memory_mb"],
        "reward": trial["reward"],
        "output": str(plan.output),
        "files": [
            "result.json",
            "report.html",
            "tables/*.csv",
            *(f"{folder_name(name)}/model" for name in arms.credits),
        ],
    }


def in_words(found: dict[str, Any]) -> str:
    """One sentence before the start."""
    memory = f" and {found['memory_mb'] / 1000:.1f} GB" if found["memory_mb"] else ""
    return (
        f"a run is {plural(found['steps'], 'step')} on {plural(found['generations'], 'generation')} of "
        f"{plural(found['responses'], 'response')} (at most {found['tokens']:,} tokens each time); {plural(len(found['runs']), 'run')} "
        f"will take about {max(1, round(found['minutes']))} min{memory} by one trial generation, and {found['output']} is written into."
    )


def lay_out_forecast(found: dict[str, Any]) -> list[Block]:
    """The cost as `--dry-run` prints it."""
    rows = [
        ("responses", found["responses"]),
        ("generated tokens, at most", found["tokens"]),
        ("forward passes to generate, one token each", found["generating_passes"]),
        ("forward passes to score by the old policy", found["scoring_passes"]),
        ("forward and backward passes to learn", found["learning_passes"]),
        ("seconds", found["seconds"]),
        ("mean reward of the trial", found["reward"]),
    ]
    whole = [
        ("optimisation steps of a run", found["steps"]),
        ("generations of a run", found["generations"]),
        ("estimated minutes of all runs", found["minutes"]),
        ("estimated peak memory, MB", found["memory_mb"]),
    ]
    said = f"{in_words(found)[:1].upper()}{in_words(found)[1:]}"
    files = [*(("trained", name) for name in found["runs"]), *(("written", name) for name in found["files"])]
    measure = Column("how much", "", ",.4g")
    return [
        Findings([("", "Nothing was kept."), ("", said)]),
        Table("One generation", (Column("what"), measure), rows),
        Table("The whole", (Column("what"), measure), whole),
        Findings(files, "Runs and files"),
    ]
