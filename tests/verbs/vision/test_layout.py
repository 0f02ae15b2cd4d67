"""How a run of `tokenry compress vision` is laid out."""

import json
import re

import pytest

from tests import ROOT
from tests.report.hostile import HOSTILE
from tests.report.page_reader import Page
from tests.report.test_patches import picture as patches
from tests.verbs.check_verb import in_terminal, too_wide
from tokenry.core.errors import UserError
from tokenry.report.blocks import Figure, Patches, Section, Table
from tokenry.report.html import page
from tokenry.report.markdown import markdown
from tokenry.report.writing import written_rows
from tokenry.verbs.compress.vision import lay_out

STORED = ROOT / "docs/results/dinov2-sweep.json"


def estimate(value, error=0.03, samples=100):
    return {"value": value, "standard_error": error, "samples": samples}


def speed(images):
    return {"images_per_second": images, "images_per_cpu_second": images / 2, "peak_memory_mb": 12.0}


def reduced(method="tome", name="tome r=3", flops=600, agreement=0.9, speedup=1.5, **fields):
    return {
        "name": name, "method": method, "options": {"r": 3}, "token_counts": [17, 14, 11], "flops": flops,
        "speed": speed(150.0), "speedup": {"median": speedup, "lower": speedup - 0.1, "upper": speedup + 0.1},
        "cpu_speedup": 1.4, "reduction_share": 0.042, "agreement": estimate(agreement),
        "finding": "saves 40% of the FLOPs",
    } | fields  # fmt: skip


def picture(*panels, title="a.jpg"):
    image = patches([0, 1, 2, 3]).image
    shown = [{"setting": setting, "layer": layer, "places": places} for setting, layer, places in panels]
    return {"title": title, "image": image, "rows": 2, "columns": 2, "panels": shown}


def record(*results, **fields):
    results = list(results) or [reduced()]
    return {
        "kind": "compress vision", "model": "vit", "images": "photos", "number_of_images": 100,
        "created": "2026-11-24T11:12:41+00:00", "agreement_of": "top-1", "swept": False, "settings": {},
        "environment": {"torch": "2.13.0"},
        "unpatched": {"tokens": 17, "flops": 1000, "accuracy": estimate(0.8, 0.04), "speed": speed(100.0)},
        "results": results, "findings": [(each["name"], each["finding"]) for each in results],
        "pictures": [picture(("tome r=3", 2, [1, 1, 2, -1]))],
    } | fields  # fmt: skip


def sweep(**fields):
    results = [
        reduced(method, f"{method} at {flops}", flops, agreement - (1000 - flops) / 5000, 1000 / flops)
        for method, agreement in (("tome", 1.0), ("random", 0.9))
        for flops in (800, 500)
    ]
    return record(*results, swept=True, pictures=[], **fields)


def blocks_of(data, kind):
    inside = [block for section in lay_out(data) if isinstance(section, Section) for block in section.blocks]
    return [block for block in inside if isinstance(block, kind)]


def drawn(data):
    return page("compress vision", "vit on photos", lay_out(data), data["environment"])


def shown_images(read):
    return [each.attributes["href"] for each in read.find("use", inside="panels")]


def test_the_page_says_what_was_measured():
    text = " ".join(Page(drawn(record(notes=["left out: x.jpg"]))).text.split())
    for words in ("100 images, 17 tokens each, 2026-11-24", "tome r=3 saves 40% of the FLOPs", "60.0", "1.50",
                  "1.40 to 1.60", "90.0 ± 3.0", "80.0 ± 4.0", "4.2", "left out: x.jpg", "2.13.0", "150.0"):  # fmt: skip
        assert words in text


def test_pictures_are_drawn_over_the_image():
    read = Page(drawn(record()))
    (image,) = read.find("image")
    assert image.attributes["href"].startswith("data:image/jpeg;base64,")
    assert shown_images(read) == [f"#{image.attributes['id']}"]
    paths = [(each.classes, each.attributes.get("fill")) for each in read.find("path", inside="panels")]
    assert paths == [(["gone"], None), (["group"], "#800080"), (["single"], None)]
    assert "one token made of 2 patches" in {each.text for each in read.find("title")}


def test_pictures_whose_titles_differ_in_signs_only_keep_their_own_image():
    two = [picture(("tome", 2, [0, 1, 2, 3]), title=title) for title in ("猫.jpg", "犬.jpg")]
    read = Page(drawn(record(pictures=two)))
    names = [image.attributes["id"] for image in read.find("image")]
    assert len(set(names)) == 2
    assert shown_images(read) == [f"#{name}" for name in names]


def test_panels_are_named_by_setting_or_layer_as_they_differ():
    places = [1, 1, 2, -1]
    shown = {
        ("tome", "norm"): picture(("tome", 2, places), ("norm", 2, places)),
        ("after layer 1", "after layer 2"): picture(("tome", 1, places), ("tome", 2, places)),
        ("tome, after layer 1", "norm, after layer 2"): picture(("tome", 1, places), ("norm", 2, places)),
    }
    for captions, one in shown.items():
        (block,) = blocks_of(record(pictures=[one]), Patches)
        assert tuple(caption for caption, _ in block.panels) == captions


def test_a_page_refers_to_nothing_outside_itself():
    for source in (drawn(record()), drawn(sweep()), drawn(hostile())):
        for element in Page(source).elements:
            assert element.tag not in ("iframe", "object", "embed", "img", "base", "audio", "video", "form")
            assert not {"src", "srcset", "action", "data", "poster", "srcdoc"} & set(element.attributes)
            linked = element.attributes.get("href", element.attributes.get("xlink:href", "#"))
            assert re.match(r"#|data:,|data:image/jpeg;base64,[\w+/=]*$", linked)
            assert element.tag != "style" or not re.search(r"url\(|@import|@font-face", element.text)


def hostile():
    texts = [text for text in HOSTILE if text != "\ud83d"]
    everything = "".join(texts)
    results = [reduced(text, text, finding=text, options={text: text}) for text in texts]
    shown = picture((everything, 2, [1, 1, 2, -1]), title=everything)
    return record(
        *results, model=everything, images=everything, created=everything, notes=texts, pictures=[shown],
        environment={everything: everything},
    )  # fmt: skip


def test_hostile_words_stay_words():
    read = Page(drawn(hostile()))
    assert len(read.find("script")) == 1
    assert not [name for each in read.elements for name in each.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in read.text
    assert "\x1b" not in in_terminal(lay_out(hostile()))


def test_a_damaged_record_is_refused():
    with pytest.raises(UserError, match=r"not the record of `tokenry compress vision` \(results"):
        lay_out(record(results="none"))
    with pytest.raises(UserError, match="holds no image"):
        drawn(record(pictures=[{**picture(("tome", 2, [0, 1, 2, 3])), "image": ""}]))


def test_a_sweep_draws_a_line_per_method_against_flops_and_speed():
    saved, faster = blocks_of(sweep(), Figure)
    assert (saved.y_label, saved.x_label) == ("same class, %", "FLOPs saved, %")
    assert faster.x_label == "times as fast, measured"
    tome, random = saved.series
    assert (tome.name, random.name) == ("tome", "random")
    assert (tome.x[0], tome.y[0]) == (random.x[0], random.y[0]) == (0.0, 100.0)
    assert list(tome.x) == pytest.approx([0, 20, 50])
    assert tome.y[-1] > random.y[-1]
    assert tome.high[1] - tome.y[1] == pytest.approx(3.0)


def test_a_sweep_with_labels_draws_accuracy_too():
    swept = sweep(agreement_of="features")
    for each in swept["results"]:
        each["accuracy"] = estimate(0.5, 0.1, 9)
    measures = [figure.y_label for figure in blocks_of(swept, Figure)]
    assert measures == ["accuracy, %"] * 2 + ["cosine"] * 2


def test_tokens_are_drawn_from_what_enters_to_what_leaves():
    (figure,) = blocks_of(record(), Figure)
    assert [(line.name, line.y[0], line.y[-1]) for line in figure.series] == [
        ("unpatched", 17, 17),
        ("tome r=3", 17, 11),
    ]


def test_a_measure_that_is_missing_has_no_column():
    alone = record(reduced(agreement=0.5) | {"agreement": None})
    alone["unpatched"]["accuracy"] = None
    names = {column.name for table in blocks_of(alone, Table) for column in table.headings}
    assert "FLOPs" in names
    assert not {"same class", "accuracy", "change"} & names


def test_a_change_of_accuracy_has_its_error():
    labelled = record(reduced(accuracy=estimate(0.75), accuracy_change=estimate(-0.05, 0.012)))
    table = blocks_of(labelled, Table)[0]
    place = [column.name for column in table.headings].index("change")
    assert [row[place][0] for row in written_rows(table)] == ["–", "−5.0 ± 1.2"]


def test_the_terminal_shows_every_setting_and_what_came_of_it():
    single, swept = in_terminal(lay_out(record())), in_terminal(lay_out(sweep()))
    assert "tome r=3: saves 40% of the FLOPs" in single
    assert "per CPU s" in single
    assert "random at 500" in swept
    assert "per CPU s" not in swept
    assert too_wide(single) == too_wide(swept) == []


def test_a_run_of_an_earlier_version_is_drawn():
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    blocks = lay_out(stored)
    assert too_wide(in_terminal(blocks)) == []
    assert "pitome at 50%" in markdown(blocks)
    assert len(blocks_of(stored, Figure)) == 2
    assert len(blocks_of(stored, Table)[0].rows) == 1 + len(stored["results"])
