"""Where the app listens, what it refuses, and what it lets a browser do."""

import re
import socket
import subprocess
import sys

import pytest

from tests.verbs.check_verb import check_refused
from tokenry.app.server import Server, application, is_local, listening
from tokenry.core.errors import UserError


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    pytest.importorskip("gradio", reason="the app needs the extra app")
    from fastapi.testclient import TestClient

    folder = tmp_path_factory.mktemp("app")
    server = Server("127.0.0.1", 7860, False, ("embedded",), 1, folder / "runs")
    with application(server) as app, TestClient(app, base_url="http://127.0.0.1:7860") as found:
        yield found


def test_a_port_in_use_names_the_next_free_one():
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"^port {port} is in use: the next free one is (\d+), so add --port \1\.$"
        ) as error:
            listening("127.0.0.1", port)
    listening("127.0.0.1", int(re.search(r"one is (\d+)", str(error.value)).group(1))).close()


def test_an_address_that_is_not_here_is_named():
    with pytest.raises(
        UserError,
        match=r"^203\.0\.113\.1:7860 cannot be listened on \(.*\): choose another --host or --port\.$",
    ):
        listening("203.0.113.1", 7860)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.4", False),
        ("example.org", False),
    ],
)
def test_only_loopback_is_local(host, local):
    assert is_local(host) is local


def test_what_the_command_refuses():
    check_refused(
        "app",
        "--host",
        "0.0.0.0",
        words="--host 0.0.0.0 lets other machines use the app, which runs jobs here for whoever opens it: add --allow-remote if that is meant",
    )
    check_refused("app", "--port", 0, words="--port must be from 1 to 65535, got 0.")
    check_refused("app", "--upload-megabytes", 0, words="--upload-megabytes must be at least 1, got 0.")


def test_the_page_may_load_from_its_own_server_only(client):
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "fonts.googleapis" not in client.get("/theme.css").text


def test_a_page_of_another_name_is_not_answered(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/none/report.html",
        "/jobs/../../etc/passwd",
        "/jobs/a/..%2f..%2fetc%2fpasswd",
        "/gradio_api/file=/etc/passwd",
        "/docs",
    ],
)
def test_no_other_file_is_served(client, path):
    assert client.get(path).status_code in (403, 404)


def test_an_upload_that_is_too_large_is_refused(client):
    answer = client.post("/gradio_api/upload", files={"files": ("large.txt", b"x" * (2**20 + 1))})
    assert answer.status_code == 413


def test_remote_users_choose_among_the_models_that_are_named(tmp_path):
    pytest.importorskip("gradio", reason="the app needs the extra app")
    import gradio

    from tokenry.app.fields import Model, Shown

    here, remote = (
        Model("model", "Model").component(gradio, Shown(("embedded",), any_model=any_model), label="Model")
        for any_model in (True, False)
    )
    assert here.preprocess("/some/folder") == "/some/folder"
    with pytest.raises(gradio.Error):
        remote.preprocess("/some/folder")


def test_the_command_line_loads_neither_torch_nor_numpy_nor_gradio():
    code = "import sys, tokenry.cli; print([name for name in ('torch', 'numpy', 'gradio') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_page_is_built_without_what_only_jobs_need_and_without_stubs_for_editors(tmp_path):
    pytest.importorskip("gradio", reason="the app needs the extra app")
    code = (
        "import sys; from pathlib import Path; opened = []\n"
        "sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == 'open' else None)\n"
        "import tokenry.cli; from tokenry.app.server import Server, application\n"
        "with application(Server('127.0.0.1', 7860, False, ('embedded',), 1, Path(sys.argv[1]))):\n"
        "    print([name for name in ('torch', 'transformers', 'matplotlib', 'scipy.special') if name in sys.modules])\n"
        "    print([name for name in opened if name.endswith('.pyi')])"
    )
    found = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["[]", "[]"]
