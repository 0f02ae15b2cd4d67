"""An OpenAI-compatible server around a tiny model, which can be told to misbehave."""

import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tokenry.models import LocalText, Sampling

KEY = "sk-secret-1234567890"


class TinyServer(ThreadingHTTPServer):
    """Answers each request with the next of `moods`, and well when there is none.

    Moods: `429`, `500`, `400`, `404`, `broken` (no JSON), `page` (HTML), `strange` (JSON of another shape), `no log-probs`, `other tokens`,
    `few` (one choice), `none` (no choice), `filtered`, `no usage`, `late`.
    """

    daemon_threads = True

    def __init__(self, text: LocalText, key: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.text, self.key, self.lock = text, key, threading.Lock()
        self.moods: deque[str] = deque()
        self.requests: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@contextmanager
def tiny_server(text: LocalText, *moods: str, key: str = "") -> Iterator[TinyServer]:
    server = TinyServer(text, key)
    server.moods.extend(moods)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: TinyServer

    def log_message(self, *_: Any) -> None:
        """Silence."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append({"path": self.path, "headers": dict(self.headers), **body})
            mood = self.server.moods.popleft() if self.server.moods else ""
        if self.server.key and self.headers["Authorization"] != f"Bearer {self.server.key}":
            # As some servers do, with the key in it.
            return self.send({"error": {"message": f"bad key {self.headers['Authorization']}"}}, 401)
        if mood.isdigit():
            return self.send(
                {"error": {"message": f"I say {mood} to {self.headers['Authorization']}"}}, int(mood)
            )
        if mood == "broken":
            return self.send('{"choices": [', 200)
        if mood == "page":
            return self.send("<html>welcome</html>", 200, "text/html")
        if mood == "strange":
            return self.send({"choices": "many"}, 200)
        if mood == "late":
            time.sleep(1.0)
        return self.send(self.answer(body, mood), 200)

    def answer(self, body: dict[str, Any], mood: str) -> dict[str, Any]:
        is_chat = "messages" in body
        sampling = Sampling(
            body["max_tokens"],
            body["temperature"],
            body["top_p"],
            tuple(body.get("stop", ())),
            seed=body.get("seed"),
        )
        count = {"few": 1, "none": 0}.get(mood, body.get("n", 1))
        tokenizer, choices = self.server.text.tokenizer, []
        with self.server.lock:
            texts = self.server.text.generate(
                [body["messages"] if is_chat else body["prompt"]] * count, sampling
            )
        for text in texts:
            ids = tokenizer(text.text, add_special_tokens=False)["input_ids"]
            tokens = (
                ["?!"] * len(ids)
                if mood == "other tokens"
                else [tokenizer.decode([number]) for number in ids]
            )
            pairs = list(zip(tokens, text.log_probs, strict=False))
            if is_chat:
                known = {
                    "content": [{"token": token, "logprob": value, "bytes": None} for token, value in pairs]
                }
                choice = {"message": {"role": "assistant", "content": text.text}}
            else:
                known = {
                    "tokens": [token for token, _ in pairs],
                    "token_logprobs": [value for _, value in pairs],
                }
                choice = {"text": text.text}
            told = body.get("logprobs") and mood != "no log-probs"
            choices.append(
                {
                    **choice,
                    "index": len(choices),
                    "finish_reason": text.finish_reason,
                    "logprobs": known if told else None,
                }
            )
            if mood == "filtered":
                choices[-1]["finish_reason"] = "content_filter"
        usage = {
            "prompt_tokens": texts[0].prompt_tokens if texts else 0,
            "completion_tokens": sum(text.completion_tokens for text in texts),
        }
        return {
            "id": "1",
            "object": "x",
            "choices": choices,
            **({} if mood == "no usage" else {"usage": usage}),
        }

    def send(self, answer: Any, status: int, kind: str = "application/json") -> None:
        data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # whoever asked has given up
