"""The page: a bar, the tabs, and in each the forms with what they show."""

import itertools
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenry.app.desk import Desks
from tokenry.app.fields import Field, Shown
from tokenry.app.forms import Form, Tab
from tokenry.app.panel import refusal
from tokenry.core.errors import UserError

_LOOK_SECONDS = 0.2
_HERE = Path(__file__).parent / "templates"
_ROOT = re.compile(r":root \{.*?\n\}", re.S)


def look() -> dict[str, Any]:
    """Theme, style and script of the page, in the report's own colours; nothing in them comes from elsewhere."""
    import gradio

    report = Path(__file__).parents[1] / "report/templates/page.css"
    colours = _ROOT.search(report.read_text(encoding="utf-8"))
    assert colours is not None
    sans, mono = (
        re.search(rf"--{name}: (.*?);", colours.group()).group(1).split(", ")  # type: ignore[union-attr]
        for name in ("sans", "mono")
    )
    theme = gradio.themes.Base(
        font=[part.strip('"') for part in sans], font_mono=[part.strip('"') for part in mono]
    )
    style, script = _template("page.css"), _template("page.js")
    return {
        "theme": theme,
        "css": f"{colours.group()}\n{style}",
        "head": f'<meta name="color-scheme" content="light dark">\n<script>{script}</script>',
    }


def _template(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def build(tabs: Sequence[Tab], desks: Desks, shown: Shown) -> Any:
    """Build the page.

    Args:
        tabs: its tabs.
        desks: where its jobs are run.
        shown: what the server allows.
    """
    import gradio

    with gradio.Blocks(title="tokenry", analytics_enabled=False, fill_width=True) as blocks:
        gradio.HTML(_template("bar.html"), padding=False)
        with gradio.Tabs(elem_id="tabs"):
            for tab in tabs:
                _tab(gradio, tab, desks, shown)
    blocks.queue(default_concurrency_limit=None, max_size=64, api_open=False)
    return blocks


def _tab(gradio: Any, tab: Tab, desks: Desks, shown: Shown) -> None:
    with gradio.Tab(tab.name, id=tab.name, render_children=False) as opened:
        gradio.HTML(f"<h1>{tab.question}</h1>", padding=False)
        if len(tab.forms) == 1:
            _form(gradio, f"{tab.name}-0", tab.forms[0], desks, shown, opened)
            return
        with gradio.Tabs(elem_classes="inner"):
            for number, form in enumerate(tab.forms):
                with gradio.Tab(form.title) as inner:
                    _form(gradio, f"{tab.name}-{number}", form, desks, shown, inner if number else opened)


def _form(gradio: Any, name: str, form: Form, desks: Desks, shown: Shown, opened: Any) -> None:
    with gradio.Row(elem_classes="form", elem_id=f"form-{name.lower().replace(' ', '-')}"):
        with gradio.Column(scale=0, min_width=340, elem_classes="fields", visible=bool(form.fields)):
            open_, folded = ([f for f in form.fields if f.more is more] for more in (False, True))
            made = {id(field): _component(gradio, form, field, shown) for field in open_}
            if folded:
                with gradio.Accordion("More options", open=False):
                    made |= {id(field): _component(gradio, form, field, shown) for field in folded}
            with gradio.Row(elem_classes="buttons"):
                run = gradio.Button(form.button, variant="primary", elem_classes="run")
                stop = gradio.Button("Stop", elem_classes="stop")
        with gradio.Column(scale=1, min_width=340, elem_classes="shown"):
            panel = gradio.HTML(_template("empty.html"), padding=False)
    grouped = [made[id(field)] for field in form.fields]
    inputs = list(itertools.chain.from_iterable(grouped))
    sizes = [len(group) for group in grouped]

    def job(request: gradio.Request, *values: Any) -> Iterator[str]:
        rest = iter(values)
        taken = [list(itertools.islice(rest, size)) for size in sizes]
        by_field = [value[0] if len(value) == 1 else value for value in taken]
        yield from _watched(desks, (str(request.session_hash), name), form, by_field)

    def stopped(request: gradio.Request) -> None:
        desks.stop((str(request.session_hash), name))

    told = {"outputs": panel, "show_progress": "hidden", "api_visibility": "private"}
    triggers = [run.click, *(box.submit for box in inputs if _is_line(box))]
    if form.at_once:
        triggers += [opened.select, *(part.release for part in inputs if hasattr(part, "release"))]
    gradio.on(triggers, job, inputs=inputs, trigger_mode="multiple", concurrency_limit=None, **told)
    stop.click(stopped, queue=False, show_progress="hidden", api_visibility="private")


def _is_line(component: Any) -> bool:
    return getattr(component, "lines", None) == 1


def _component(gradio: Any, form: Form, field: Field, shown: Shown) -> list[Any]:
    info = form.documentation(field.option) if field.info is None else field.info
    made = field.component(gradio, shown, label=field.label, info=info or None)
    return made if isinstance(made, list) else [made]


def _watched(desks: Desks, place: tuple[str, str], form: Form, values: Sequence[Any]) -> Iterator[str]:
    """What is shown of a job, whenever it changes, until it is over or the form has a newer one."""
    try:
        watched = desks.start(place, form, values)
    except UserError as error:
        yield refusal(str(error))
        return
    try:
        before = ""
        while not desks.has_newer(place, watched.job):
            over, drawn = watched.job.is_over, watched.drawn()
            if drawn != before:
                yield drawn
                before = drawn
            if over:
                return
            watched.job.look()
            time.sleep(_LOOK_SECONDS)
    finally:
        watched.job.stop()
