"""The layout of a race: the opening sentence of a report, leaders and dropouts rung by rung, seeds, and answers side by side."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tokenry.core.stats import FEWEST_SEEDS, Paired, shown
from tokenry.report.blocks import Block, Cell, Column, Figure, Findings, Series, Table, Text
from tokenry.report.writing import plural, written_number
from tokenry.verbs._side_by_side import folder_name

if TYPE_CHECKING:
    from tokenry.core.stats import Estimate
    from tokenry.verbs._tune.records import Comparison, Judgement, Race, Run, Seeds

_OUT = {
    "": "stays",
    "worse": "goes: worse than the leader",
    "no seat": "goes: undecided, no room in the price",
}
_ANSWERS = 12


def race_lead(comparison: "Comparison") -> str:
    """Which weighing won, by how much over plain fine-tuning, over how many seeds, and what was forgotten."""
    race = comparison.race
    assert race is not None
    runs = {run.name: run for run in comparison.runs}
    seeds = len(comparison.seeds.seeds) if comparison.seeds else 1
    over = f"over {plural(seeds, 'seed')}"
    winner = runs[race.winner]
    forgotten = "; ".join(
        f"{written_number(found.paired.difference, '+,.3f')} nats per token on {found.name}"
        for found in winner.retained
    )
    told = f" Forgotten: {forgotten}." if forgotten else ""
    told += f" Its model: {folder_name(race.winner)}/model."
    if race.winner == race.control:
        beside = f" {_beside(race)}" if race.final else ""
        beside += f" Over {seeds} seeds it is at {_with_words(comparison.seeds)}." if comparison.seeds else ""
        return f"Plain fine-tuning won, {over}: no weighing was shown to be better on the validation part.{beside}{told}"
    paired = winner.paired
    assert paired is not None
    found = _with_words(comparison.seeds or paired)
    return f"{race.winner} won: {found}, {over}.{told}"


def _with_words(found: "Seeds | Paired") -> str:
    """A difference from plain fine-tuning, and whether it is shown."""
    estimate = found.estimate
    verdict = found.verdict if isinstance(found, Paired) else shown(estimate.scaled(-1), fewest=FEWEST_SEEDS)
    words = {
        "shown": "shown",
        "opposite": "the other way round on held-out data",
        "too few": "too few to say",
    }.get(verdict, "not shown")
    value = written_number(estimate.value, "+,.3f")
    error = written_number(estimate.standard_error, ",.3f")
    return f"{value} ± {error} nats per held-out token against plain fine-tuning ({words})"


def _beside(race: "Race") -> str:
    final = race.final
    assert final is not None
    found = _decisive(race, final)
    return f"The best other one was {final.name}: {found:+.3f} there."


def race_blocks(race: "Race") -> Iterator[Block]:
    """The rungs, in a table each and one figure."""
    clean = "as noisy as the training data, so the trimmed mean decides" if race.robust else "trusted samples"
    uses = ", ".join(f"{count} for {use}" for use, count in race.trusted.items() if count)
    passes = f", {race.ahead:.2f} of it for passes of other models over the data" if race.ahead else ""
    yield Text(
        f"All began with the same {plural(race.begins, 'step')} of plain fine-tuning, and were judged on {plural(race.validation, 'sample')} "
        f"that nothing was trained on ({clean}), each after a short decay of its own. An entry goes if the 95 % interval of its "
        "paired difference lies above the leader, or if it is undecided and the price has no room. The price was at most "
        f"{race.price:.2f} plain runs{passes}, and came to {race.spent:.2f}."
        + f" Of the trusted samples, {uses}."
        * bool(uses)
    )
    findings = list(_findings(race))
    if findings:
        yield Findings(findings)
    for heat in race.heats:
        rows = [_row(race, entry, heat.leader) for entry in heat.judged]
        yield Table(f"Judged at step {heat.step}", _COLUMNS, rows)
    if race.final:
        yield Table(
            "Judged at the end, against plain fine-tuning", _COLUMNS, [_row(race, race.final, race.control)]
        )
    series = [
        Series(name, [step for step, _ in points], [nll for _, nll in points])
        for name in race.entries
        if (
            points := [
                (heat.step, float(row.nll.value))
                for heat in race.heats
                for row in heat.judged
                if row.name == name
            ]
        )
    ]
    if series:
        ends = "; ".join(f"{line.name}: {line.y[-1]:.3f} at step {line.x[-1]}" for line in series)
        yield Figure(
            "The race",
            "lines",
            series,
            "step",
            "NLL on the validation part, nats per token",
            f"NLL at the rungs: {ends}",
        )


_COLUMNS = (
    "entry",
    Column("NLL", "nats per token"),
    Column("difference to the leader", "nats per token", "+,.4f"),
    Column("trimmed mean of it", "nats per token", "+,.4f"),
    "outcome",
)


def _row(
    race: "Race", entry: "Judgement", leader: str
) -> tuple[str, "Estimate", "Estimate | None", "Estimate | None", str]:
    if entry.name == leader:
        return entry.name, entry.nll, None, None, "leads"
    outcome = (
        _OUT[entry.out]
        if entry is not race.final
        else ("wins" if race.winner == entry.name else "not shown to be better")
    )
    return entry.name, entry.nll, entry.mean, entry.trimmed, outcome


def _findings(race: "Race") -> Iterator[tuple[str, str]]:
    if race.robust:
        yield (
            "judged on",
            f"{plural(race.validation, 'sample')} as noisy as the training data, so by the trimmed mean",
        )
    for heat in race.heats:
        if heat.disagreeing:
            yield (
                f"step {heat.step}",
                f"the trimmed mean and the mean disagree: {heat.leader} leads by the first, which decides, {heat.disagreeing} by the second",
            )
    for name in race.left_out:
        yield name, f"left out: {race.reasons.get(name, 'its price, or what it needs, was not there')}"
    if race.final and race.winner == race.control:
        from tokenry.verbs._tune.course import items_needed

        needed = items_needed(_decisive(race, race.final))
        if needed and needed > race.validation:
            yield (
                race.final.name,
                f"{plural(race.validation, 'validation sample')} cannot tell it from plain fine-tuning; a difference of this size would "
                f"take about {needed:,}",
            )


def _decisive(race: "Race", entry: "Judgement") -> "Estimate":
    return entry.trimmed if race.robust else entry.mean


def seeds_blocks(seeds: "Seeds") -> Iterator[Block]:
    """The difference seed by seed, and with the variance over seeds and items together."""
    rows: list[tuple[str, Estimate]] = [
        (f"seed {seed}", paired.estimate) for seed, paired in zip(seeds.seeds, seeds.paired, strict=True)
    ]
    rows.append((f"over {len(seeds.seeds)} seeds", seeds.estimate))
    yield Table(
        f"{seeds.name} against {seeds.to}, seed by seed",
        ("seed", Column("difference of held-out NLL", "nats per token", "+,.4f")),
        rows,
        ["The error of a seed is over items; that of all is over seeds and items together."],
    )


def answer_blocks(runs: "list[Run]") -> Iterator[Block]:
    """Held-out answers side by side, those that one run has right and the other wrong first."""
    answered = [run for run in runs if run.answers][:2]
    if not answered:
        return
    questions = range(min(len(run.answers) for run in answered))
    differing = sorted(questions, key=lambda place: len({run.answers[place].right for run in answered}) == 1)
    rows: list[tuple[str | Cell, ...]] = [
        (
            answered[0].answers[place].question,
            *(
                Cell(run.answers[place].answer, "right" if run.answers[place].right else "wrong")
                for run in answered
            ),
        )
        for place in differing[:_ANSWERS]
    ]
    title = "Held-out answers, with the verifier's judgement"
    yield Table(title, ("question", *(run.name for run in answered)), rows, folded=True)
