"""The server of the app: on this machine only unless that is asked otherwise, and with a page that can reach nothing else.

The policy in every answer lets a browser load from this server alone; a report stands in a frame without an origin, under its own policy.
"""

import contextlib
import inspect
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

_FURTHER_PORTS = 100
PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; worker-src 'self' blob:; media-src 'self' blob:; object-src 'none'; form-action 'self'; frame-ancestors 'none'"
)
REPORT_POLICY = "sandbox allow-scripts; frame-ancestors 'self'"


@dataclass(frozen=True)
class Server:
    """Where the app listens, and what it allows.

    Attributes:
        host: address to listen on.
        port: port to listen on.
        allow_remote: whether other machines may use it.
        models: models that are offered.
        upload_megabytes: largest file that is taken.
        kept: folder of the runs that stay.
    """

    host: str
    port: int
    allow_remote: bool
    models: tuple[str, ...]
    upload_megabytes: int
    kept: Path

    @property
    def address(self) -> str:
        """What a browser opens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def require_local(host: str, allow_remote: bool) -> None:
    """Raise `UserError` for an address that other machines reach, where that was not asked for."""
    if not allow_remote and not is_local(host):
        raise UserError(
            f"--host {host} lets other machines use the app, which runs jobs here for whoever opens it: add --allow-remote if that is meant, "
            "or leave --host out."
        )


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listening(host: str, port: int) -> socket.socket:
    """Listen on a port.

    Raises:
        UserError: the port is in use, and the sentence names the next free one; or there is no such address here.
    """
    try:
        return _bound(host, port)
    except OSError as error:
        free = next(
            (other for other in range(port + 1, min(port + _FURTHER_PORTS, 65536)) if _is_free(host, other)),
            None,
        )
        if free is None:
            raise UserError(
                f"{host}:{port} cannot be listened on ({error.strerror}): choose another --host or --port."
            ) from error
        raise UserError(
            f"port {port} is in use: the next free one is {free}, so add --port {free}."
        ) from error


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(128)
    except OSError:
        made.close()
        raise
    return made


def _is_free(host: str, port: int) -> bool:
    try:
        _bound(host, port).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def application(server: Server) -> "Iterator[FastAPI]":
    """The application, whose files are removed at its end."""
    # Read by gradio when it is imported: nothing is counted, nothing is looked up, and uploads lie in a folder of our own.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from tokenry.app.desk import Desks

    desks = Desks(server.kept)
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(desks.folder / "uploads")
    try:
        yield _made(server, desks)
    finally:
        desks.close()
        if before is None:
            os.environ.pop("GRADIO_TEMP_DIR", None)
        else:
            os.environ["GRADIO_TEMP_DIR"] = before


@contextlib.contextmanager
def without_stubs() -> Iterator[None]:
    """Import gradio in half the time: it would parse each component's source anew, and write what editors read into its own package."""
    real = inspect.getfile

    def getfile(what: Any) -> str:
        if inspect.isclass(what):
            raise OSError("as of a class without a file: gradio writes no stub for it")
        return real(what)

    inspect.getfile = getfile  # type: ignore[assignment]
    try:
        yield
    finally:
        inspect.getfile = real


def _made(server: Server, desks: Any) -> "FastAPI":
    with without_stubs():
        import gradio
    from fastapi import FastAPI, HTTPException, Request, Response
    from fastapi.responses import FileResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from tokenry.app.fields import Shown
    from tokenry.app.page import build, look
    from tokenry.app.tabs import all_tabs

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/jobs/{key}/{name}")
    def file_of_job(key: str, name: str) -> FileResponse:
        found = desks.file(key, name)
        if found is None or not found.is_file():
            raise HTTPException(404, "This result is not kept any longer: run it again.")
        headers = {"Content-Security-Policy": REPORT_POLICY, "Cache-Control": "no-store"}
        return FileResponse(found, headers=headers)

    @app.middleware("http")
    async def guarded(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers.setdefault("Content-Security-Policy", PAGE_POLICY)
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    if not server.allow_remote:
        # A name elsewhere that is made to point here would otherwise let a foreign page speak to the app.
        app.add_middleware(
            TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", server.host]
        )
    page = build(all_tabs(), desks, Shown(server.models, any_model=not server.allow_remote))
    gradio.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=server.host,
        server_port=server.port,
        footer_links=[],
        show_error=True,
        max_file_size=server.upload_megabytes * 2**20,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        **look(),
    )
    return app


def serve(server: Server, ready: Callable[[], None]) -> None:
    """Serve until Ctrl-C.

    Args:
        server: where, and what it allows.
        ready: called when the page can be opened.
    """
    with listening(server.host, server.port) as bound, application(server) as app:
        import uvicorn

        class Ready(uvicorn.Server):
            async def startup(self, sockets: Any = None) -> None:
                await super().startup(sockets)
                ready()

        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1, lifespan="on")
        with contextlib.suppress(KeyboardInterrupt):
            Ready(config).run(sockets=[bound])
