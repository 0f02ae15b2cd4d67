"""What a page shows of a job, as HTML: the queue, the progress, an error in one sentence, or the report with its command and its files.

Everything that comes from data is escaped by jinja2. The report is the page that `Result.save` wrote, in a frame that may run the report's
own script and nothing else.
"""

import re
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from tokenry.app.jobs import QueuedJob
from tokenry.core.io.progress import DETAILS
from tokenry.report.text import harmless


@dataclass(frozen=True)
class Beside:
    """What is shown beside a job.

    Attributes:
        address: where its files are, relative to the page.
        command: the command that does the same; empty until it is known.
        title: title of the result; empty until it is there.
        resumes: whether a run that was stopped goes on when it is asked for again.
    """

    address: str
    command: str = ""
    title: str = ""
    resumes: bool = False


def panel(job: QueuedJob, ahead: int, beside: Beside) -> str:
    """Draw a job.

    Args:
        job: the job.
        ahead: number of jobs before it, while it waits.
        beside: what is shown beside it.
    """
    stage, _, details = job.stage.partition(DETAILS)
    drawn = _template().render(job=job, ahead=ahead, beside=beside, stage=stage, details=details)
    return harmless(drawn)


def refusal(sentence: str) -> str:
    """Draw what was refused before there was a job."""
    job = QueuedJob(lambda progress: None, state="refused", said=sentence)
    return panel(job, 0, Beside(""))


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("tokenry.app"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["with_code"] = _with_code
    return environment.get_template("panel.html.j2")


def _with_code(sentence: str) -> Markup:
    """A sentence, escaped, in which what stands between backticks is code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(sentence))))
