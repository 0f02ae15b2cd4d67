"""The app in headless Chromium: one server in this process, one browser, and one page for all tests of a module.

Skipped, with the reason, where playwright or Chromium is missing.
"""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from tests import ROOT
from tokenry.app.server import Server, application

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SCREENS = ROOT / "build/app"
IS_SELECTED = "name => [...document.querySelectorAll('[role=tab][aria-selected=true]')].some(tab => tab.textContent.includes(name))"
ENDED = ("done", "refused", "failed", "stopped")


@dataclass
class App:
    """The page, as a user has it.

    Attributes:
        page: playwright's page.
        address: address of the server.
        requests: addresses of all requests that the page made.
        complaints: errors on its console.
    """

    page: Any
    address: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(120_000)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        self.page.goto(self.address)
        self.page.wait_for_selector("button.run")

    def open(self, tab: str, form: str = "") -> "App":
        """Open a tab, and one of its forms."""
        for name in filter(None, (tab, form)):
            chosen = self.page.locator('[role="tab"]:visible', has_text=name)
            if not chosen.count():
                self.page.locator(".overflow-menu > button:visible").first.click()
                chosen = self.page.locator(".overflow-dropdown button:visible", has_text=name)
            chosen.first.click()
            self.page.wait_for_function(IS_SELECTED, arg=name)
            self.page.wait_for_timeout(150)
        return self

    @property
    def form(self) -> Any:
        """The form that is seen."""
        return self.page.locator(".form[id^=form-]:visible")

    def labelled(self, label: str) -> Any:
        """The field with this label, which a sentence may follow."""
        return self.form.get_by_label(re.compile(rf"^\s*{re.escape(label)}")).first

    def fill(self, label: str, value: str) -> "App":
        """Write into a field."""
        self.labelled(label).fill(value)
        return self

    def choose(self, label: str, name: str) -> "App":
        """Type a name into a list."""
        box = self.labelled(label)
        box.fill(name)
        box.press("Enter")
        box.press("Escape")
        return self

    def number(self, label: str, value: float) -> "App":
        """Set a slider by its number."""
        box = self.form.get_by_label(re.compile(rf"^number input for {re.escape(label)}"))
        box.fill(str(value))
        box.press("Tab")
        return self

    def upload(self, *files: Path) -> "App":
        """Drop files."""
        self.form.locator('input[type="file"]').set_input_files([str(file) for file in files])
        self._removing.first.wait_for()
        self.page.wait_for_timeout(400)
        return self

    def clear(self) -> "App":
        """Take back the files that were dropped."""
        if self._removing.count():
            self._removing.first.click()
        return self

    @property
    def _removing(self) -> Any:
        """What takes files back, which is there when they are."""
        return self.form.get_by_label("Remove this file").or_(self.form.get_by_label("Clear"))

    def start(self) -> "App":
        """Press the button that runs the form."""
        before = self.shown()
        self.form.locator("button.run").click()
        self._until(lambda state, drawn: drawn != before)
        return self

    def run(self) -> str:
        """Run the form, and wait until it has ended: how it ended, and what is said."""
        before = self.shown()
        self.form.locator("button.run").click()
        return self.ended(before)

    def shown(self) -> str:
        """What the panel holds."""
        return str(self.form.locator(".panel").first.evaluate("panel => panel.outerHTML"))

    def ended(self, before: str = "") -> str:
        """Wait until the job has ended: how, and what is said."""
        return self._until(lambda state, drawn: state in ENDED and drawn != before)

    def _until(self, holds: Callable[[str, str], bool]) -> str:
        read = "panel => [panel.classList[1], panel.outerHTML, panel.innerText]"
        until = time.monotonic() + 120
        while time.monotonic() < until:
            state, drawn, text = self.form.locator(".panel").first.evaluate(read)
            if holds(state, drawn):
                return f"{state}: {' '.join(text.split())}"
            self.page.wait_for_timeout(50)
        raise AssertionError(f"this took too long: {text}")

    @property
    def report(self) -> Any:
        """The document of the embedded report."""
        return self.form.frame_locator("iframe.report")

    def screen(self, name: str) -> None:
        """Keep a picture of the page."""
        SCREENS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(SCREENS / f"{name}.png"), full_page=True)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def served(models: tuple[str, ...], folder: Path, **said: Any) -> Iterator[str]:
    """Serve the app in a thread of this process; yields its address."""
    pytest.importorskip("gradio", reason="the app needs the extra app")
    settings = {"allow_remote": False, "upload_megabytes": 2} | said
    server = Server("127.0.0.1", free_port(), models=models, kept=folder / "runs", **settings)
    with application(server) as app:
        running = uvicorn.Server(
            uvicorn.Config(app, port=server.port, log_level="error", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=running.run, daemon=True)
        thread.start()
        while not running.started:
            time.sleep(0.02)
        yield server.address
        running.should_exit = True
        thread.join(10)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not there: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()
