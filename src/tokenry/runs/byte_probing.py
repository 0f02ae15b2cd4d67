"""What `tokenry bytes` shows: next bytes, scores and samples of named models, and the byte map of a tokenizer.

Several models are one ensemble. Everything comes as plain data, with probabilities and bits instead of infinite logarithms.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokenry.core.errors import UserError
from tokenry.decoding.byte_level.byte_baselines import healed_next_byte, naive_next_byte
from tokenry.decoding.byte_level.byte_ensemble import ByteEnsemble
from tokenry.decoding.byte_level.byte_generation import Generated
from tokenry.decoding.byte_level.byte_lm import END, ByteLM
from tokenry.decoding.byte_level.byte_map import check_byte_map
from tokenry.decoding.byte_level.byte_surprisal import surprisal
from tokenry.models import load_model, load_tokenizer, preferred_device
from tokenry.runs.quiet import quiet_libraries


def read_prompt(text: str | None, hexadecimal: str | None = None, file: Path | None = None) -> bytes:
    """Take a prompt from the one place where it is given.

    Raises:
        UserError: it is given in no place or in several, or is no hexadecimal.
    """
    given = [each for each in (text, hexadecimal, file) if each is not None]
    if len(given) != 1:
        raise UserError(
            f"give the text once, as an argument, with --hex or with --file; got it {len(given)} times."
        )
    if file is not None:
        if not file.is_file():
            raise UserError(f"the file {file} does not exist.")
        return file.read_bytes()
    if hexadecimal is None:
        return (text or "").encode()
    try:
        return bytes.fromhex(hexadecimal)
    except ValueError as error:
        raise UserError(
            f"--hex takes pairs of hexadecimal digits, as in 636166C3; got {hexadecimal!r}."
        ) from error


def load_byte_lm(name: str, dtype: str | None = None, **options: Any) -> ByteLM:
    """Load a model as a model of bytes, on the accelerator if there is one."""
    return ByteLM(load_model(name, dtype).to(preferred_device()), load_tokenizer(name), **options)


@quiet_libraries()
def next_bytes(
    models: Sequence[str], prompt: bytes, most: int = 10, dtype: str | None = None, **options: Any
) -> dict[str, Any]:
    """The most probable next bytes after a prompt, exactly; of one model also what it would say naively and healed."""
    lms = [load_byte_lm(name, dtype, **options) for name in models]
    logprobs = (lms[0] if len(lms) == 1 else ByteEnsemble(lms)).next_byte_logprobs(prompt)
    columns = {"probability": np.exp(logprobs)}
    if len(lms) == 1 and lms[0].invalid != "all":
        columns["healed"], columns["naive"] = (
            np.exp(baseline(lms[0], prompt)) for baseline in (healed_next_byte, naive_next_byte)
        )
    best = np.argsort(-logprobs, kind="stable")[:most].tolist()
    streams = [lm.stream(prompt) for lm in lms]
    return {
        "kind": "next bytes",
        "models": list(models),
        "prompt": _shown(prompt),
        "prompt_hex": prompt.hex(),
        "log_prob": [stream.log_prob for stream in streams],
        "covers": [len(stream.covers()) for stream in streams],
        "leak": [stream.leak for stream in streams],
        "next": [
            {"byte": _name(outcome), **{name: float(column[outcome]) for name, column in columns.items()}}
            for outcome in best
        ],
        "settings": {"dtype": dtype, **options},
    }


@quiet_libraries()
def score_bytes(
    model: str, text: bytes, per: str = "character", dtype: str | None = None, **options: Any
) -> dict[str, Any]:
    """The surprisal of every byte or character of a text, exact and as the tokens spread it."""
    lm = load_byte_lm(model, dtype, **options)
    exact = surprisal(lm, text, per)
    tokens = surprisal(lm, text, per, method="tokens")
    return {
        "kind": "surprisal",
        "model": model,
        "per": per,
        "exact": exact.exact,
        "bits_per_byte": exact.bits_per_byte,
        "bits_per_byte_of_tokens": tokens.bits_per_byte,
        "units": [
            {"text": _shown(unit), "bits": float(bits), "bits_of_tokens": float(spread)}
            for unit, bits, spread in zip(exact.units, exact.bits, tokens.bits, strict=True)
        ],
        "settings": {"dtype": dtype, **options},
    }


@quiet_libraries()
def sample_bytes(
    models: Sequence[str],
    prompt: bytes,
    samples: int = 1,
    max_bytes: int = 100,
    temperature: float = 0.6,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    seed: int = 0,
    dtype: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Texts that go on from a prompt, from a model or from an ensemble of several."""
    if samples < 1:
        raise UserError(f"samples must be at least 1, got {samples}.")
    lms = [load_byte_lm(name, dtype, **options) for name in models]
    found = (lms[0] if len(lms) == 1 else ByteEnsemble(lms)).generate(
        [prompt] * samples, max_bytes, temperature, top_p, [each.encode() for each in stop], seed
    )
    return {
        "kind": "generated",
        "models": list(models),
        "prompt": _shown(prompt),
        "prompt_hex": prompt.hex(),
        "samples": [
            {"text": _shown(each.text), "hex": each.text.hex(), "log_prob": each.log_prob, "why": each.why}
            for each in ([found] if isinstance(found, Generated) else found)
        ],
        "settings": {
            "max_bytes": max_bytes,
            "temperature": temperature,
            "top_p": top_p,
            "stop": list(stop),
            "seed": seed,
            "dtype": dtype,
            **options,
        },
    }


@quiet_libraries()
def examine_byte_map(tokenizer: str) -> dict[str, Any]:
    """The self-test of a tokenizer's byte map."""
    return {"kind": "byte map", "tokenizer": tokenizer, **check_byte_map(load_tokenizer(tokenizer)).as_json()}


def _name(outcome: int) -> str:
    if outcome == END:
        return "end"
    character = chr(outcome)
    return f"0x{outcome:02X}" + (f" {character!r}" if outcome < 0x80 else "")


def _shown(data: bytes) -> str:
    """Bytes as text; what is no character is written as an escape."""
    return data.decode(errors="backslashreplace")
