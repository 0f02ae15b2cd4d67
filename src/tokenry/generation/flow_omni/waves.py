"""Waves in files: read as one channel at one rate, and written; anything else is refused with the way to allow it.

WAV needs nothing further; FLAC, OGG and MP3 are read by soundfile (extra `speech`).
"""

import math
import struct
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.io import wavfile
from scipy.signal import resample_poly
from torch import Tensor

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import atomic_write

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff")
_LEAST = 1e-4


def read_wave(
    path: Path, sample_rate: int, resample: bool = False, mix: bool = False
) -> Float[Tensor, "samples"]:
    """Read a wave.

    Args:
        path: the file.
        sample_rate: the rate it must have.
        resample: bring a wave of another rate to it.
        mix: take the mean of several channels.

    Raises:
        UserError: no wave, one of another rate or of several channels, or silence.
    """
    path = Path(path)
    samples, rate = _read(path)
    if not len(samples):
        raise UserError(f"{path} holds no samples.")
    if samples.shape[1] > 1 and not mix:
        raise UserError(f"{path} has {samples.shape[1]} channels: give one, or mix=True for their mean.")
    wave = samples.mean(axis=1)
    if rate != sample_rate:
        if not resample:
            raise UserError(
                f"{path} has {rate:,} samples a second and {sample_rate:,} are needed: give such a file, or resample=True."
            )
        common = math.gcd(rate, sample_rate)
        wave = resample_poly(wave, sample_rate // common, rate // common)
    if not np.isfinite(wave).all():
        raise UserError(f"{path} holds nan or inf: write it again, or leave it out.")
    if np.abs(wave).max() < _LEAST:
        raise UserError(f"{path} is silent: no sample reaches {_LEAST:g}; leave it out.")
    return torch.from_numpy(wave.astype(np.float32))


def write_wave(path: Path, wave: Float[Tensor, "samples"], sample_rate: int) -> None:
    """Write a wave as 16-bit WAV, atomically; what lies beyond [−1, 1] is scaled down to it.

    Raises:
        UserError: another kind of file, or no finite wave.
    """
    path = Path(path)
    require_wave_name(path)
    require_at_least(1, sample_rate=sample_rate)
    samples = wave.detach().cpu().double().numpy()
    if not len(samples) or not np.isfinite(samples).all():
        wrong = "holds nan or inf" if len(samples) else "has no samples"
        raise UserError(f"the wave for {path} {wrong}, so it cannot be written.")
    samples = samples / max(1.0, float(np.abs(samples).max()))
    with atomic_write(path) as partial, partial.open("wb") as opened:
        wavfile.write(opened, sample_rate, np.round(samples * 32767).astype(np.int16))


def require_wave_name(path: Path) -> None:
    """Raise `UserError` unless a wave can be written under the name."""
    if Path(path).suffix.lower() != ".wav":
        raise UserError(f"waves are written as .wav, got {path}.")


def _read(path: Path) -> tuple[np.ndarray, int]:
    """Samples by channel in [−1, 1], and their rate."""
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is no wave: its name must end in {', '.join(SUFFIXES)}.")
    if path.suffix.lower() == ".wav":
        try:
            rate, samples = wavfile.read(path)
        except (ValueError, OSError, EOFError, struct.error) as error:
            raise UserError(
                f"{path} cannot be read as WAV ({str(error).rstrip('.')}): write it again as PCM."
            ) from error
        return _scaled(samples), rate
    reader = _soundfile(path)
    try:
        samples, rate = reader.read(path, dtype="float64", always_2d=True)
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({str(error).rstrip('.')}): write it again as WAV."
        ) from error
    return samples, rate


def _soundfile(path: Path) -> Any:
    try:
        return import_module("soundfile")
    except (ImportError, OSError) as error:
        raise UserError(
            f"{path.suffix} is read by soundfile: pip install 'tokenry[speech]', or give WAV."
        ) from error


def _scaled(samples: np.ndarray) -> np.ndarray:
    samples = samples if samples.ndim == 2 else samples[:, None]
    if samples.dtype == np.uint8:
        return (samples.astype(np.float64) - 128) / 128
    if np.issubdtype(samples.dtype, np.integer):
        return samples.astype(np.float64) / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float64)
