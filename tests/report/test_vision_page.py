import re

import pytest
from rich.console import Console

from tokenry.core.errors import UserError
from tokenry.core.records import Estimate
from tokenry.core.vision_records import Reduced, Speed, Spread, Unpatched, VisionRun
from tokenry.report.vision_charts import token_chart, trade_off_charts
from tokenry.report.vision_page import render_vision
from tokenry.report.vision_table import vision_columns, vision_table

from .page_reader import Page
from .test_page import HOSTILE
from .test_token_picture import picture


def reduced(method="tome", name="tome r=3", flops=600, agreement=0.9, speedup=1.5, **fields):
    return Reduced(**{
        "name": name, "method": method, "options": {"r": 3}, "token_counts": [17, 14, 11], "flops": flops,
        "speed": Speed(images_per_second=150.0, images_per_cpu_second=75.0, peak_memory_mb=12.0),
        "speedup": Spread(median=speedup, lower=speedup - 0.1, upper=speedup + 0.1), "cpu_speedup": 1.4,
        "reduction_share": 0.042, "agreement": Estimate(value=agreement, standard_error=0.03, samples=100),
        "finding": "saves 40% of the FLOPs",
    } | fields)  # fmt: skip


def record(results=(), **fields):
    results = list(results) or [reduced()]
    return VisionRun(**{
        "model": "vit", "images": "photos", "number_of_images": 100, "created": "2026-11-24", "agreement_of": "top-1",
        "swept": False, "settings": {"labels": None}, "environment": {"torch": "2.13.0"},
        "unpatched": Unpatched(
            tokens=17, flops=1000, accuracy=Estimate(value=0.8, standard_error=0.04, samples=100),
            speed=Speed(images_per_second=100.0, images_per_cpu_second=50.0, peak_memory_mb=10.0),
        ),
        "results": results, "findings": [(each.name, each.finding) for each in results],
        "pictures": [picture([1, 1, 2, -1])],
    } | fields)  # fmt: skip


def sweep(agreement_of="top-1"):
    results = [
        reduced(method, f"{method} at {flops}", flops, agreement - (1000 - flops) / 5000, 1000 / flops)
        for method, agreement in (("tome", 1.0), ("random", 0.9))
        for flops in (800, 500)
    ]
    return record(results, swept=True, agreement_of=agreement_of, pictures=[])


def test_the_page_says_what_the_record_says():
    page = Page(render_vision(record(notes=["left out: x.jpg"])))
    for words in ("vit on photos", "100 images, 17 tokens each", "tome r=3 saves 40% of the FLOPs", "17 → 11", "60.0",
                  "1.50×", "1.40 to 1.60", "90.0 ± 3.0", "80.0 ± 4.0", "4.2", "left out: x.jpg", "2.13.0"):  # fmt: skip
        assert words in " ".join(page.text.split())


def test_pictures_are_drawn_over_the_image():
    page = Page(render_vision(record()))
    (image,) = page.find("image")
    assert image.attributes["href"].startswith("data:image/jpeg;base64,")
    assert [each.attributes["href"] for each in page.find("use")] == [f"#{image.attributes['id']}"]
    drawn = [(each.classes, each.attributes.get("fill")) for each in page.find("path", inside="panels")]
    assert drawn == [(["gone"], None), ([], "url(#hatch)"), (["group"], "#800080"), (["single"], None)]
    assert "one token made of 2 patches" in {each.text for each in page.find("title")}


def test_layers_have_a_row_per_setting():
    two = picture([1, 1, 2, -1])
    panels = [*two.panels, two.panels[0].model_copy(update={"setting": "norm", "layer": 1})]
    shown = record(pictures=[two.model_copy(update={"panels": panels})], settings={"every_layer": True})
    page = Page(render_vision(shown))
    assert [each.text for each in page.find("h4")] == ["tome r=1", "norm"]
    assert "after layer 1" in page.text


def test_a_page_refers_to_nothing_outside_itself():
    for source in (render_vision(record()), render_vision(sweep()), render_vision(hostile())):
        for element in Page(source).elements:
            assert element.tag not in ("iframe", "object", "embed", "img", "base", "audio", "video", "form")
            assert not {"src", "srcset", "action", "data", "poster", "xlink:href", "srcdoc"} & set(
                element.attributes
            )
            assert re.match(r"#|data:,|data:image/jpeg;base64,[\w+/=]*$", element.attributes.get("href", "#"))
            assert all(
                value == "url(#hatch)" or value == "url(#sky)"
                for value in element.attributes.values()
                if "url(" in value
            )
            assert element.tag != "style" or not re.search(r"url\(|@import|@font-face", element.text)


def hostile():
    everything = "".join(HOSTILE)
    shown = picture([1, 1, 2, -1], title=everything)
    shown.panels[0].setting = everything
    results = [reduced(text, text, finding=text, options={text: text}) for text in HOSTILE]
    return record(
        results, model=everything, images=everything, created=everything, settings={everything: everything},
        environment={everything: everything}, notes=HOSTILE, pictures=[shown],
    )  # fmt: skip


def test_hostile_words_stay_words():
    page = Page(render_vision(hostile()))
    assert len(page.find("script")) == 1
    assert not [name for each in page.elements for name in each.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text


def test_the_same_record_gives_the_same_page():
    assert render_vision(record()) == render_vision(record())


def test_a_damaged_picture_is_refused():
    with pytest.raises(UserError, match="holds no image"):
        render_vision(record(pictures=[picture([0, 1, 2, 3], image="")]))


def test_a_sweep_draws_a_line_per_method_against_flops_and_speed():
    charts = trade_off_charts(sweep())
    assert [(chart.title, chart.across) for chart in charts] == [
        ("same class as unpatched, %", "% of the FLOPs saved"),
        ("same class as unpatched, %", "times as fast, measured"),
    ]
    assert [line.name for line in charts[0].lines] == ["tome", "random"]
    # Both start at the unpatched model, and random falls below ToMe.
    starts = {line.path.split("L")[0] for line in charts[0].lines}
    assert len(starts) == 1
    tome, random = (line.end for line in charts[0].lines)
    assert tome[0] > max(x for x, _ in charts[0].lines[0].marks[:-1])
    assert tome[0] == random[0]
    assert tome[1] < random[1]
    assert len(charts[0].whiskers) == 4


def test_a_sweep_with_labels_draws_accuracy_too():
    swept = sweep("features")
    for each in swept.results:
        each.accuracy = Estimate(value=0.5, standard_error=0.1, samples=9)
    titles = [chart.title for chart in trade_off_charts(swept)]
    assert titles == ["accuracy, %"] * 2 + ["cosine to the unpatched features"] * 2


def test_the_page_of_a_sweep_groups_the_rows_by_method():
    page = Page(render_vision(sweep()))
    assert [row.text.split()[0] for row in page.find("tr") if "begins" in row.classes] == ["tome", "random"]
    keys = [key.classes[1] for key in page.find("svg") if "key" in key.classes]
    assert keys == ["s0", "s1", "s1", "s2", "s2"]


def test_tokens_are_drawn_from_what_enters_to_what_leaves():
    dense, tome = token_chart(record()).lines
    assert dense.path.count("L") == tome.path.count("L") == 2
    assert (dense.label, tome.label) == ("unpatched 17", "tome r=3 11")


def test_a_measure_that_is_missing_has_no_column():
    alone = record()
    alone.results[0].agreement = None
    alone.unpatched.accuracy = None
    titles = [column.title for column in vision_columns(alone)]
    assert "same class" not in titles
    assert "accuracy" not in titles


def terminal(shown, width=100):
    console = Console(width=width, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(vision_table(shown))
    return capture.get()


def test_the_terminal_shows_a_column_per_setting_and_a_sweep_a_row():
    single, swept = terminal(record()), terminal(sweep())
    assert "unpatched" in single.splitlines()[1]
    assert "tome r=3: saves 40% of the FLOPs" in single
    assert [line.split()[0] for line in swept.splitlines() if " at " in line][:2] == ["tome", "tome"]


def test_what_a_terminal_would_obey_is_shown_as_text():
    assert "\x1b" not in terminal(hostile())
