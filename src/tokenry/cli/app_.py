"""`tokenry app`: the verbs in a browser, for who does not write Python."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenry.app.server import Server, require_local, serve
from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.plans import option, plan_settings
from tokenry.report.blocks import Block, Text
from tokenry.report.result import Result


@dataclass(frozen=True)
class Plan:
    """Open the app in a browser: cut, weigh, tune, compress and explain your own text, on this machine alone.

    It needs the extra app, and runs until Ctrl-C.

    Attributes:
        host: address to listen on.
        port: port to listen on.
        allow_remote: let other machines use it, with the models named by --model only.
        models: model that the lists offer; can be repeated.
        upload_megabytes: largest file that a page may send.
        runs: folder of the runs of *Tune*, which can be resumed.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    allow_remote: bool = False
    models: tuple[str, ...] = option(("embedded",), flag="--model", metavar="NAME")
    upload_megabytes: int = 20
    runs: Path = option(Path("runs/app"), metavar="FOLDER")

    def __post_init__(self) -> None:
        require_local(self.host, self.allow_remote)
        require_at_least(1, upload_megabytes=self.upload_megabytes)
        if not 1 <= self.port <= 65535:
            raise UserError(f"port must be from 1 to 65535, got {self.port}.")


def run(plan: Plan, progress: Progress) -> Result:
    """Serve until the user stops it.

    Raises:
        UserError: gradio is not installed, or the port is in use.
    """
    server = Server(plan.host, plan.port, plan.allow_remote, plan.models, plan.upload_megabytes, plan.runs)
    progress("starting", 0.0)
    serve(server, lambda: progress(f"open {server.address} in a browser; Ctrl-C ends it", 0.0))
    data = {"kind": "app", "address": server.address, "settings": plan_settings(plan)}
    return Result("The app", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """One sentence."""
    return [Text(f"The app at {data['address']} has ended.", "lead")]
