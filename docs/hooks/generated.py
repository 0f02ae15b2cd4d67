"""Puts measured figures into the pages: none is typed by hand.

A page holds `<!-- generated: NAME -->`; the hook replaces it by a table made from what the programs stored:
    capabilities   docs/results/capabilities.json   written by the tests (--store-capabilities)
    comparisons    docs/results/*.json              records of `tokenry tune`
    credits        docs/results/*.json              records of `tokenry rl`
    overview       docs/results/*.json              outcome and time of every reproduction
    reproductions  docs/results/*.json              records of `tokenry reproduce`
    decoders       docs/results/*.json              headlines of the decoders' reproductions, and their benchmarks
    benchmarks     benchmarks/results/**/*.json     written by `make bench` and `make bench-gpu`
    measured       the same                         three of them, for the front page
    papers         tokenry.papers                   the catalogue
    gallery        docs/results/*.json and *.png    one card a system
    scalinglaw     docs/results/one-visual-token.json   fits of the published scores of vision-language models
    regimes        docs/results/regimes.json        written by experiments/regimes.py
    sweep          docs/results/*.json              records of `tokenry compress vision --sweep`, drawn
`<!-- picture: SLUG -->` is replaced by docs/results/SLUG.png, which the stored run of that recipe drew.
Where nothing is stored yet, the page says so. `python docs/hooks/generated.py` writes what else is made from stored results: the figures
of the README, the pictures of tokens, and what came of the reproductions, for the package.
"""

import ast
import base64
import re
import sys
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tokenry.cli import reproduce
from tokenry.compression.vision.published_scaling import PUBLISHED_SIZES, PUBLISHED_TOKENS
from tokenry.compression.vision.vlm_scaling import ScalingFit, compute_optimal
from tokenry.core.io.files import atomic_write, read_json, write_json
from tokenry.papers import catalogue, outcome
from tokenry.recipes.kit.overview import overview
from tokenry.report.blocks import Block, Column, Section, Table
from tokenry.report.markdown import appendix, folded, markdown_settings, markdown_table
from tokenry.report.markdown import markdown as written
from tokenry.verbs.compress import vision
from tokenry.verbs.report import stored_result

sys.path.insert(0, str(Path(__file__).parent))
from gallery import gallery, picture_path
from token_pictures import rollout_picture, sample_picture

ROOT = Path(__file__).parents[2]
SCALING_BUDGET = 2e10
FIRST_BENCHMARK = "sstoken_step"
UNITS = {
    "megabytes": "MB",
    "cpu_seconds": "s",
    "cpu_milliseconds": "ms",
    "milliseconds": "ms",
    "gigabytes": "GB",
    "cpu_seconds_per_item": "s per item",
    "cpu_milliseconds_per_layer": "ms per layer",
    "microseconds_per_token": "µs per token",
    "answers_per_second": "answers per second",
}
"""How benchmarks name the values behind a ratio, and their units."""
HIGHLIGHTS = (
    (
        FIRST_BENCHMARK,
        "step time, bfloat16, 1 thread: ssToken / TRL nll",
        "CPU time of a fine-tuning step (ssToken, SmolLM2-135M, 2 × 512 tokens, bfloat16)",
        "ssToken",
        "TRL nll",
        "times the time",
    ),
    (
        FIRST_BENCHMARK,
        "peak memory above the model, bfloat16: ssToken / TRL nll",
        "Peak memory of that step, above the model itself",
        "ssToken",
        "TRL nll",
        "times the memory",
    ),
    (
        "vision_reduction",
        "throughput, ToMe r=13, float32, 1 thread: patched / unpatched",
        "CPU time of eight images through a ViT-S (ToMe, 42 % fewer multiply-adds)",
        "ToMe r=13",
        "unpatched",
        "times the throughput",
    ),
    (
        "bytes",
        "the first byte after a prompt: genlm-bytes / ByteLM, CPU time",
        "CPU time to the exact probabilities of the first byte after a prompt (SmolLM2-135M)",
        "ByteLM",
        "genlm-bytes",
        "times as fast",
    ),
)
"""Stored measurements on the front page: script, name, words, and the the names of our value and of the peer's, and what the ratio says."""
DECODERS = ("cascades", "r2r", "multi-token", "byte-probabilities", "sift")
"""The decoders of the guide, by the slugs of their papers."""
DECODER_BENCHMARKS = ("decoding", "routing", "multi_token", "cascades", "bytes")
TOKEN_PICTURES = {
    "token-report": (sample_picture, "tune-demo"),
    "rollout": (rollout_picture, "rl-demo"),
}
"""Pictures of tokens in docs/assets: what draws them, and the stored run that they show."""
FIGURES = re.compile(r"(<!-- measured -->\n).*?(<!-- /measured -->)", re.S)
PLACEHOLDER = re.compile(r"<!-- generated: ([a-z]+) -->")
PICTURE = re.compile(r"<!-- picture: ([a-z0-9-]+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the placeholders of one page (called by mkdocs)."""
    drawn = PICTURE.sub(lambda match: picture(ROOT, match[1]), markdown)
    return PLACEHOLDER.sub(lambda match: SECTIONS[match[1]](ROOT), drawn)


def picture(root: Path, slug: str) -> str:
    """Show what the stored run of a recipe drew."""
    path = picture_path(root, slug)
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
    rows = [(weighing, *(status.get((weighing, name)) for name in names)) for weighing in weighings]
    tests = (f"- {cell['weighing']} × {cell['capability']}: `{cell['test']}`" for cell in cells)
    return markdown_table(Table("", ("weighing", *names), rows)) + appendix(
        "The test behind each cell", "\n".join(tests)
    )


def comparisons(root: Path) -> str:
    """Every stored `tokenry tune` record: its findings, every run beside its control, and its charts."""
    return runs_side_by_side(root, "tune", "comparisons of weighings", "tokenry tune --compare full,random")


def credit_runs(root: Path) -> str:
    """Every stored `tokenry rl` record, likewise."""
    return runs_side_by_side(root, "rl", "runs with credit rules", "tokenry rl")


def runs_side_by_side(root: Path, kind: str, what: str, command: str) -> str:
    """The stored records of one verb, or the command that makes them."""
    paths = stored(root, lambda record: record.get("kind") == kind)
    if not paths:
        return missing(what, command)
    results = (stored_result(path) for path in paths)
    return "\n".join(comparison_section(result.as_json, result.blocks) for result in results)


def comparison_section(record: dict[str, Any], blocks: Sequence[Block]) -> str:
    """Head a comparison by what was trained on what; the same blocks as in the report."""
    head = f"### {escape(record['title'])}\n"
    settings = {"created": record["created"], **record["settings"], **record["environment"]}
    seen = next(n for n, block in enumerate(blocks, 1) if isinstance(block, Section))
    titles = ", ".join(block.title for block in blocks[seen:] if isinstance(block, Section))
    more = folded(titles, written(blocks[seen:], level=5))
    return head + written(blocks[:seen]) + more + markdown_settings(settings)


def reproductions(root: Path) -> str:
    """One table per reproduced paper: each claim, the paper's figure, ours, the control's, and the verdict."""
    records = [read_json(path) for path in stored(root, lambda record: "claims" in record)]
    if not records:
        return missing("reproductions", "tokenry reproduce SLUG")
    return "\n".join(reproduction_section(record) for record in records)


def reproduction_overview(root: Path) -> str:
    """What came of every paper, and how long it took."""
    records = {path.stem: read_json(path) for path in stored(root, lambda record: "claims" in record)}
    made = overview({paper.slug: records.get(paper.slug, {}) for paper in catalogue() if paper.available})
    return f"{made.title}\n\n{markdown_table(made)}"


def reproduction_section(record: dict[str, Any]) -> str:
    """Head a reproduction by the paper and what came of it, and end it with every setting."""
    paper = next(paper for paper in catalogue() if paper.slug == record["slug"])
    (table,) = reproduce.lay_out(record)
    return (
        f"### {paper.title}: {outcome(**reproduced(record))}\n\n"
        f"[arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv}); `tokenry reproduce {paper.slug}`\n\n"
        + markdown_table(table)
        + markdown_settings(record["settings"])
    )


def decoders(root: Path) -> str:
    """The headline of each decoder's stored run, and the ratios that were measured beside peers and controls."""
    rows = []
    for slug in DECODERS:
        path = root / f"docs/results/{slug}.json"
        claim = read_json(path)["claims"][0] if path.exists() else None
        if claim is None:
            rows.append((slug, None, None, None, "not run yet"))
        else:
            rows.append((slug, *(claim[name] for name in ("claim", "measured", "control", "verdict"))))
    ratios = [
        (result["name"], result["ratio"], f"{'≥' if result.get('at_least') else '≤'} {result['target']:g}", "yes" if result["holds"] else "no")
        for script in DECODER_BENCHMARKS
        if (path := root / f"benchmarks/results/{script}.json").exists()
        for result in read_json(path)
    ]  # fmt: skip
    headlines = markdown_table(Table("", ("decoder", "headline", "measured", "beside it", "verdict"), rows))
    speed = markdown_table(Table("", ("what", Column("ratio"), "target", "holds"), ratios)) if ratios else ""
    return headlines + speed


def reproduced(record: dict[str, Any]) -> dict[str, Any]:
    """What came of a stored reproduction: the verdict of its headline, the claims shown, and how many there are."""
    return {name: record[name] for name in ("verdict", "shown", "of")}


def store_reproduced(root: Path = ROOT) -> None:
    """Write what came of all stored reproductions into the package, for `tokenry papers` and `tokenry reproduce --list`."""
    records = [read_json(path) for path in stored(root, lambda record: "claims" in record)]
    found = {record["slug"]: reproduced(record) for record in records}
    write_json(root / "src/tokenry/reproduced.json", dict(sorted(found.items())))


def measured(root: Path) -> str:
    """What three comparisons with a peer measured, for the front page and the README."""
    if not (root / f"benchmarks/results/{HIGHLIGHTS[0][0]}.json").exists():
        return missing("benchmarks", "make bench")
    rows = [highlight(root, *entry) for entry in HIGHLIGHTS]
    return markdown_table(Table("", ("what", "tokenry", "beside it", "ratio"), rows))


def highlight(
    root: Path, script: str, name: str, what: str, ours: str, theirs: str, comparison: str
) -> tuple[str, str, str, str]:
    """One row: a measurement by its name in a stored benchmark, our value and the peer's."""
    stored_results = read_json(root / f"benchmarks/results/{script}.json")
    result = next(result for result in stored_results if result["name"] == name)
    values, unit = measurement(result["settings"])
    ratio = result["ratio"]
    spec = ",.0f" if values[theirs] >= 100 else ",.2f"
    mine, peer = (f"{values[side]:{spec}} {unit}" for side in (ours, theirs))
    return what, mine, f"{peer} ({theirs})", f"{ratio:.{0 if ratio >= 10 else 2}f} {comparison}"


def benchmarks(root: Path) -> str:
    """One table per benchmark script: what it measured beside a peer, the ratio, its direction, its target, and whether it holds."""
    folder = root / "benchmarks/results"
    found = {
        path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.json")
    }  # of a GPU: gpu/NAME
    if not found:
        return missing("benchmarks", "make bench")
    scripts = sorted(found, key=lambda script: ("/" in script, script != FIRST_BENCHMARK, script))
    return "\n".join(benchmark_section(script, read_json(found[script])) for script in scripts)


def benchmark_section(script: str, results: Sequence[dict[str, Any]]) -> str:
    """Head a benchmark by what it compares, and end it with every setting."""
    about = _first_line(ROOT / f"benchmarks/{script}.py")
    rows = [
        (
            result["name"],
            written_measurement(result["settings"]),
            result["ratio"],
            "higher" if result.get("at_least") else "lower",
            f"{'≥' if result.get('at_least') else '≤'} {result['target']:g}",
            "yes" if result["holds"] else "no",
        )
        for result in results
    ]
    columns = ("what", "measured", Column("ratio"), "better", "target", "holds")
    settings = {result["name"]: result["settings"] for result in results}
    heading = re.split("[:,] ", about.rstrip("."), maxsplit=1)[0]
    return (
        f"### {heading}\n\n{about} `python benchmarks/{script}.py --json`\n\n"
        + markdown_table(Table("", columns, rows))
        + markdown_settings(settings)
    )


def measurement(settings: dict[str, Any]) -> tuple[dict[str, float], str]:
    """The values behind a ratio and their unit; none where the benchmark stored no plain ones."""
    for name, unit in UNITS.items():
        values = settings.get(name)
        if isinstance(values, dict) and all(isinstance(value, int | float) for value in values.values()):
            return values, unit
    return {}, ""


def written_measurement(settings: dict[str, Any]) -> str | None:
    """The values behind a ratio, in words."""
    values, unit = measurement(settings)
    return ", ".join(f"{name} {value:,.4g} {unit}" for name, value in values.items()) or None


def _first_line(script: Path) -> str:
    return (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").partition("\n\n")[0]


def papers(_: Path) -> str:
    """The catalogue, with what can be reproduced today."""
    lines = (
        f"| {paper.number:02d} | `{paper.slug}` | [{escape(paper.title)}](https://arxiv.org/abs/{paper.arxiv}) "
        f"| {paper.module and f'`{paper.module}`'} | {paper.outcome or 'no recipe yet'} |\n"
        for paper in catalogue()
    )
    return "| no. | slug | paper | module | stored run |\n| --- | --- | --- | --- | --- |\n" + "".join(lines)


def cards(root: Path) -> str:
    """The gallery, or the command that begins it."""
    return gallery(root) or missing("reproductions", "tokenry reproduce SLUG")


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
        rows.append((name, f"{fit.alpha:.3f}", f"{fit.beta:.3f}", ratio, choice))
    heads = (
        "table",
        "alpha",
        "beta",
        "alpha / beta (95 %)",
        f"best at {SCALING_BUDGET:.0e} FLOPs, text cached",
    )
    return markdown_table(Table("", heads, rows))


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
        return markdown_table(Table("", ("regime", f"{control} (mean)", *others), list(rows)))

    return (
        "Difference in held-out NLL to plain fine-tuning on the same samples, nats per token, with its 95 % interval over seeds "
        "(below 0: better). An empty cell was not run yet.\n\n"
        + one_map("task NLL")
        + folded("Forgetting: the same on text that was not trained on", one_map("forgetting"))
        + folded("Accuracy of generated answers", one_map("accuracy"))
        + markdown_settings(record["settings"])
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
    "credits": credit_runs,
    "reproductions": reproductions,
    "overview": reproduction_overview,
    "decoders": decoders,
    "benchmarks": benchmarks,
    "measured": measured,
    "papers": papers,
    "gallery": cards,
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


def with_figures(readme: str, root: Path) -> str:
    """A README with its measured figures written anew."""
    return FIGURES.sub(lambda match: f"{match[1]}\n{measured(root)}\n{match[2]}", readme)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    store_reproduced()
    _write(ROOT / "README.md", with_figures((ROOT / "README.md").read_text(encoding="utf-8"), ROOT))
    for name, (draw, stored_run) in TOKEN_PICTURES.items():
        _write(ROOT / f"docs/assets/{name}.svg", draw(ROOT / f"docs/results/{stored_run}.json"))
