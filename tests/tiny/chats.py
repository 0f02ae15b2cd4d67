"""What a user brings, as small as it gets: a chat model on disk, and conversations in files."""

import json
from pathlib import Path
from random import Random
from typing import Any

from tests.tiny.models import llama as tiny_llama
from tests.tiny.tokenizers import chatml_tokenizer

# Small enough for a second or two per run.
QUICK = ("--dtype", "float32", "--max-length", "96", "--set", "max_steps=2")
QUICK += ("--set", "per_device_train_batch_size=4", "--set", "gradient_accumulation_steps=1")
QUICK += ("--set", "use_cpu=true")


def write_model(folder: Path, positions: int = 256) -> Path:
    """Save a Llama of two layers and a tokenizer with a ChatML template."""
    tokenizer = chatml_tokenizer()
    model = tiny_llama(
        vocab_size=len(tokenizer),
        max_position_embeddings=positions,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sums(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Conversations about sums, with a verifier and one marked stretch each."""
    draws = Random(seed)
    rows = []
    for _ in range(count):
        first, second = draws.randint(0, 9), draws.randint(0, 9)
        answer = f"The answer is {first + second}."
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": f"What is {first} + {second}?"},
                    {"role": "assistant", "content": answer},
                ],
                "spans": [{"start": 14, "end": len(answer) - 1, "class": "number"}],
                "verifier": {"kind": "number", "answer": str(first + second)},
            }
        )
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
