"""The app in a browser: how soon it can be seen, how long a heat-map takes, and what it keeps in memory.

`tokenry app` runs as a process of its own, and a headless Chromium that is open already loads it. First paint counts from the start of the
process to the first form, not to the "Loading" before it; a heat-map from the press of the button to the drawn report, with the model in
the file cache; memory is that of the process, after 5 jobs and after 50.
"""

import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _measure import resident
from _report import Result, note, result, run
from playwright.sync_api import sync_playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PARAGRAPH = (
    "The city of Oslo lies at the head of a fjord. In winter the days are short, and people ski after work. The library on the harbour is "
    "open until ten; students read there, and tourists look at the ships. "
)
TOKENS = 300


def measure(smoke: bool) -> Iterator[Result]:
    """Seconds, and the ratio of memory."""
    few, many = (1, 2) if smoke else (5, 50)
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(120_000)
        with started(Path(folder)) as (process, address, since):
            page.goto(address)
            page.wait_for_selector("button.run")
            painted = time.perf_counter() - since
            shown = page.evaluate(
                "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
            )
            yield result(
                "first paint of the app, from the start of its process: seconds",
                painted,
                3,
                page=round(shown, 2),
            )
            job = Weighing(page) if not smoke else Solving(page)
            seconds, after = [], {}
            for number in range(1, many + 1):
                note(f"job {number} of {many}")
                seconds.append(job.seconds(number))
                if number in (few, many):
                    after[number] = resident("VmRSS", process.pid)
            yield result(
                f"a heat-map of {TOKENS} tokens, warm: seconds",
                sorted(seconds[1:])[len(seconds[1:]) // 2],
                5,
                first=round(seconds[0], 2),
                jobs=many,
            )
            yield result(
                f"memory of the app: after {many} jobs / after {few}",
                after[many] / after[few],
                1.1,
                megabytes={str(jobs): round(size / 1e6) for jobs, size in after.items()},
            )
            browser.close()


class Solving:
    """A job without a model."""

    tab, form = "Theory", "A list in another order"

    def __init__(self, page: Any) -> None:
        self.page = page
        for name in (self.tab, self.form):
            page.locator('[role="tab"]:visible', has_text=name).first.click()
            page.wait_for_timeout(300)
        self.shown = page.locator(".form[id^=form-]:visible")

    def fill(self, number: int) -> None:
        """Make this job another one than the last."""

    def seconds(self, number: int) -> float:
        """Run the job; from the press of the button until its report is drawn."""
        self.fill(number)
        before = self.shown.locator(".panel").first.evaluate("panel => panel.outerHTML")
        begun = time.perf_counter()
        self.shown.locator("button.run").click()
        self.page.wait_for_function(
            "before => [...document.querySelectorAll('.panel.done')].some(panel => panel.checkVisibility() && panel.outerHTML !== before)",
            arg=before,
            polling=20,
        )
        self.shown.frame_locator("iframe.report").locator("h1").wait_for()
        return time.perf_counter() - begun


class Weighing(Solving):
    """A heat-map of the embedded model."""

    tab, form = "Weigh", "A text"

    def fill(self, number: int) -> None:
        """A text of about as many tokens as are counted, which begins with the number of the job."""
        from tokenry.models import load_tokenizer

        tokenizer = load_tokenizer("embedded")
        ids = tokenizer(f"{number}. {PARAGRAPH * 20}")["input_ids"][:TOKENS]
        self.shown.locator("textarea").first.fill(tokenizer.decode(ids))


@contextmanager
def started(folder: Path) -> Iterator[tuple[subprocess.Popen, str, float]]:
    """The app as a process: its address, and when it was started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, since = f"http://127.0.0.1:{port}", time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "tokenry", "app", "--port", str(port), "--runs", str(folder / "runs")],
        stdout=sys.stderr,
    )
    try:
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                time.sleep(0.02)
        yield process, address, since
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


if __name__ == "__main__":
    run(measure, str(__doc__))
