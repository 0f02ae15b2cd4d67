import base64
import hashlib
import re
import time

import pytest

from tokenry.core.records import Comparison, Example, ReportToken
from tokenry.report import render_report

from .conftest import run, token
from .hostile import HOSTILE
from .page_reader import Page


@pytest.fixture
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
    settings = {text: [text, {text: text}] for text in HOSTILE}
    everything = "".join(HOSTILE)
    return Comparison(
        model=everything, data=everything, created=everything, settings=settings,
        environment=dict(zip(HOSTILE, HOSTILE, strict=True)), runs=runs,
    )  # fmt: skip


def pages(comparison: Comparison) -> list[str]:
    return [render_report(comparison)]


def test_a_page_refers_to_nothing_outside_itself(comparison, hostile):
    for source in pages(comparison) + pages(hostile):
        page = Page(source)
        assert not page.find("script", inside=None)[1:], "one script only"
        for element in page.elements:
            assert element.tag not in ("iframe", "object", "embed", "img", "base", "audio", "video", "form")
            assert not {"src", "srcset", "action", "data", "poster", "xlink:href", "srcdoc"} & set(
                element.attributes
            )
            assert element.attributes.get("href", "#").startswith(("#", "data:,"))
            assert "url(" not in element.attributes.get("style", "")
        for style in page.find("style"):
            assert not re.search(r"url\(|@import|@font-face|//[a-z]", style.text)


def test_a_page_forbids_every_request_and_every_script_but_its_own(comparison):
    page = Page(render_report(comparison))
    (policy,) = [e.attributes["content"] for e in page.find("meta") if "http-equiv" in e.attributes]
    (script,) = page.find("script")
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_nothing_from_data_becomes_markup(comparison, hostile):
    plain, attacked = Page(render_report(comparison)), Page(render_report(hostile))
    assert {e.tag for e in attacked.elements} <= {e.tag for e in plain.elements}
    known = {name for element in plain.elements for name in element.attributes}
    assert {name for element in attacked.elements for name in element.attributes} <= known
    assert not [name for name in known if name.startswith("on")]
    assert "<script>alert(1)</script>" in attacked.text
    assert "{{ 7 * 7 }}{% raw %}" in attacked.text


def test_a_page_always_encodes_and_holds_no_harmful_character(hostile):
    for source in pages(hostile):
        source.encode("utf-8")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e]", source)


def test_every_token_stands_once_in_its_place(example, comparison):
    comparison.runs = comparison.runs[:1]
    spans = Page(render_report(comparison)).find("span", inside="map")
    assert [span.text for span in spans] == ["Add:⏎\n", "·seven", "·eight", "·nine"]


def test_a_token_carries_its_signals_its_choice_and_its_class(comparison):
    comparison.runs = comparison.runs[:1]
    page = Page(render_report(comparison))
    names = [e.attributes["data-name"] for e in page.find("input") if "data-name" in e.attributes]
    assert names == ["NLL", "history NLL", "progress", "prompt attention"]
    prompt, kept, dropped, lowered = page.find("span", inside="map")
    assert kept.attributes["style"] == "--0:0.25;--1:2.12;--2:1.88;--3:0.375"
    assert [span.classes for span in (prompt, kept, dropped, lowered)] == [
        ["prompt"],
        ["kept"],
        ["dropped"],
        ["lowered"],
    ]
    assert lowered.attributes["data-weight"] == "0.1"
    assert kept.attributes["data-class"] == "number"


def test_every_number_of_the_record_is_on_the_page(comparison):
    text = Page(render_report(comparison)).text
    numbers = """2.165 ± 0.064 | 0.334 ± 0.017 | 31.1 ± 6.9 | −0.053 ± 0.007 | +0.007 ± 0.006
        n = 90 | n = 89 | n = 88 | n = 45 | 0.139 | 6,312 | 61.3 | 75 | 1.27 | 2,561 | 300 of 400 | 20.5 of 100
        308 kept | 54 dropped | 0 to 1: 211 kept, 13 dropped | 1 to 2: 97 kept, 41 dropped | 0.00037 | 2.13.0"""
    missing = [number for number in re.split(r" \| |\n\s+", numbers) if number not in text]
    assert not missing


def test_shares_by_class_stand_beside_what_plain_sft_would_give(comparison):
    text = Page(render_report(comparison)).text
    assert "75.0\N{NO-BREAK SPACE}%" in text  # 300 of 400 kept
    assert "93.6\N{NO-BREAK SPACE}%" in text  # 300 of 320.5 learned from
    assert "plain SFT 80.0\N{NO-BREAK SPACE}%" in text  # 400 of 500


def test_the_least_record_gives_a_page_without_empty_sections(least):
    page = Page(render_report(least))
    assert [heading.text for heading in page.find("h2")] == ["Outcome"]
    assert "Not recorded in this comparison: held-out NLL," in page.text
    assert not page.find("svg", inside="figures")
    for word in ("None", "nan", "Undefined"):
        assert word not in page.text


def test_a_comparison_without_runs_still_gives_a_page(least):
    least.runs = []
    assert "No run is recorded" in Page(render_report(least)).text


@pytest.mark.parametrize(
    "field",
    [
        "untrained_nll",
        "held_out_nll",
        "accuracy",
        "bits_per_byte",
        "peak_memory_mb",
        "paired",
        "curves",
        "examples",
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
    Page(render_report(comparison))


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
    page = Page(render_report(comparison))
    drawn = [
        " ".join(e.attributes.values()) for e in page.elements if e.tag in ("path", "rect", "text", "span")
    ]
    assert not [attributes for attributes in drawn if re.search(r"\b(nan|inf)\b", attributes)]


def test_the_same_record_gives_the_same_bytes(comparison):
    first = render_report(comparison)
    assert render_report(Comparison.model_validate(comparison.model_dump())) == first


def test_every_label_of_a_control_has_a_control_and_every_anchor_a_target(comparison):
    page = Page(render_report(comparison))
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    assert {e.attributes["href"][1:] for e in page.find("a")} <= set(ids)
    assert all(e.attributes.get("aria-label") or "aria-hidden" in e.attributes for e in page.find("svg"))
    assert all(e.attributes.get("tabindex") == "0" for e in page.elements if "map" in e.classes)


def test_twenty_long_examples_render_fast_and_small(least):
    signals = dict.fromkeys(("nll", "history_nll", "progress", "prompt_attention", "entropy"), 1.2345)
    long = Example(
        title="long",
        tokens=[
            ReportToken(text=" word", learnable=True, weight=0.1, token_class="number", signals=signals)
            for _ in range(1000)
        ],
    )
    least.runs[0].examples = [long.model_copy(update={"title": str(number)}) for number in range(20)]
    render_report(least)
    start = time.process_time()
    page = render_report(least)
    assert time.process_time() - start < 2.0
    assert len(page.encode()) < 3_000_000


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_reaches_wcag_aa_contrast(least, theme):
    style = Page(render_report(least)).find("style")[0].text
    found = re.findall(r"--([a-z0-9]+): light-dark\((#\w{6}), (#\w{6})\)", style)
    colours = {name: pair[theme] for name, *pair in found}
    text_on_paper = ["ink", "quiet", "accent", "s0", "s1", "s2", "s3", "s4", "s5"]
    pairs = [(name, "paper") for name in text_on_paper] + [("ink", "warm"), ("ink", "cool")]
    for text, ground in pairs:
        dark, light = sorted((_luminance(colours[text]), _luminance(colours[ground])))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{text} on {ground}"
