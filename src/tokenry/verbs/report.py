"""Draw the saved result of any verb again."""

import logging
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenry.core.errors import UserError
from tokenry.core.io.files import atomic_write, read_json, require_output_file
from tokenry.core.io.progress import Progress
from tokenry.core.io.schema import require_known_schema
from tokenry.core.plans import argument, option
from tokenry.report.result import PAGE_FILE, RESULT_FILE, Result
from tokenry.verbs._models import model_title

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Draw the saved result of any verb again: its tables here, and its page.

    Attributes:
        run: the output folder of a verb, or its result.json.
        page: file to write the page to; by default report.html in the folder.
    """

    run: Path = argument()
    page: Path | None = option(None, flag="--output", metavar="FILE")


def run(plan: Plan, progress: Progress) -> Result:
    """Read the result and draw it as its verb does."""
    require_output_file(plan.page)
    file = plan.run / RESULT_FILE if plan.run.is_dir() else plan.run
    result = stored_result(file)
    page = plan.page or file.parent / PAGE_FILE
    with atomic_write(page) as partial:
        partial.write_text(result.page(), encoding="utf-8")
    logger.info("written: %s", page)
    return Result(result.title, {"kind": "report", "report": str(page)}, result.blocks)


def stored_result(file: Path) -> Result:
    """Read a saved result and lay it out as its verb does."""
    from tokenry.verbs._catalogue import verb_of

    _require_finished(file)
    data = read_json(file)
    if isinstance(data, dict) and {"slug", "claims"} <= data.keys():
        data.setdefault("kind", "reproduce")  # reproductions of version 0.1 name no kind
    if not isinstance(data, dict) or "kind" not in data:
        raise UserError(f"{file} is not a result: give the folder that a verb of tokenry wrote.")
    require_known_schema(data, file)
    try:
        blocks = verb_of(str(data["kind"])).lay_out(data)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(
            f"{file} cannot be drawn ({type(error).__name__}: {error}): is it damaged, or of another version?"
        ) from error
    return Result(_title(data), data, blocks)


def _title(data: dict[str, Any]) -> str:
    """The title of a result; those of older versions have none."""
    about = [model_title(str(data["model"]))] if data.get("model") else []
    about += [str(data["data"])] if data.get("data") else []
    return str(data.get("title") or " on ".join(about) or data["kind"])


def _require_finished(file: Path) -> None:
    if file.exists() or not (file.parent / "plan.json").exists():
        return
    finished = sorted(path.parent.name for path in file.parent.glob("*/run.json"))
    raise UserError(
        f"the run in {file.parent} is not finished (finished so far: {', '.join(finished) or 'nothing'}): go on with "
        f"`tokenry tune --resume --output {shlex.quote(str(file.parent))}`, which writes the report at its end."
    )
