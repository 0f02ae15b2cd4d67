"""Puts measured figures into the pages: none is typed by hand.

A page holds `<!-- generated: NAME -->`; the hook replaces it by a table made from what the programs stored:
    capabilities   docs/results/capabilities.json   written by the tests (--store-capabilities)
    comparisons    docs/results/*.json              records of `tokenry tune`
    reproductions  docs/results/*.json              records of `tokenry reproduce`
    benchmarks     benchmarks/results/*.json        written by `make bench`
    papers         tokenry.papers                   the catalogue
    scalinglaw     docs/results/one-visual-token.json   fits of the published scores of vision-language models
    regimes        docs/results/regimes.json        written by experiments/regimes.py
    sweep          docs/results/*.json              records of `tokenry compress vision --sweep`, drawn
`<!-- picture: SLUG -->` is replaced by docs/results/SLUG.png, which the stored run of that recipe drew.
Where nothing is stored yet, the page says so.
"""

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tokenry.compression.vision.vlm_scaling import (
    PUBLISHED_SIZES,
    PUBLISHED_TOKENS,
    ScalingFit,
    compute_optimal,
)
from tokenry.core.io.files import read_json, write_json
from tokenry.papers import catalogue, outcome
from tokenry.report.blocks import Block, Section
from tokenry.report.markdown import folded, markdown_settings
from tokenry.report.markdown import markdown as written
from tokenry.verbs.compress import vision
from tokenry.verbs.report import stored_result

ROOT = Path(__file__).parents[2]
SCALING_BUDGET = 2e10
PLACEHOLDER = re.compile(r"<!-- generated: ([a-z]+) -->")
PICTURE = re.compile(r"<!-- picture: ([a-z0-9-]+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the placeholders of one page (called by mkdocs)."""
    drawn = PICTURE.sub(lambda match: picture(ROOT, match[1]), markdown)
    return PLACEHOLDER.sub(lambda match: SECTIONS[match[1]](ROOT), drawn)


def picture(root: Path, slug: str) -> str:
    """Show what the stored run of a recipe drew."""
    path = root / f"docs/results/{slug}.png"
    if not path.exists():
        return missing(f"pictures of {slug}", f"tokenry reproduce {slug}")
    title = next(paper.title for paper in catalogue() if paper.slug == slug)
    encoded = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(title)}: what tokenry reproduce {slug} drew" src="data:image/png;base64,{encoded}">'


def capabilities(root: Path) -> str:
    """One row per weighing, one column per capability; each cell is what its test said."""
    path = root / "docs/results/capabilities.json"
    if not path.exists():
        return missing("capabilities", "pytest tests/finetuning --store-capabilities")
    cells = read_json(path)
    names = list(dict.fromkeys(cell["capability"] for cell in cells))
    weighings = list(dict.fromkeys(cell["weighing"] for cell in cells))
    status = {(cell["weighing"], cell["capability"]): cell["status"] for cell in cells}
    rows = ([weighing, *(status.get((weighing, name), "–") for name in names)] for weighing in weighings)
    tests = (f"- {cell['weighing']} × {cell['capability']}: `{cell['test']}`" for cell in cells)
    return table(["weighing", *names], rows) + details("The test behind each cell", "\n".join(tests))


def comparisons(root: Path) -> str:
    """Every stored `tokenry tune` record: its findings, every run beside its control, and its charts."""
    paths = stored(root, lambda record: record.get("kind") == "tune")
    if not paths:
        return missing("comparisons of weighings", "tokenry tune --compare full,random")
    results = (stored_result(path) for path in paths)
    return "\n".join(comparison_section(result.as_json, result.blocks) for result in results)


def comparison_section(record: dict[str, Any], blocks: Sequence[Block]) -> str:
    """Head a comparison by what was trained on what; the same blocks as in the report."""
    head = f"### {escape(record['title'])}\n"
    settings = {"created": record["created"], **record["settings"], **record["environment"]}
    seen = next(n for n, block in enumerate(blocks, 1) if isinstance(block, Section))
    more = folded("Curves, signals and token classes", written(blocks[seen:], level=5))
    return head + written(blocks[:seen]) + more + markdown_settings(settings)


def reproductions(root: Path) -> str:
    """One table per reproduced paper: each claim, the paper's figure, ours, the control's, and the verdict."""
    records = [read_json(path) for path in stored(root, lambda record: "claims" in record)]
    if not records:
        return missing("reproductions", "tokenry reproduce SLUG")
    return "\n".join(reproduction_section(record) for record in records)


def reproduction_section(record: dict[str, Any]) -> str:
    """Head a reproduction by the paper and what came of it, and end it with every setting."""
    paper = next(paper for paper in catalogue() if paper.slug == record["slug"])
    keys = ["claim", "paper", "measured", "control", "verdict"]
    found = reproduced(record)
    # Records of older versions have no headline: their verdict is that of all claims together.
    claims = [dict(claim) for claim in record["claims"]]
    if "headline" in record:
        claims[0]["claim"] = f"**Headline:** {claims[0]['claim']}"
    return (
        f"### {paper.title}: {outcome(**found)}\n\n"
        f"[arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv}); "
        f"`tokenry reproduce {paper.slug}`, {record['seconds']:.0f} s.\n\n"
        + table(keys, ([figure(claim[key]) for key in keys] for claim in claims))
        + settings_details(record["settings"])
    )


def reproduced(record: dict[str, Any]) -> dict[str, Any]:
    """What came of a stored reproduction: the verdict of its headline, the claims shown, and how many there are."""
    shown = sum(claim["verdict"] == "shown" for claim in record["claims"])
    return {"verdict": record["verdict"], "shown": shown, "of": len(record["claims"])}


def store_reproduced(root: Path = ROOT) -> None:
    """Write what came of all stored reproductions into the package, for `tokenry papers` and `tokenry reproduce --list`."""
    records = [read_json(path) for path in stored(root, lambda record: "claims" in record)]
    found = {record["slug"]: reproduced(record) for record in records}
    write_json(root / "src/tokenry/reproduced.json", dict(sorted(found.items())))


def benchmarks(root: Path) -> str:
    """One table per benchmark script: the ratio to the peer, the target, and whether it holds."""
    paths = sorted((root / "benchmarks/results").glob("*.json"))
    if not paths:
        return missing("benchmarks", "make bench")
    return "\n".join(benchmark_section(path.stem, read_json(path)) for path in paths)


def benchmark_section(script: str, results: Sequence[dict[str, Any]]) -> str:
    """Head a benchmark by the command that measured it, and end it with every setting."""
    rows = (
        [
            result["name"],
            figure(result["ratio"]),
            ("≥ " if result.get("at_least") else "≤ ") + figure(result["target"]),
            "yes" if result["holds"] else "no",
        ]
        for result in results
    )
    settings = {result["name"]: result["settings"] for result in results}
    return (
        f"### {script}\n\n`python benchmarks/{script}.py --json`\n\n"
        + table(["what", "ratio", "target", "holds"], rows)
        + settings_details(settings)
    )


def papers(_: Path) -> str:
    """The catalogue, with what can be reproduced today."""
    rows = (
        [
            f"{paper.number:02d}",
            f"`{paper.slug}`",
            f"[{escape(paper.title)}](https://arxiv.org/abs/{paper.arxiv})",
            f"`{paper.module}`",
            "yes" if paper.available else "not yet",
            paper.outcome,
        ]
        for paper in catalogue()
    )
    return table(["no.", "slug", "paper", "module", "available", "stored run"], rows)


def scalinglaw(root: Path) -> str:
    """The stored fits of the paper's two tables, and the best choice at one budget."""
    path = root / "docs/results/one-visual-token.json"
    if not path.exists():
        return missing("fits of the scaling law", "tokenry reproduce one-visual-token")
    rows = []
    for name, fitted in read_json(path)["settings"]["fits"].items():
        fit = ScalingFit(*(fitted[constant] for constant in ("A", "alpha", "beta", "D")))
        best = compute_optimal(fit, PUBLISHED_SIZES, PUBLISHED_TOKENS, SCALING_BUDGET)
        assert best is not None
        low, high = fitted["ci"]["alpha_beta_ratio"]
        ratio = f"{fit.alpha_beta_ratio:.2f} ({low:.2f} to {high:.2f})"
        choice = f"{best.n_billion:g}B, visual tokens: {best.visual_tokens}"
        rows.append([name, f"{fit.alpha:.3f}", f"{fit.beta:.3f}", ratio, choice])
    heads = [
        "table",
        "alpha",
        "beta",
        "alpha / beta (95 %)",
        f"best at {SCALING_BUDGET:.0e} FLOPs, text cached",
    ]
    return table(heads, rows)


def sweep(root: Path) -> str:
    """Every stored sweep: charts of what is left against FLOPs and against measured speed, what came of each method, and every setting."""
    paths = stored(root, lambda record: record.get("kind") == "compress vision" and bool(record.get("swept")))
    if not paths:
        return missing("sweeps", "tokenry compress vision --sweep --pictures 0")
    return "\n".join(sweep_section(read_json(path)) for path in paths)


def sweep_section(record: dict[str, Any]) -> str:
    """Head a sweep by model and images."""
    head = f"### {escape(record['model'])} on {escape(record['images'])}\n"
    settings = markdown_settings({**record["settings"], **record["environment"]})
    return head + written(vision.lay_out(record)) + settings


def regimes(root: Path) -> str:
    """The map of experiments/regimes.py: differences to plain fine-tuning, regimes in rows and weighings in columns."""
    path = root / "docs/results/regimes.json"
    if not path.exists():
        return missing("regimes", "python experiments/regimes.py --data FOLDER")
    record = read_json(path)
    control, *others = record["settings"]["weighings"]
    cells = {(cell["regime"], cell["weighing"]): cell for cell in record["map"]}

    def one_map(metric: str) -> str:
        rows = (
            [regime, regime_cell(cells[regime, control], metric)]
            + [regime_cell(cells[regime, weighing], metric) for weighing in others]
            for regime in record["settings"]["regimes"]
        )
        return table(["regime", f"{control} (mean)", *others], rows)

    return (
        "Difference in held-out NLL to plain fine-tuning on the same samples, nats per token, with its 95 % interval over seeds "
        "(below 0: better). An empty cell was not run yet.\n\n"
        + one_map("task NLL")
        + details("Forgetting: the same on text that was not trained on", one_map("forgetting"))
        + details("Accuracy of generated answers", one_map("accuracy"))
        + settings_details(record["settings"])
    )


def regime_cell(cell: dict[str, Any], metric: str) -> str:
    """A difference with its interval, or the mean of the control; empty where nothing was run."""
    found = cell[metric]
    if found is None:
        return ""
    if "difference" not in found:
        return f"{found['mean']:.3f}"
    interval = f" ({found['low']:+.3f} to {found['high']:+.3f})" if "low" in found else ", one seed"
    return f"{found['difference']:+.3f}{interval}"


SECTIONS: dict[str, Callable[[Path], str]] = {
    "capabilities": capabilities,
    "comparisons": comparisons,
    "reproductions": reproductions,
    "benchmarks": benchmarks,
    "papers": papers,
    "scalinglaw": scalinglaw,
    "regimes": regimes,
    "sweep": sweep,
}


def stored(root: Path, wanted: Callable[[dict[str, Any]], bool]) -> list[Path]:
    """Find the stored records of one kind, in the order of their names."""
    found = []
    for path in sorted((root / "docs/results").glob("*.json")):
        content = read_json(path)
        if isinstance(content, dict) and wanted(content):
            found.append(path)
    return found


def missing(what: str, command: str) -> str:
    """Say plainly that nothing was measured yet."""
    return f'!!! info "Not measured yet"\n    No {what} are stored in this version. `{command}` makes them.\n'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return (
        "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        + "\n"
    )


def details(title: str, markdown: str) -> str:
    """Fold away what most readers skip."""
    indented = "\n".join(f"    {line}" for line in markdown.splitlines())
    return f'\n??? note "{title}"\n{indented}\n'


def settings_details(settings: dict[str, Any]) -> str:
    """Fold away the settings, one per line."""
    return details("Settings", "\n".join(f"- {escape(key)}: `{value}`" for key, value in settings.items()))


def figure(value: str | float | None) -> str:
    """Write a figure; text is escaped."""
    if value is None:
        return "no such figure"
    return escape(value, quote=False) if isinstance(value, str) else f"{value:.4g}"


if __name__ == "__main__":
    store_reproduced()
