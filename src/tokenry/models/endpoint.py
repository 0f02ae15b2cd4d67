"""A model behind an OpenAI-compatible server (vLLM, llama.cpp, Ollama, a provider) as a `TextModel`, through the package openai.

    Endpoint("http://localhost:8000/v1", "my-model", max_tokens=100_000).generate(prompts, Sampling(max_new_tokens=64))

A prompt that fails stands in the results as failed, with the reason, and so does one that a cap left unasked: what is finished is kept.
Nothing is sent but the prompts. The key comes from the environment and is written to no file and no message.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from tokenry.core.errors import UserError, require_at_least
from tokenry.models.checkpoint import first_sentence
from tokenry.models.text_model import GREEDY, Generated, Prompt, Sampling

_INSTALL = "the package openai is not installed: pip install 'tokenry[endpoint]'."
_SHOWN = 200


class Endpoint:
    """A model of an OpenAI-compatible server; a conversation goes to `chat/completions`, a text to `completions`.

    Log-probs are those that the server tells: usually of the model itself at temperature 1, without the token that ends the text.
    Where an answer says nothing about its tokens (`usage`), they are counted by their log-probs.

    Args:
        base_url: address of the server, such as `http://localhost:8000/v1`.
        key_variable: environment variable that holds the key; a server that wants none needs none.
        timeout: seconds to wait for an answer.
        retries: attempts after the first for what may pass: too many requests, a server error, a late or broken answer.
        concurrency: number of requests at a time.
        max_calls: number of requests after which nothing is asked any more, repeated ones included as far as the answers were broken.
        max_tokens: number of tokens, prompts included, that are not to be exceeded; what is in flight counts with `max_new_tokens`, and
            its prompts when the answers say how long they were.

    Attributes:
        calls: requests so far.
        tokens: tokens so far, prompts included.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key_variable: str = "OPENAI_API_KEY",
        timeout: float | int = 60.0,
        retries: int = 4,
        concurrency: int = 8,
        max_calls: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise UserError(_INSTALL) from error
        require_at_least(1, concurrency=concurrency, max_calls=max_calls, max_tokens=max_tokens)
        require_at_least(0, retries=retries, timeout=timeout)
        address = urlsplit(base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise UserError(
                f"base_url must be an address such as http://localhost:8000/v1, got {address.path!r}."
            )
        # Without a user's name and password.
        self.address = f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"
        self.name, self.key_variable, self.timeout = model, key_variable, timeout
        self.retries, self.concurrency = retries, concurrency
        self.max_calls, self.max_tokens = max_calls, max_tokens
        self.calls = self.tokens = 0
        self._in_flight, self._lock = 0, Lock()
        self._key = os.environ.get(key_variable, "")
        self._client = openai.OpenAI(
            api_key=self._key or "none", base_url=base_url, timeout=float(timeout), max_retries=retries
        )

    def __repr__(self) -> str:
        return f"<Endpoint: {self.name} at {self.address}>"

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling = GREEDY) -> list[Generated]:
        """Ask for texts after each prompt, several requests at a time.

        Raises:
            UserError: no prompt was answered: no such server or model, a key is wanted, a cap was reached before.
        """
        run = _Run(self, sampling)
        with ThreadPoolExecutor(self.concurrency) as pool:
            answers = list(pool.map(run.answer, prompts))
        generated = [text for texts in answers for text in texts]
        if generated and all(text.finish_reason == "failed" for text in generated):
            raise UserError(generated[0].failure)
        return generated

    def _request(self, prompt: Prompt, sampling: Sampling, done: int) -> Any:
        options: dict[str, Any] = {
            "model": self.name,
            "max_tokens": sampling.max_new_tokens,
            "temperature": float(sampling.temperature),
            "top_p": float(sampling.top_p),
        }
        options |= {"stop": list(sampling.stop)} if sampling.stop else {}
        options |= {"n": sampling.samples - done} if sampling.samples - done > 1 else {}
        options |= {} if sampling.seed is None else {"seed": sampling.seed + done}
        if isinstance(prompt, str):
            options |= {"logprobs": 1} if sampling.log_probs else {}
            return self._client.completions.create(prompt=prompt, **options)
        options |= {"logprobs": True} if sampling.log_probs else {}
        messages: Any = list(prompt)
        return self._client.chat.completions.create(messages=messages, **options)

    def _take(self, reserved: int) -> str:
        """Take a request out of the caps; the reason why not, if it is more than is left."""
        with self._lock:
            if self.max_calls is not None and self.calls >= self.max_calls:
                return f"the cap of {self.max_calls} calls is reached: raise max_calls to go on."
            spent = self.tokens + self._in_flight
            if self.max_tokens is not None and spent + reserved > self.max_tokens:
                return (
                    f"the cap of {self.max_tokens} tokens would be passed ({self.tokens} are spent, and an answer may take {reserved}): "
                    "raise max_tokens to go on."
                )
            self.calls += 1
            self._in_flight += reserved
            return ""

    def _settle(self, reserved: int, spent: int) -> None:
        with self._lock:
            self._in_flight -= reserved
            self.tokens += spent

    def _in_words(self, error: Exception) -> str:
        """What a server said, in one line without the key."""
        said = first_sentence(error)
        # Before it is cut: half a key is a key too many.
        return (said.replace(self._key, "***") if self._key else said)[:_SHOWN]


class _AnswerError(Exception):
    """An answer that is not what was asked for; another attempt may be."""


class _Token(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _LogProbs(BaseModel):
    """Of `chat/completions` (content) or of `completions` (tokens and their log-probs)."""

    content: list[_Token] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float] | None = None

    def of_tokens(self) -> list[_Token]:
        if self.content is not None:
            return self.content
        pairs = zip(self.tokens or (), self.token_logprobs or (), strict=True)
        return [_Token(token=token, logprob=value) for token, value in pairs]


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    finish_reason: str | None = None
    message: _Message = _Message()
    text: str | None = None
    logprobs: _LogProbs | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Answer(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None


class _Run:
    """One call of `generate`: what no prompt can escape stops the others."""

    def __init__(self, endpoint: Endpoint, sampling: Sampling) -> None:
        self._endpoint, self._sampling = endpoint, sampling
        self._hopeless = ""

    def answer(self, prompt: Prompt) -> list[Generated]:
        """As many texts as are asked for, those that failed at the end."""
        endpoint, samples = self._endpoint, self._sampling.samples
        texts: list[Generated] = []
        failure, attempts = "", endpoint.retries + samples
        while len(texts) < samples and attempts and not self._hopeless:
            attempts -= 1
            reserved = self._sampling.max_new_tokens * (samples - len(texts))
            if failure := endpoint._take(reserved):
                break
            spent = 0
            try:
                answer = _read(endpoint._request(prompt, self._sampling, len(texts)))
                spent = answer.usage.prompt_tokens + answer.usage.completion_tokens if answer.usage else 0
                texts += self._texts(answer)[: samples - len(texts)]
                failure = (
                    f"{endpoint.name} at {endpoint.address} answered with {len(texts)} of {samples} choices."
                )
            except (_AnswerError, ValueError) as broken:
                failure = f"{endpoint.name} at {endpoint.address} gave a broken answer: {endpoint._in_words(broken)}"
            except Exception as error:
                failure = self._explain(error)
                break
            finally:
                endpoint._settle(reserved, spent)
        missing = Generated("", None, 0, 0, "failed", failure or self._hopeless)
        return [*texts, *[missing] * (samples - len(texts))]

    def _explain(self, error: Exception) -> str:
        """An error in a sentence, once the client has tried again; one that all prompts would meet ends the run."""
        import openai

        endpoint = self._endpoint
        told, at = endpoint._in_words(error), f"{endpoint.name} at {endpoint.address}"
        if isinstance(error, openai.APITimeoutError):
            return f"{at} gave no answer within {endpoint.timeout:g} s, {endpoint.retries + 1} times: raise timeout, or lower concurrency."
        if isinstance(error, openai.APIConnectionError):
            self._hopeless = f"no server answers at {endpoint.address}: check the address, and that the server runs ({told})."
        elif isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            given = "does not accept the key in" if endpoint._key else "wants a key: set"
            self._hopeless = f"{at} {given} the environment variable {endpoint.key_variable} ({told})."
        elif isinstance(error, openai.NotFoundError):
            self._hopeless = f"there is no {at}: check the model's name and the address, which usually ends with /v1 ({told})."
        elif isinstance(error, openai.RateLimitError):
            return f"{at} refused too many requests, {endpoint.retries + 1} times: lower concurrency, or wait ({told})."
        elif isinstance(error, openai.OpenAIError):
            return f"{at} failed: {told}."
        else:
            raise error
        return self._hopeless

    def _texts(self, answer: _Answer) -> list[Generated]:
        """The texts of an answer.

        Raises:
            _AnswerError: a text was withheld, its log-probs are of other tokens, or a cap cannot be kept.
        """
        if answer.usage is None and self._endpoint.max_tokens is not None:
            raise _AnswerError(
                "it does not say how many tokens it took (usage), so max_tokens cannot be kept: leave it out."
            )
        usage, texts = answer.usage or _Usage(), []
        for number, choice in enumerate(answer.choices):
            text = choice.message.content if choice.text is None else choice.text
            if text is None or choice.finish_reason == "content_filter":
                raise _AnswerError(f"it has no text (finish_reason {choice.finish_reason}).")
            tokens = choice.logprobs.of_tokens() if choice.logprobs and self._sampling.log_probs else []
            _require_tokens_of(text, tokens)
            share, rest = divmod(usage.completion_tokens, len(answer.choices))
            texts.append(
                Generated(
                    text,
                    tuple(token.logprob for token in tokens) or None,
                    usage.prompt_tokens,
                    len(tokens) or share + (number < rest),
                    "length" if choice.finish_reason == "length" else "stop",
                )
            )
        return texts


def _read(response: Any) -> _Answer:
    """The parts of an answer that are needed, whatever else it holds or lacks."""
    if not isinstance(response, BaseModel):
        raise _AnswerError("it is no JSON.")
    try:
        # The client passes on what it was sent, unchecked.
        return _Answer.model_validate(response.model_dump(warnings=False))
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise _AnswerError(f"{place} is not what it should be ({error.errors()[0]['msg']}).") from error


def _require_tokens_of(text: str, tokens: Sequence[_Token]) -> None:
    """Raise `_AnswerError` unless the tokens spell the text; a stop string or an end token may follow it."""
    written = b"".join(
        bytes(token.bytes) if token.bytes is not None else token.token.encode() for token in tokens
    )
    spelled, wanted = written.decode(errors="replace").strip(), text.strip()
    if "\N{REPLACEMENT CHARACTER}" in spelled:
        # Servers write it for a token that ends inside a character, which is never an ASCII one.
        spelled, wanted = (side.encode("ascii", "ignore").decode().strip() for side in (spelled, wanted))
    if tokens and not spelled.startswith(wanted):
        raise _AnswerError(
            f"its log-probs are of other tokens ({spelled[:40]!r}) than its text ({text[:40]!r})."
        )
