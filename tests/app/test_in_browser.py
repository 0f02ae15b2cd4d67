"""Every tab with real and with wrong input, in one session of one browser, and what holds for the page as a whole."""

import json
import subprocess
import tarfile
import time
from urllib.parse import urlsplit

import pytest

import tokenry.cli.reproduce
import tokenry.core.io.files
import tokenry.verbs.theory.permutation
from tests.app.browser import App, chromium, served
from tests.desk import desk
from tests.tiny.images import write_classifier, write_images
from tests.tiny.tokenizers import byte_level
from tokenry.recipes.kit import Claim
from tokenry.recipes.kit.claims import Reproduction

__all__ = ["desk"]

SCRIPT = "one <script>alert('owned')</script> two <img src=x onerror=alert(1)>"


def quick_recipe(slug, scale, output, progress, data):
    claims = (Claim("a claim that holds", 0.97, 0.96, 0.43, "shown"),)
    return Reproduction(slug, claims, {"scale": scale}, 1.0, 1.0, plots=())


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def address(desk, browser, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenry.cli.reproduce, "run_recipe", quick_recipe)
        with served((str(desk.model),), tmp_path_factory.mktemp("app")) as found:
            yield found


@pytest.fixture(scope="module")
def app(address, browser):
    page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme="light")
    return App(page, address)


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The rules of axe-core, fetched from npm."""
    folder = tmp_path_factory.mktemp("axe")
    asked = [
        "npm",
        "pack",
        "--silent",
        "--fetch-retries=0",
        "--pack-destination",
        str(folder),
        "axe-core@4.11.0",
    ]
    try:
        subprocess.run(asked, check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"axe-core cannot be fetched from npm: {error}")
    with tarfile.open(next(folder.glob("*.tgz"))) as package:
        return package.extractfile("package/axe.min.js").read().decode()


@pytest.fixture
def slow_job(monkeypatch):
    """A verb that goes on until it is stopped; the list holds how it ended."""
    ended = []

    def run(plan, progress):
        try:
            for step in range(600):
                progress("counting", step / 600)
                time.sleep(0.05)
        except BaseException as stop:
            ended.append(type(stop).__name__)
            raise
        raise AssertionError("nobody stopped it")

    monkeypatch.setattr(tokenry.verbs.theory.permutation, "run", run)
    return ended


def test_cut_draws_a_text_and_escapes_it(app, tmp_path):
    byte_level().backend_tokenizer.save(str(tmp_path / "mine.json"))
    app.open("Cut").fill("Text", SCRIPT).upload(tmp_path / "mine.json")
    assert app.run().startswith("done: tokenry tokenizer compare")
    app.report.get_by_text("Tokenizers side by side").wait_for()
    assert "<script>" in app.report.locator(".pieces").first.inner_text()
    assert app.report.locator(".cut h3").count() == 2
    app.screen("cut")


def test_cut_of_nothing_is_refused(app):
    assert (
        app.open("Cut").fill("Text", " ").run()
        == "refused: That does not work. Text is empty: write or paste a text."
    )


def test_weigh_draws_a_heat_map_whose_frame_is_as_tall_as_the_report(app):
    app.open("Weigh").fill("Text", "What is 3 + 4? The answer is 7.")
    assert app.run().startswith("done: tokenry score text.txt")
    app.report.locator(".map span").first.wait_for()
    app.page.wait_for_timeout(300)
    inside = app.report.locator("html").evaluate("page => page.offsetHeight")
    assert app.form.locator("iframe.report").evaluate("frame => frame.offsetHeight") == pytest.approx(
        inside, abs=2
    )
    app.screen("weigh")


def test_weigh_takes_a_megabyte_of_text_and_no_more(app):
    app.open("Weigh", "A text").form.get_by_role("button", name="More options").click()
    app.number("Most tokens", 32)
    assert app.fill("Text", "What is 3? " * 90_000).run().startswith("done")
    assert "a page takes 1,000,000" in app.fill("Text", "What is 3? " * 100_000).run()
    app.fill("Text", "What is 3 + 4? The answer is 7.")


def test_weigh_shows_what_an_answer_attends_to(app):
    app.open("Weigh", "An answer").fill("Question", "What is 3 + 4?").fill("Answer", "The answer is 7.")
    assert app.run().startswith("done: tokenry score conversation.jsonl")
    assert app.report.get_by_label("prompt attention").count()


def test_weigh_names_a_model_that_is_not_there(app):
    said = app.open("Weigh", "A text").choose("Model", "no/such-model").run()
    assert said.startswith("refused")
    assert "no/such-model" in said


def test_tune_is_stopped_and_goes_on_where_it_was(app, desk):
    app.open("Tune").upload(desk.data).number("Steps", 20)
    app.form.get_by_role("button", name="More options").click()
    app.page.wait_for_timeout(300)
    app.fill("Training argument", "per_device_train_batch_size=2").start()
    app.form.locator(".panel.running .stage", has_text="step").wait_for(timeout=40_000)
    app.form.get_by_role("button", name="Stop").click()
    assert "Run it again with the same settings to go on" in app.ended()
    app.screen("tune-stopped")
    assert app.run().startswith("done: tokenry tune")
    assert app.report.locator("h1").inner_text().endswith("on data.jsonl")
    app.screen("tune")


def test_tune_refuses_a_binary_file(app, tmp_path):
    app.open("Tune").clear()
    (tmp_path / "data.jsonl").write_bytes(bytes(range(256)))
    said = app.upload(tmp_path / "data.jsonl").run()
    assert (
        said
        == "refused: That does not work. data.jsonl is not rows in JSON lines, JSON or CSV: choose another file."
    )


def test_compress_marks_the_words_that_are_kept(app):
    app.open("Compress").fill("Prompt", "What is 3 + 4? The answer is 7. What is 1 + 1?")
    assert app.run().startswith("done: tokenry compress prompt")
    assert app.report.locator(".map .kept").count()
    assert app.report.locator(".map .dropped").count()


def test_compress_refuses_an_empty_prompt(app):
    assert "Prompt is empty" in app.open("Compress").fill("Prompt", "").run()


def test_compress_draws_the_merged_patches_of_an_image(app, tmp_path):
    model, images = write_classifier(tmp_path / "vit"), tmp_path / "images"
    [name] = write_images(images, 1)
    app.open("Compress", "Images").upload(images / name).choose("Image model", str(model))
    assert app.run().startswith("done: tokenry compress vision --model")
    assert app.report.locator(".panels svg").count() > 1
    app.screen("compress")


def test_compress_refuses_a_text_that_calls_itself_an_image(app, tmp_path):
    (tmp_path / "image.png").write_text("no image")
    app.open("Compress", "Images").clear()
    assert "image.png is not an image (PNG, JPEG or WebP)" in app.upload(tmp_path / "image.png").run()


def test_bytes_predicts_the_next_byte(app):
    app.open("Bytes").fill("Text", "The answer i")
    assert app.run().startswith("done: tokenry bytes next --file text.txt")
    assert app.report.locator("table tbody tr").count() >= 3


def test_bytes_refuses_an_empty_text(app):
    assert "Text is empty" in app.open("Bytes", "Go on").fill("Text", "").run()


def test_explain_colours_what_made_the_answer(app):
    app.open("Explain").fill("Text", "What is 3 + 4? The answer is")
    assert app.run().startswith("done: tokenry explain text.txt")
    assert app.report.locator(".map").count() == 3


def test_explain_without_a_method_is_refused(app):
    app.open("Explain")
    ticked = app.form.locator('input[type="checkbox"]:checked')
    while ticked.count():
        ticked.first.uncheck()
    assert "Methods is empty: tick at least one." in app.run()


def test_plan_follows_its_slider(app):
    app.open("Plan")
    assert app.ended().startswith("done: tokenry scaling plan")
    app.number("Budget", 23)
    app.form.get_by_text("--budget 1e+23").wait_for()
    app.form.locator('input[type="range"]').first.press("ArrowRight")
    app.form.get_by_text("--budget 1.26e+23").wait_for()
    app.screen("plan")


def test_plan_names_what_a_table_lacks(app, tmp_path):
    (tmp_path / "runs.csv").write_text("a,b\n1,2\n")
    app.open("Plan").form.get_by_role("button", name="More options").click()
    assert "runs.csv" in app.upload(tmp_path / "runs.csv").run()


def test_select_measures_documents_and_learns_their_words(app, desk):
    documents = "\n\n".join(f"What is {n} + {n}? The answer is {2 * n}." for n in range(12))
    app.open("Select").fill("Documents, with an empty line between them", documents)
    app.fill("Models and their benchmark scores", f"{desk.model}@1, 0.3\n{desk.model}, 0.6")
    assert app.run().startswith("done: tokenry select-data strength documents.jsonl")
    app.screen("select")
    said = app.open("Select", "Words").run()
    assert said.startswith(("done: tokenry select-data train", "refused")), said


def test_select_says_how_scores_are_written(app):
    said = app.open("Select", "Strength").fill("Models and their benchmark scores", "embedded").run()
    assert "write a model, a comma and its score, got 'embedded'" in said


def test_equal_information_colours_windows(app):
    app.open("Equal information").fill("Text", "Water expands when it freezes. " * 4)
    assert app.run().startswith("done: tokenry tokenizer equal-info report text.txt")
    assert app.report.locator(".pieces").count() == 3
    app.screen("equal-information")


def test_equal_information_refuses_an_empty_text(app):
    assert "Text is empty" in app.open("Equal information").fill("Text", "").run()


def test_theory_measures_a_source(app):
    app.open("Theory")
    app.form.get_by_role("button", name="More options").click()
    app.number("Symbols of the text", 2000)
    assert app.run().startswith("done: tokenry theory markov")
    app.screen("theory")


def test_a_sentence_names_the_field(app):
    app.open("Equal information").fill("Text", "Water expands when it freezes.")
    app.form.get_by_role("button", name="More options").click()
    said = (
        app.number("Most bytes that are coded", 100).choose("Model that predicts the text", "no/such").run()
    )
    assert "no/such" in said
    assert "--" not in said


def test_theory_keeps_a_number_within_its_slider(app):
    assert "--switch 0.99" in app.open("Theory").number("Probability of a switch", 7).run()


def test_papers_are_listed_and_run_here(app):
    app.open("Papers")
    assert app.ended().startswith("done: tokenry papers")
    assert app.report.locator("tbody tr").count() == 40
    app.screen("papers")
    assert app.open("Papers", "Run here").run().startswith("done: tokenry reproduce")
    app.report.get_by_text("a claim that holds").wait_for()


def test_papers_refuse_what_is_not_in_the_list(app):
    said = app.open("Papers", "Run here").choose("Paper", "no such paper").run()
    assert said.startswith("done: tokenry reproduce"), "the list goes back to a paper"


def test_json_and_html_are_downloaded(app):
    app.open("Papers", "All papers")
    if not app.form.locator(".panel.done").count():
        app.ended()
    for link, ending in (("JSON", ".json"), ("HTML", ".html")):
        with app.page.expect_download() as download:
            app.form.get_by_role("link", name=link).click()
        content = download.value.path().read_text(encoding="utf-8")
        assert download.value.suggested_filename.endswith(ending)
        assert (
            json.loads(content)["kind"] == "papers"
            if link == "JSON"
            else content.startswith("<!doctype html>")
        )


def test_a_job_waits_for_the_one_of_another_tab_and_closing_that_stops_it(app, address, browser, slow_job):
    other = App(browser.new_page(), address)
    other.open("Theory", "A list").start()
    other.form.locator(".panel.running").wait_for()
    app.open("Theory", "A list").start()
    assert "Waiting: 1 job before yours" in app.form.locator(".panel.waiting").inner_text()
    other.page.close()
    app.form.locator(".panel.running").wait_for(timeout=20_000)
    assert slow_job == ["Stopped"]
    app.form.get_by_role("button", name="Stop").click()
    assert app.ended() == "stopped: Stopped. Nothing is kept of it."
    assert slow_job == ["Stopped", "Stopped"]


def test_a_failing_job_says_so_and_the_next_one_runs(app, monkeypatch):
    def run(plan, progress):
        raise ZeroDivisionError("something broke")

    with monkeypatch.context() as patch:
        patch.setattr(tokenry.verbs.theory.permutation, "run", run)
        assert app.open("Theory", "A list").run() == "failed: This failed. ZeroDivisionError: something broke"
    assert app.run().startswith("done: tokenry theory permutation")


def test_a_full_disk_is_named(app, monkeypatch):
    def full(**where):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tokenry.core.io.files.tempfile, "mkstemp", full)
        said = app.open("Theory", "A list").run()
    assert "cannot be written (No space left on device): free some space" in said


def test_the_keyboard_alone_is_enough(app):
    app.page.set_viewport_size({"width": 1440, "height": 900})
    app.page.get_by_role("tab", name="Bytes", exact=True).focus()
    app.page.keyboard.press("Enter")
    app.open("Bytes", "Next byte")
    app.labelled("Text").focus()
    app.page.keyboard.press("Control+A")
    app.page.keyboard.type("What is 3")
    before = app.shown()
    for _ in range(12):
        app.page.keyboard.press("Tab")
        if app.page.evaluate("document.activeElement.classList.contains('run')"):
            break
    app.page.keyboard.press("Enter")
    assert app.ended(before).startswith("done: tokenry bytes next")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_fits_and_is_readable(app, scheme, width):
    app.page.emulate_media(color_scheme=scheme)
    app.page.set_viewport_size({"width": width, "height": 900})
    app.open("Weigh", "A text")
    assert app.page.evaluate("document.documentElement.scrollWidth") <= width
    lightness = "getComputedStyle(document.body).backgroundColor"
    assert sum(map(int, app.page.evaluate(lightness)[4:-1].split(","))) > 600 if scheme == "light" else True
    app.screen(f"weigh-{scheme}-{width}")
    app.page.set_viewport_size({"width": 1440, "height": 900})
    app.page.emulate_media(color_scheme="light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_of_accessibility_is_broken(app, axe, scheme):
    app.page.emulate_media(color_scheme=scheme)
    app.open("Weigh", "A text")
    app.page.evaluate(axe)
    rules = "axe.run(document, {resultTypes: ['violations'], iframes: false})"
    found = app.page.evaluate(
        f"{rules}.then((result) => result.violations.map((one) => [one.impact, one.id, one.nodes.map((node) => node.html)]))"
    )
    app.page.emulate_media(color_scheme="light")
    assert [one for one in found if one[0] in ("serious", "critical")] == []


def test_nothing_leaves_the_machine_and_nothing_is_wrong(app, address):
    hosts = {urlsplit(url).netloc for url in app.requests if not url.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(address).netloc}
    assert app.complaints == []
