"""From log-mel frames to a wave: Griffin–Lim, which needs no weights, and the vocoders of transformers.

A vocoder is any callable from frames (frames, mels) to a wave (samples,). Griffin–Lim (1984), with momentum (Perraudin, Balazs and
Søndergaard 2013), alternates between the spectrum of a wave and the magnitudes it should have:

    phase ← angle(C + momentum · (C − C before)),   C = STFT(iSTFT(magnitude · phase))
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import read_json
from tokenry.generation.flow_omni.speech_frames import MelConfig, mel_filters

Vocoder = Callable[[Tensor], Tensor]
"""Log-mel frames (frames, mels) to a wave (samples,) in [−1, 1]."""

_HIFIGAN = ("speecht5_hifigan", "hifigan")
"""The kind of a `SpeechT5HifiGan`, and what older versions of transformers call it, as do the weights that are released."""


@dataclass(frozen=True)
class GriffinLim:
    """A vocoder without weights.

    Attributes:
        mel: of the frames.
        iterations: how often spectrum and wave are made of each other.
        momentum: how far a step goes beyond; 0 for the first algorithm.
        seed: random seed of the first phases.
    """

    mel: MelConfig
    iterations: int = 60
    momentum: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(1, iterations=self.iterations)
        if not 0 <= self.momentum < 1:
            raise UserError(f"momentum must be in [0, 1), got {self.momentum}.")

    def __call__(self, frames: Float[Tensor, "frames mels"]) -> Float[Tensor, "samples"]:
        """A wave of `hop` samples a frame whose log-mel is near the frames."""
        magnitude = linear_magnitude(frames.float(), self.mel).T
        draw = torch.Generator().manual_seed(self.seed)
        angle = 2 * math.pi * torch.rand(magnitude.shape, generator=draw).to(magnitude)
        phase, before = (
            torch.polar(torch.ones_like(angle), angle),
            torch.zeros_like(angle, dtype=torch.cfloat),
        )
        for _ in range(self.iterations):
            found = self._spectrum(self._wave(magnitude * phase))
            ahead = found + self.momentum * (found - before)
            phase, before = ahead / ahead.abs().clamp(min=1e-9), found
        return self._wave(magnitude * phase)

    def _wave(self, spectrum: Tensor) -> Tensor:
        """The middle of frame i stands at i · hop + hop / 2 of the wave, and at i · hop for torch: half a hop is put before it."""
        window, half = torch.hann_window(self.mel.n_fft).to(spectrum.real), self.mel.hop // 2
        length = (spectrum.shape[1] - 1) * self.mel.hop
        if not length:
            middle = (self.mel.n_fft - self.mel.hop) // 2
            return torch.fft.irfft(spectrum[:, 0], self.mel.n_fft)[middle : middle + self.mel.hop]
        inner = torch.istft(spectrum, self.mel.n_fft, self.mel.hop, window=window, length=length)
        return torch.nn.functional.pad(inner, (half, self.mel.hop - half))

    def _spectrum(self, wave: Tensor) -> Tensor:
        window, half = torch.hann_window(self.mel.n_fft).to(wave), self.mel.hop // 2
        inner = wave[half : len(wave) - (self.mel.hop - half)]
        ends = self.mel.n_fft // 2
        padded = torch.nn.functional.pad(inner, (ends, ends))
        return torch.stft(
            padded, self.mel.n_fft, self.mel.hop, window=window, center=False, return_complex=True
        )


def linear_magnitude(
    frames: Float[Tensor, "frames mels"], mel: MelConfig, iterations: int = 50
) -> Float[Tensor, "frames frequencies"]:
    """Magnitudes that have these mel frames: non-negative least squares by multiplicative updates (Lee and Seung 2001).

    x ← x · (A m) / (A Aᵀ x)        A filters, m mel
    """
    filters, target = mel_filters(mel).to(frames), frames.exp()
    wanted, overlap = target @ filters.T, filters @ filters.T
    found = wanted
    for _ in range(iterations):
        found = found * wanted / (found @ overlap).clamp(min=1e-12)
    return found


def load_vocoder(folder: Path, mel: MelConfig) -> Vocoder:
    """Load a vocoder that transformers knows: `SpeechT5HifiGan` or `UnivNetModel`.

    Raises:
        UserError: a folder without one, or one for frames of another kind.
    """
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig, UnivNetConfig, UnivNetModel

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} holds no vocoder (config.json): name a folder with a SpeechT5HifiGan or a UnivNetModel."
        )
    stored = read_json(folder / "config.json")
    kind = stored.get("model_type") if isinstance(stored, dict) else None
    if kind not in (*_HIFIGAN, "univnet"):
        raise UserError(
            f"{folder} is a model of the kind {kind!r}: a vocoder is one of SpeechT5HifiGan and UnivNetModel."
        )
    is_hifigan = kind in _HIFIGAN
    config: Any = (SpeechT5HifiGanConfig if is_hifigan else UnivNetConfig).from_dict(stored)
    bins = config.model_in_dim if is_hifigan else config.num_mel_bins
    hop = math.prod(config.upsample_rates if is_hifigan else config.resblock_stride_sizes)
    rate = getattr(config, "sampling_rate", mel.sample_rate)
    theirs, ours = (bins, hop, rate), (mel.n_mels, mel.hop, mel.sample_rate)
    if theirs != ours:
        names = ("mel bins", "samples a frame", "samples a second")
        wrong = next(place for place in range(3) if theirs[place] != ours[place])
        raise UserError(
            f"{folder} is a vocoder for {theirs[wrong]} {names[wrong]}, and the frames have {ours[wrong]}: train with its settings."
        )
    model = (SpeechT5HifiGan if is_hifigan else UnivNetModel).from_pretrained(
        folder, use_safetensors=True, local_files_only=True
    )
    model.eval()
    # The frames of SpeechT5 are logarithms to the base of ten.
    scale = 1 / math.log(10) if is_hifigan else 1.0

    @torch.no_grad()
    def vocoder(frames: Float[Tensor, "frames mels"]) -> Float[Tensor, "samples"]:
        found = model(frames.float() * scale)
        wave = found if isinstance(found, Tensor) else found.waveforms
        return wave.flatten()

    return vocoder
