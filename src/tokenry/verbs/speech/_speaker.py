"""A model that speaks, as it is stored; and the picture of speech frames."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError
from tokenry.core.io.files import read_json
from tokenry.report.blocks import Block, Patches
from tokenry.verbs._hardware import Hardware

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from tokenry.generation import ContinuousTokenLM

_KIND = "continuous-tokens"


def is_speaker(folder: Path) -> bool:
    """Whether a folder holds a model with continuous tokens, by itself or under `model`."""
    config = _inside(folder) / "config.json"
    return config.is_file() and read_json(config).get("model_type") == _KIND


def load_speaker(folder: Path, hardware: Hardware) -> "tuple[ContinuousTokenLM, Any, Any]":
    """Load a model that `tokenry speech train` wrote, its tokenizer, and what makes the inputs of its encoder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    from transformers import AutoFeatureExtractor

    from tokenry.generation import ContinuousTokenLM
    from tokenry.models import load_tokenizer
    from tokenry.models.checkpoint import first_sentence

    if not is_speaker(folder):
        raise UserError(f"{folder} holds no model that speaks: train one with tokenry speech train.")
    inside = _inside(folder)
    try:
        model, loading = ContinuousTokenLM.from_pretrained(
            inside,
            dtype=hardware.dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{inside} cannot be loaded: {first_sentence(error)}") from error
    if loading["missing_keys"]:
        raise UserError(
            f"{inside} lacks {len(loading['missing_keys'])} of its tensors: the file is incomplete."
        )
    features = None if model.encoder is None else AutoFeatureExtractor.from_pretrained(inside)
    return model.to(hardware.place()), load_tokenizer(inside), features


def load_encoder(name: str) -> "PreTrainedModel":
    """Load a speech encoder.

    Raises:
        UserError: a folder without one.
    """
    from transformers import AutoModel

    from tokenry.models.checkpoint import find_folder, first_sentence, require_config, require_weights
    from tokenry.models.loading import MODEL_PATTERNS, WEIGHTS

    folder = find_folder(name, MODEL_PATTERNS, None)
    require_config(name, folder)
    require_weights(name, folder, WEIGHTS)
    try:
        model: PreTrainedModel = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{name} cannot be loaded as a speech encoder: {first_sentence(error)}") from error
    if model.main_input_name != "input_features":
        raise UserError(
            f"{name} reads {model.main_input_name}, not input_features: give a Whisper-like model."
        )
    return model


def mel_picture(frames: "Tensor") -> dict[str, Any]:
    """Log-mel frames as a picture: time to the right, frequency upwards."""
    import numpy as np
    from matplotlib import colormaps
    from PIL import Image

    values = frames.detach().cpu().float().numpy().T[::-1]
    low, high = np.percentile(values, [1, 99.5]) if values.size else (0.0, 1.0)
    scaled = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    image = Image.fromarray((colormaps["magma"](scaled)[..., :3] * 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.resize((max(1, 4 * image.width), max(1, 4 * image.height))).save(buffer, "JPEG", quality=85)
    return {
        "image": base64.b64encode(buffer.getvalue()).decode(),
        "frames": int(values.shape[1]),
        "mels": int(values.shape[0]),
    }


def shown_mel(title: str, picture: dict[str, Any]) -> list[Block]:
    """A block with the picture of frames; none where there are no frames."""
    if not picture["frames"]:
        return []
    caption = f"{picture['frames']:,} frames from left to right, {picture['mels']} mel bins from below"
    return [Patches(title, picture["image"], picture["mels"], picture["frames"], [], caption)]


def _inside(folder: Path) -> Path:
    return folder / "model" if (folder / "model" / "config.json").is_file() else folder
