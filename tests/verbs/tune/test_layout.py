"""How a comparison is laid out: the same numbers and words in the terminal, on the page and in the documentation."""

import base64
import hashlib
import re
from pathlib import Path

import pytest

from tests.report.hostile import HOSTILE
from tests.report.page_reader import Page
from tests.verbs.check_verb import in_terminal, too_wide
from tokenry.core.errors import UserError
from tokenry.core.io.files import read_json
from tokenry.core.stats import Estimate, Paired
from tokenry.report.blocks import Figure, Section, Table
from tokenry.report.html import page
from tokenry.report.markdown import markdown
from tokenry.report.writing import written_rows
from tokenry.verbs._against_control import AgainstControl
from tokenry.verbs._tune.layout import comparison_findings
from tokenry.verbs._tune.records import Comparison, Example, ReportToken
from tokenry.verbs.tune import lay_out

from .conftest import make_comparison, run, token


def data_of(comparison):
    return comparison.model_dump()


def drawn(comparison):
    data = data_of(comparison)
    settings = {**data["settings"], **data["environment"]}
    return page("tune", f"{comparison.model} on {comparison.data}", lay_out(data), settings)


def terminal(comparison, width=80):
    return in_terminal(lay_out(data_of(comparison)), width)


def blocks_of(kind, blocks):
    for block in blocks:
        if isinstance(block, Section):
            yield from blocks_of(kind, block.blocks)
        elif isinstance(block, kind):
            yield block


def table_of(comparison):
    return next(blocks_of(Table, lay_out(data_of(comparison))))


def cells_of(table, name):
    place = [column.name for column in table.headings].index(name)
    return [row[place] for row in written_rows(table)]


def paired(difference: float, error: float, samples: int = 90) -> Paired:
    return Paired(to="full", difference=difference, standard_error=error, samples=samples)


@pytest.fixture(scope="module")
def source():
    """The page of a record with everything in it, drawn once."""
    return drawn(make_comparison())


@pytest.fixture(scope="module")
def hostile() -> Comparison:
    tokens = [
        ReportToken(text=text, learnable=True, weight=1.0, token_class=text, signals={"nll": 1.0, text: 2.0})
        for text in HOSTILE
    ]
    runs = [
        run(
            text,
            weighing=text,
            curves=[{"step": 1.0, text: 2.0}],
            share_by_class={text: {"tokens": 2, "kept": 1}},
            histograms={text: {"edges": [0, 1], "kept": [1], "dropped": [1]}},
            paired={"to": text, "difference": 1.0, "standard_error": 0.1, "samples": 9},
        )
        for text in HOSTILE
    ]
    runs[0] = runs[0].model_copy(
        update={"examples": [Example(title=text, tokens=tokens) for text in HOSTILE]}
    )
    everything = "".join(HOSTILE)
    return Comparison(
        model=everything, data=everything, created=everything, settings={text: [text, {text: text}] for text in HOSTILE},
        environment=dict(zip(HOSTILE, HOSTILE, strict=True)), runs=runs,
    )  # fmt: skip


@pytest.fixture(scope="module")
def hostile_source(hostile):
    return drawn(hostile)


def verdict(found):
    compared = AgainstControl("run", found.to, found.estimate, found.verdict, better="lower")
    return compared.sentence("held-out items")


@pytest.mark.parametrize(
    ("difference", "error", "words"),
    [
        (-0.0526, 0.0072, "lower than full by 0.053 ± 0.007: shown"),
        (0.2093, 0.0171, "higher than full by 0.209 ± 0.017: shown"),
        (0.0073, 0.0061, "no difference to full can be told (+0.007 ± 0.006)"),
        (-0.0073, 0.0061, "no difference to full can be told (−0.007 ± 0.006)"),
        (0.0, 0.0, "no difference to full can be told (0.000 ± 0.000)"),
    ],
)
def test_a_verdict_says_in_words_what_the_difference_shows(difference, error, words):
    assert verdict(paired(difference, error)) == words


def test_few_items_need_a_larger_difference_and_very_few_say_nothing():
    assert paired(-0.022, 0.01, samples=90).verdict == "shown"
    assert paired(-0.022, 0.01, samples=9).verdict == "not shown"
    assert {paired(-9.0, 0.01, samples=n).verdict for n in (7, 1)} == {"too few"}
    words = "too few held-out items to say whether it differs from full (−9.000 ± 0.010, n = 7)"
    assert verdict(paired(-9.0, 0.01, samples=7)) == words


def test_a_difference_that_is_not_a_number_is_never_shown():
    assert paired(float("nan"), 0.1).verdict == paired(0.1, float("nan")).verdict == "not shown"


def test_only_compared_runs_have_a_finding(comparison):
    assert [name for name, _ in comparison_findings(comparison)] == ["cleaned", "random"]


def test_a_column_that_no_run_has_is_left_out(comparison, least):
    assert "accuracy" in [column.name for column in table_of(comparison).headings]
    names = ["run", "learned from", "share kept", "steps", "time per step"]
    assert [column.name for column in table_of(least).headings] == names


def test_a_column_has_as_many_decimals_as_its_smallest_error_needs(least):
    least.runs = [
        run("a", held_out_nll=Estimate(value=0.5, standard_error=0.02, samples=9)),
        run("b", held_out_nll=Estimate(value=0.5, standard_error=0.0004, samples=9)),
    ]
    values = [value for value, _ in cells_of(table_of(least), "held-out NLL")]
    assert values == ["0.5000 ± 0.0200", "0.5000 ± 0.0004"]


def test_the_control_is_named_where_its_difference_would_stand(comparison):
    notes = [note for _, note in cells_of(table_of(comparison), "difference to the control")]
    assert notes == ["", "the control", "lower: shown, n = 89", "cannot be told, n = 88"]


def test_a_table_and_its_findings_say_too_few(least):
    least.runs = [run("full"), run("random", paired=paired(-0.5, 0.001, samples=3))]
    notes = [note for _, note in cells_of(table_of(least), "difference to the control")]
    assert notes[1] == "too few to say, n = 3"
    assert "random: too few held-out items" in terminal(least)


NUMBERS = """2.165 ± 0.064 | 0.334 ± 0.017 | 31.1 ± 6.9 | −0.053 ± 0.007 | +0.007 ± 0.006
    n = 90 | n = 89 | n = 88 | n = 45 | 0.139 | 6,312 | 61.3 | 75 | 1.270 | 2,561 | 300 of 400 | 20.5 of 100
    75.0 | 93.6 | plain SFT 80.0%"""


@pytest.mark.parametrize("renderer", ["page", "terminal", "documentation"])
def test_every_number_of_the_record_is_shown(comparison, source, renderer):
    text = {
        "page": lambda: Page(source).text,
        "terminal": lambda: terminal(comparison, 200),
        "documentation": lambda: markdown(lay_out(data_of(comparison))),
    }[renderer]()
    missing = [number for number in re.split(r" \| |\n\s+", NUMBERS) if number not in text]
    assert not missing
    assert "cleaned" in text
    assert "lower than full by 0.053 ± 0.007: shown" in text


def test_settings_and_counts_of_signals_are_on_the_page(source):
    text = Page(source).text
    for number in ("0.00037", "2.13.0", "kept, 308", "dropped, 54"):
        assert number in text


def test_three_runs_fit_a_terminal_of_eighty_columns(comparison):
    assert too_wide(terminal(comparison)) == []


def test_examples_are_on_the_page_and_not_in_the_terminal(comparison):
    comparison.runs = comparison.runs[:1]
    html = Page(drawn(comparison))
    names = [e.attributes["data-name"] for e in html.find("input") if "data-name" in e.attributes]
    assert names == ["NLL", "history NLL", "progress", "prompt attention"]
    spans = html.find("span", inside="map")
    assert [span.text for span in spans] == ["Add:⏎\n", "·seven", "·eight", "·nine"]
    assert [span.classes for span in spans] == [["prompt"], ["kept"], ["dropped"], ["lowered"]]
    assert spans[3].attributes["data-weight"] == "0.1"
    assert spans[1].attributes["data-class"] == "number"
    assert "·seven" not in terminal(comparison)


def test_samples_can_be_searched_and_stand_in_a_plain_list_without_a_script(source):
    html = Page(source)
    (field,) = [element for element in html.find("input") if element.attributes.get("type") == "search"]
    (label,) = [element for element in html.find("label") if "search" in element.classes]
    assert "hidden" in label.attributes, "the script shows the field that it serves"
    assert field.attributes["id"] == "search"
    samples = [element for element in html.find("details") if "sample" in element.classes]
    assert samples
    assert not [sample for sample in samples if "hidden" in sample.attributes]
    assert 'getElementById("search")' in html.find("script")[0].text


def test_long_curves_are_drawn_as_means_and_the_ones_that_matter_come_first(least):
    curves = [{"step": float(s), "grad_norm": 1.0, "loss": float(s)} for s in range(1, 401)]
    least.runs = [run("a", curves=curves)]
    first, second = blocks_of(Figure, lay_out(data_of(least)))
    assert (first.title, second.title) == ("training loss", "grad norm")
    assert len(first.series[0].x) == 80
    assert first.series[0].y[0] == 3.0  # of steps 1 to 5


def test_a_run_that_did_not_log_a_quantity_is_left_out_of_its_chart(least):
    least.runs = [run("a", curves=[{"step": 1.0, "loss": 2.0}]), run("b")]
    (figure,) = blocks_of(Figure, lay_out(data_of(least)))
    assert [series.name for series in figure.series] == ["a"]


def test_the_least_record_gives_a_page_without_empty_sections(least):
    html = Page(drawn(least))
    assert [heading.text for heading in html.find("h2")] == ["Outcome"]
    assert "Not recorded: held-out NLL," in html.text
    for word in ("None", "nan", "Undefined"):
        assert word not in html.text


def test_a_comparison_without_runs_still_gives_a_page(least):
    least.runs = []
    assert "No run is recorded" in Page(drawn(least)).text


@pytest.mark.parametrize(
    "field",
    [
        *("untrained_nll", "held_out_nll", "accuracy", "bits_per_byte", "peak_memory_mb", "paired"),
        *("curves", "examples"),
    ],
)
def test_any_field_may_be_missing_from_any_run(comparison, field):
    empty = [] if field in ("curves", "examples") else None
    if field == "untrained_nll":
        comparison.untrained_nll = None
    comparison.runs = [
        each.model_copy(update={field: empty} if number % 2 else {})
        for number, each in enumerate(comparison.runs)
    ]
    assert terminal(comparison)


def test_values_that_are_not_finite_leave_gaps_and_no_broken_drawing(comparison):
    broken = comparison.runs[0].model_copy(
        update={
            "curves": [{"step": 1.0, "loss": float("nan")}, {"step": 2.0, "loss": float("inf")}],
            "bits_per_byte": float("nan"),
            "examples": [
                Example(title="x", tokens=[token("a", 1.0, nll=float("nan")), token("b", 1.0, nll=1.0)])
            ],
        }
    )
    comparison.runs = [broken]
    blocks = lay_out(comparison.model_dump())
    html = Page(page("tune", "t", blocks, {}))
    written = [
        " ".join(e.attributes.values()) for e in html.elements if e.tag in ("path", "rect", "text", "span")
    ]
    assert not [attributes for attributes in written if re.search(r"\b(nan|inf)\b", attributes)]


def test_a_page_refers_to_nothing_outside_itself(source, hostile_source):
    for written in (source, hostile_source):
        html = Page(written)
        assert not html.find("script", inside=None)[1:], "one script only"
        for element in html.elements:
            assert element.tag not in ("iframe", "object", "embed", "img", "base", "audio", "video", "form")
            assert not {"src", "srcset", "action", "data", "poster", "srcdoc"} & set(element.attributes)
            assert element.attributes.get("href", "#").startswith(("#", "data:,"))
            assert element.attributes.get("xlink:href", "#").startswith("#")
            assert "url(" not in element.attributes.get("style", "")
        for style in html.find("style"):
            assert not re.search(r"url\(|@import|@font-face|//[a-z]", style.text)


def test_a_page_forbids_every_request_and_every_script_but_its_own(source):
    html = Page(source)
    (policy,) = [e.attributes["content"] for e in html.find("meta") if "http-equiv" in e.attributes]
    (script,) = html.find("script")
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_nothing_from_data_becomes_markup(source, hostile_source):
    plain, attacked = Page(source), Page(hostile_source)
    assert {e.tag for e in attacked.elements} <= {e.tag for e in plain.elements}
    names = {name for element in attacked.elements for name in element.attributes}
    assert not [name for name in names if name.startswith("on")]
    assert "<script>alert(1)</script>" in attacked.text
    assert "{{ 7 * 7 }}{% raw %}" in attacked.text


def test_a_page_and_a_terminal_hold_no_harmful_character(hostile, hostile_source):
    harmful = "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e]"
    for source in (hostile_source, terminal(hostile)):
        source.encode("utf-8")
        assert not re.search(harmful, source)


def test_the_same_record_gives_the_same_bytes(comparison, source):
    assert drawn(Comparison.model_validate(comparison.model_dump())) == source


def test_every_anchor_has_a_target_and_every_map_can_be_reached(source):
    html = Page(source)
    ids = [e.attributes["id"] for e in html.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    assert {e.attributes["href"][1:] for e in html.find("a")} <= set(ids)
    assert all(e.attributes.get("tabindex") == "0" for e in html.elements if "map" in e.classes)


def test_twenty_long_examples_stay_small(least):
    signals = dict.fromkeys(("nll", "history_nll", "progress", "prompt_attention", "entropy"), 1.2345)
    word = ReportToken(text=" word", learnable=True, weight=0.1, token_class="number", signals=signals)
    least.runs[0].examples = [Example(title=str(number), tokens=[word] * 1000) for number in range(20)]
    assert len(drawn(least).encode()) < 3_000_000


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_reaches_wcag_aa_contrast(least, theme):
    style = Page(drawn(least)).find("style")[0].text
    found = re.findall(r"--([a-z0-9]+): light-dark\((#\w{6}), (#\w{6})\)", style)
    colours = {name: pair[theme] for name, *pair in found}
    text_on_paper = ["ink", "quiet", "accent", "s0", "s1", "s2", "s3", "s4", "s5"]
    pairs = [(name, "paper") for name in text_on_paper] + [("ink", "warm"), ("ink", "cool")]
    for text, ground in pairs:
        dark, light = sorted((_luminance(colours[text]), _luminance(colours[ground])))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{text} on {ground}"


def test_a_record_of_an_older_version_is_drawn():
    stored = read_json(Path(__file__).with_name("record_0_1.json"))
    assert "held-out NLL" in in_terminal(lay_out(stored))
    assert too_wide(in_terminal(lay_out(stored))) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": None}, "is not the record of a run (model: Input should be a valid string)"),
        ({"runs": [{}]}, "is not the record of a run (runs.0.name: Field required)"),
        ({"runs": [{"names": 1}]}, "is not the record of a run"),
    ],
)
def test_what_is_no_record_is_refused(least, change, words):
    with pytest.raises(UserError, match=re.escape(words)):
        lay_out({**data_of(least), **change})
