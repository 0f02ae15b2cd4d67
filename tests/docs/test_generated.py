import base64
import importlib.util
import json
import re

import pytest
import torch

from tests import ROOT
from tokenry.core.errors import UserError

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def generated():
    spec = importlib.util.spec_from_file_location("generated", DOCS / "hooks" / "generated.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(tmp_path):
    (tmp_path / "docs/results").mkdir(parents=True)
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    return tmp_path


def store(path, content):
    path.write_text(json.dumps(content))


def rows(markdown):
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in markdown.splitlines()
        if line.startswith("| ") and "---" not in line
    ]


REPRODUCTION = {
    "slug": "sstoken",
    "verdict": "not shown",
    "headline": "a",
    "shown": 0,
    "of": 1,
    "claims": [{"claim": "a", "paper": "0.6", "measured": 0.4321987, "control": 0.5, "verdict": "not shown"}],
    "settings": {"seeds": [0, 1, 2]},
    "seconds": 61.2,
    "plots": [],
}
RUN = {
    "weighing": "AllTokens()",
    "tokens_learned": 10.0,
    "share_kept": 1.0,
    "steps": 2,
    "seconds_per_step": 0.5,
    "held_out_nll": {"value": 0.33, "standard_error": 0.02, "samples": 90},
}
COMPARISON = {
    "kind": "tune",
    "model": "embedded",
    "data": "demo <b>",
    "created": "2026-11-24",
    "settings": {"seed": 0},
    "environment": {"torch": "2.13.0"},
    "runs": [
        {"name": "full", **RUN},
        {
            "name": "small-loss",
            **RUN,
            "paired": {"to": "full", "difference": -0.05, "standard_error": 0.01, "samples": 90},
        },
    ],
}


@pytest.mark.parametrize(
    "section",
    [
        "capabilities",
        "comparisons",
        "credits",
        "reproductions",
        "gallery",
        "benchmarks",
        "sweep",
        "scalinglaw",
        "regimes",
    ],
)
def test_where_nothing_was_measured_the_page_says_so(generated, root, section):
    assert "Not measured yet" in generated.SECTIONS[section](root)


def test_a_placeholder_becomes_its_section_and_the_prose_stays(generated):
    page = generated.on_page_markdown("before\n<!-- generated: papers -->\nafter")
    assert page.startswith("before")
    assert page.endswith("after")
    assert "2510.18250" in page


def test_the_gallery_has_a_card_for_every_stored_run_and_a_picture_where_one_was_drawn(generated, root):
    store(root / "docs/results/sstoken.json", REPRODUCTION | {"headline": "<b>"})
    store(root / "docs/results/zett.json", REPRODUCTION | {"slug": "zett"})
    (root / "docs/results/zett.png").write_bytes(b"drawn")
    shown = generated.SECTIONS["gallery"](root)
    assert shown.count("<section>") == 2
    assert re.findall(r'src="../(\S+)"', shown) == ["gallery/zett.png"]
    assert "&lt;b&gt;" in shown
    assert "headline not shown; 0 of 1 claim<" in shown
    assert "tokenry reproduce sstoken" in shown


def test_an_unknown_placeholder_fails_the_build(generated):
    with pytest.raises(KeyError):
        generated.on_page_markdown("<!-- generated: nonsense -->")


def test_every_placeholder_in_the_docs_is_known(generated):
    used = {name for page in DOCS.rglob("*.md") for name in generated.PLACEHOLDER.findall(page.read_text())}
    assert used == set(generated.SECTIONS)


def test_a_picture_is_what_the_stored_run_drew(generated, root):
    assert "Not measured yet" in generated.picture(root, "zett")
    (root / "docs/results/zett.png").write_bytes(b"drawn")
    shown = generated.picture(root, "zett")
    assert "Zero-Shot Tokenizer Transfer" in shown
    assert f"base64,{base64.b64encode(b'drawn').decode()}" in shown


def test_every_picture_in_the_docs_is_stored(generated):
    used = {slug for page in DOCS.rglob("*.md") for slug in generated.PICTURE.findall(page.read_text())}
    assert used
    assert all((DOCS / f"results/{slug}.png").is_file() for slug in used)


def test_a_reproduction_shows_each_claim_with_its_verdict(generated, root):
    store(root / "docs/results/sstoken.json", REPRODUCTION)
    markdown = generated.reproductions(root)
    assert rows(markdown)[1] == ["headline: a", "0.6", "0.4322", "0.5", "not shown"]
    assert "LLM Fine-tuning: headline not shown; 0 of 1 claim" in markdown
    assert "[0, 1, 2]" in markdown


def test_a_headline_is_marked_and_a_missing_figure_is_said_to_be_missing(generated, root):
    other = {**REPRODUCTION["claims"][0], "claim": "b", "paper": None, "verdict": "shown"}
    claims = [*REPRODUCTION["claims"], other]
    store(root / "docs/results/sstoken.json", {**REPRODUCTION, "claims": claims, "shown": 1, "of": 2})
    markdown = generated.reproductions(root)
    assert [row[:2] for row in rows(markdown)[1:]] == [["headline: a", "0.6"], ["b", "no such figure"]]
    assert "headline not shown; 1 of 2 claims" in markdown


def test_the_guide_to_decoders_has_the_headlines_that_are_stored_and_names_the_others(generated, root):
    store(root / "docs/results/sift.json", {**REPRODUCTION, "slug": "sift"})
    ratio = {"name": "prefill", "ratio": 0.5, "target": 0.65, "holds": True, "settings": {}}
    store(root / "benchmarks/results/decoding.json", [ratio])
    table = rows(generated.decoders(root))
    assert [row[0] for row in table[1:6]] == list(generated.DECODERS)
    assert table[5][1:] == ["a", "0.4322", "0.5", "not shown"]
    assert {row[4] for row in table[1:5]} == {"not run yet"}
    assert table[-1] == ["prefill", "0.5", "≤ 0.65", "yes"]


def test_what_came_of_the_stored_runs_is_what_the_package_says(generated, root):
    (root / "src/tokenry").mkdir(parents=True)
    for path in (DOCS / "results").glob("*.json"):
        (root / "docs/results" / path.name).write_text(path.read_text())
    generated.store_reproduced(root)
    package = DOCS.parent / "src/tokenry/reproduced.json"
    assert json.loads((root / "src/tokenry/reproduced.json").read_text()) == json.loads(
        package.read_text()
    ), AGAIN


def test_a_comparison_shows_each_run_and_what_its_paired_difference_shows(generated, root):
    store(root / "docs/results/demo.json", COMPARISON)
    markdown = generated.comparisons(root)
    heads, full, small_loss = rows(markdown)
    assert heads[:2] == ["run", "held-out NLL, nats per token"]
    assert full[:2] == ["full<br>AllTokens()", "0.330 ± 0.020<br>n = 90"]
    assert small_loss[2] == "−0.050 ± 0.010<br>lower: shown, n = 90"
    assert "- small-loss: lower than full by 0.050 ± 0.010: shown" in markdown


def test_text_from_a_record_is_escaped(generated, root):
    store(root / "docs/results/demo.json", COMPARISON)
    assert "demo &lt;b&gt;" in generated.comparisons(root)


def test_a_damaged_record_fails_the_build_and_is_named(generated, root):
    store(root / "docs/results/demo.json", {**COMPARISON, "runs": "none"})
    with pytest.raises(UserError, match=r"demo\.json: it is not the record of a run"):
        generated.comparisons(root)


def test_the_scaling_law_is_that_of_the_stored_run(generated):
    reasoning, ocr = rows(generated.scalinglaw(DOCS.parent))[1:]
    assert reasoning == ["reasoning", "0.071", "0.015", "4.70 (4.27 to 5.18)", "7B, visual tokens: 1"]
    assert ocr[-1] == "0.5B, visual tokens: 16"


def test_a_benchmark_shows_what_it_measured_and_the_direction_of_its_ratio(generated, root):
    settings = {"threads": 1, "cpu_seconds": {"ours": 5.953, "theirs": 1234.5}}
    result = {"name": "step time", "ratio": 0.9234, "target": 0.95, "holds": True, "settings": settings}
    faster = {**result, "ratio": 1.6, "target": 1.55, "at_least": True, "settings": {}}
    store(root / "benchmarks/results/sstoken_step.json", [result, {**result, "holds": False}, faster])
    markdown = generated.benchmarks(root)
    assert rows(markdown)[1:] == [
        ["step time", "ours 5.953 s, theirs 1,234 s", "0.9234", "lower", "≤ 0.95", "yes"],
        ["step time", "ours 5.953 s, theirs 1,234 s", "0.9234", "lower", "≤ 0.95", "no"],
        ["step time", "–", "1.6", "higher", "≥ 1.55", "yes"],
    ]
    assert "### A training step of ssToken beside other ways to train\n" in markdown
    assert "python benchmarks/sstoken_step.py --json" in markdown


def test_the_fine_tuning_step_is_the_first_benchmark(generated, root):
    for name in ("bytes", "sstoken_step", "zett"):
        store(root / f"benchmarks/results/{name}.json", [])
    (root / "benchmarks/results/zett.json").unlink()
    assert generated.benchmarks(root).startswith("### A training step of ssToken")


AGAIN = "python docs/hooks/generated.py writes it anew"


def test_the_figures_of_the_readme_are_those_of_the_stored_results(generated):
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert generated.with_figures(readme, DOCS.parent) == readme, AGAIN
    assert readme.count(generated.measured(DOCS.parent)) == 1, AGAIN


def test_a_figure_of_the_front_page_follows_its_stored_result(generated, root):
    for path in (DOCS.parent / "benchmarks/results").glob("*.json"):
        (root / "benchmarks/results" / path.name).write_text(path.read_text().replace("196.85", "42.5"))
    assert generated.measured(root) == generated.measured(DOCS.parent).replace("197 ms", "42 ms")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("token-report", "First,·9·-·9·=·0.·If·present,·this·function"),
        ("rollout", "The·answer·is·1.⏎⏎The·reason·for·this"),
    ],
)
def test_the_pictures_of_tokens_are_those_of_the_stored_runs(generated, name, words):
    draw, stored_run = generated.TOKEN_PICTURES[name]
    picture = (DOCS / f"assets/{name}.svg").read_text(encoding="utf-8")
    assert picture == draw(DOCS / f"results/{stored_run}.json"), AGAIN
    assert len(picture) < 20_000
    assert "".join(re.findall(r'preserve">([^<]*)<', picture)).startswith(words)


def test_the_capability_matrix_has_a_cell_per_test_and_a_dash_where_there_is_none(generated, root):
    cell = {
        "weighing": "SSToken",
        "capability": "packing",
        "status": "yes",
        "test": "tests/x.py::test_packing",
    }
    store(
        root / "docs/results/capabilities.json",
        [cell, {**cell, "weighing": "Rho1", "capability": "ddp", "status": "no"}],
    )
    markdown = generated.capabilities(root)
    assert rows(markdown) == [["weighing", "packing", "ddp"], ["SSToken", "yes", "–"], ["Rho1", "–", "no"]]
    assert "tests/x.py::test_packing" in markdown


def test_the_weighing_that_the_docs_teach_to_write_keeps_the_most_surprising_tokens():
    from tokenry.finetuning import Signals

    page = (DOCS / "write-your-own-weighing.md").read_text()
    namespace = {}
    exec(page.split("```python\n")[1].split("```")[0], namespace)
    signals = Signals(
        labels=torch.tensor([[-100, 5, 6, 7, 8]]),
        segments=torch.zeros(1, 5, dtype=torch.long),
        values={"nll": torch.tensor([[float("nan"), 0.1, 3.0, 0.2, 2.0]])},
    )
    weights = namespace["SurprisingTokens"](share=0.5, dropped_weight=0.1).weigh(signals)
    torch.testing.assert_close(weights, torch.tensor([[0.0, 0.1, 1.0, 0.1, 1.0]]))


def test_a_sweep_is_drawn_with_what_came_of_each_method(generated, root):
    speed = {"images_per_second": 1.0, "images_per_cpu_second": 1.0, "peak_memory_mb": 1.0}
    setting = {
        "name": "tome at 80%",
        "method": "tome",
        "options": {},
        "token_counts": [17, 15],
        "flops": 80,
        "speed": speed,
        "speedup": {"median": 1.2, "lower": 1.1, "upper": 1.3},
        "cpu_speedup": 1.2,
        "reduction_share": 0.1,
        "agreement": {"value": 0.9, "standard_error": 0.1, "samples": 4},
        "finding": "saves 20%",
    }
    record = {
        "kind": "compress vision", "model": "vit <b>", "images": "photos", "number_of_images": 4, "created": "now",
        "agreement_of": "features", "swept": True, "settings": {}, "environment": {},
        "unpatched": {"tokens": 17, "flops": 100, "speed": speed}, "results": [setting],
        "findings": [["tome", "down to 80%"]],
    }  # fmt: skip
    store(root / "docs/results/sweep.json", record)
    markdown = generated.sweep(root)
    assert "### vit &lt;b&gt; on photos" in markdown
    assert "4 images, 17 tokens each" in markdown
    assert markdown.count("<svg") == 2
    assert "- tome: down to 80%" in markdown
    assert "80.0" in markdown


def test_a_map_of_regimes_shows_differences_with_intervals_and_leaves_what_was_not_run_empty(generated, root):
    def cell(regime, weighing, figures):
        return {"regime": regime, "weighing": weighing, "seeds": 3} | dict.fromkeys(
            ("task NLL", "forgetting", "accuracy"), figures
        )

    store(
        root / "docs/results/regimes.json",
        {
            "kind": "regimes",
            "settings": {
                "weighings": {"full": "full", "ssToken": "sstoken"},
                "regimes": {"middle": {}, "no noise": {}},
            },
            "map": [
                cell("middle", "full", {"mean": 1.25}),
                cell("middle", "ssToken", {"mean": 1.3, "difference": 0.05, "low": -0.01, "high": 0.11}),
                cell("no noise", "full", {"mean": 1.1}),
                cell("no noise", "ssToken", None),
            ],
        },
    )
    head, middle, clean = rows(generated.regimes(root).split("???")[0])
    assert head == ["regime", "full (mean)", "ssToken"]
    assert middle == ["middle", "1.250", "+0.050 (-0.010 to +0.110)"]
    assert clean[:2] == ["no noise", "1.100"]
    assert "0." not in clean[2]
