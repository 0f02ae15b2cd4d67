"""Speech as continuous tokens: log-mel frames, grouped, with the masks that a loss needs.

    frames   log(max(filters · √(|STFT(wave)|² + 1e-9), 1e-5))     reflect padding of (n_fft − hop) / 2 on both sides, periodic Hann window
    token j  frames j · group … (j + 1) · group − 1 in one vector; a tail that is not full is padded with silence and masked
    stop     1 from the last token on

Source: the mel frames of HiFi-GAN (arXiv 2010.05646), whose settings are the defaults; the grouping is MELLE's (arXiv 2407.08551).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers.audio_utils import mel_filter_bank

from tokenry.core.errors import UserError, require_at_least

SILENCE = math.log(1e-5)
"""The log-mel of silence: nothing lies below it."""


@dataclass(frozen=True)
class MelConfig:
    """Log-mel frames of a wave.

    Attributes:
        sample_rate: samples a second.
        n_fft: samples of a window.
        hop: samples from one frame to the next.
        n_mels: mel bins of a frame.
        fmin: lowest frequency, in Hz.
        fmax: highest frequency, in Hz.
    """

    sample_rate: int = 22_050
    n_fft: int = 1024
    hop: int = 256
    n_mels: int = 80
    fmin: float = 0.0
    fmax: float = 8000.0

    def __post_init__(self) -> None:
        require_at_least(1, sample_rate=self.sample_rate, n_fft=self.n_fft, hop=self.hop, n_mels=self.n_mels)
        if self.n_fft < self.hop or (self.n_fft - self.hop) % 2:
            raise UserError(
                f"n_fft must be hop or an even number of samples above it, got n_fft={self.n_fft} and hop={self.hop}."
            )
        if not 0 <= self.fmin < self.fmax <= self.sample_rate / 2:
            raise UserError(
                f"fmin and fmax must be between 0 and half the sample rate ({self.sample_rate / 2:g} Hz) in rising order, got "
                f"{self.fmin:g} and {self.fmax:g}."
            )

    @property
    def frames_per_second(self) -> float:
        """Frames of a second."""
        return self.sample_rate / self.hop

    @property
    def shortest(self) -> int:
        """The fewest samples that have a frame."""
        return max(self.hop, (self.n_fft - self.hop) // 2 + 1)


@cache
def mel_filters(config: MelConfig) -> Float[Tensor, "frequencies mels"]:
    """Triangular filters on Slaney's scale, with Slaney's norm, in float64."""
    frequencies = config.n_fft // 2 + 1
    scale = {"norm": "slaney", "mel_scale": "slaney"}
    filters = mel_filter_bank(
        frequencies, config.n_mels, config.fmin, config.fmax, config.sample_rate, **scale
    )
    return torch.from_numpy(filters)


def log_mel(wave: Float[Tensor, "samples"], config: MelConfig) -> Float[Tensor, "frames mels"]:
    """The log-mel frames of a wave of one channel, in its own precision.

    Raises:
        UserError: the wave is shorter than a frame, or not finite.
    """
    if len(wave) < config.shortest:
        raise UserError(
            f"a wave of {len(wave)} samples is shorter than one frame: give at least {config.shortest} samples."
        )
    if not bool(wave.isfinite().all()):
        raise UserError("the wave holds nan or inf: read it again, or leave it out.")
    border = (config.n_fft - config.hop) // 2
    padded = nn.functional.pad(wave[None], (border, border), mode="reflect")[0]
    spectrum = torch.stft(
        padded, config.n_fft, config.hop, window=_window(config, wave), center=False, return_complex=True
    )
    magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
    mel = magnitude.T @ mel_filters(config).to(wave)
    return mel.clamp(min=1e-5).log()


def _window(config: MelConfig, like: Tensor) -> Tensor:
    return torch.hann_window(config.n_fft, dtype=like.dtype, device=like.device)


class GroupedFrames(NamedTuple):
    """Continuous tokens of a batch, and what is real of them.

    Attributes:
        tokens: frames of each token in one vector, the first frame first; silence where there is no frame.
        lengths: tokens of each row.
        frame_mask: 1 for the frames that are real.
        element_mask: the same for every element of a token.
        stop_target: 1 from the last token of a row on.
    """

    tokens: Float[Tensor, "batch tokens channels"]
    lengths: Int[Tensor, "batch"]
    frame_mask: Float[Tensor, "batch frames"]
    element_mask: Float[Tensor, "batch tokens channels"]
    stop_target: Float[Tensor, "batch tokens"]


def group_frames(
    frames: Float[Tensor, "batch frames mels"],
    lengths: Int[Tensor, "batch"],
    group: int,
    pad_value: float = SILENCE,
) -> GroupedFrames:
    """Put `group` consecutive frames into one token.

    Args:
        frames: frames, padded on the right with anything.
        lengths: frames of each row that are real.
        group: frames of a token.
        pad_value: stands in the place of frames that are not real.

    Raises:
        UserError: a group of no frames, lengths that do not fit, or frames that are not finite.
    """
    require_at_least(1, group=group)
    batch, longest, mels = frames.shape
    if lengths.shape != (batch,) or bool((lengths > longest).any()) or bool((lengths < 0).any()):
        raise UserError(
            f"lengths must be {batch}, one for each row, from 0 to the {longest} frames that there are, got {lengths.tolist()}."
        )
    number = -(-longest // group)
    real = torch.arange(number * group, device=frames.device) < lengths[:, None]
    padded = nn.functional.pad(frames, (0, 0, 0, number * group - longest))
    if not bool(padded[real].isfinite().all()):
        raise UserError("the frames hold nan or inf: leave out the waves that they come from.")
    padded = torch.where(real[..., None], padded, padded.new_tensor(pad_value))
    token_lengths = -(-lengths // group)
    element_mask = real[..., None].expand(batch, number * group, mels).reshape(batch, number, group * mels)
    last = torch.arange(number, device=frames.device) >= token_lengths[:, None] - 1
    return GroupedFrames(
        padded.reshape(batch, number, group * mels),
        token_lengths,
        real.to(frames.dtype),
        element_mask.to(frames.dtype),
        last.to(frames.dtype),
    )


def ungroup_frames(
    tokens: Float[Tensor, "batch tokens channels"], lengths: Int[Tensor, "batch"], group: int
) -> list[Float[Tensor, "frames mels"]]:
    """The frames of each row.

    Args:
        tokens: continuous tokens.
        lengths: frames of each row; those of a tail that was filled up are left out.
        group: frames of a token.

    Raises:
        UserError: the channels are no whole number of frames.
    """
    require_at_least(1, group=group)
    batch, number, channels = tokens.shape
    if channels % group:
        raise UserError(
            f"tokens of {channels} channels hold no {group} frames of one size: give the group they were made with."
        )
    frames = tokens.reshape(batch, number * group, channels // group)
    return [row[:length] for row, length in zip(frames, lengths.tolist(), strict=True)]


def pad_frames(
    rows: Sequence[Float[Tensor, "_ mels"]],
) -> tuple[Float[Tensor, "batch frames mels"], Int[Tensor, "batch"]]:
    """Frames of several waves in one batch, padded with silence, and their lengths."""
    if not rows:
        raise UserError("there are no frames: give at least one wave.")
    padded = pad_sequence([*rows], batch_first=True, padding_value=SILENCE)
    return padded, torch.tensor([len(row) for row in rows])


class FrameScale(nn.Module):
    """Mean and deviation of every channel, by which continuous tokens are brought to about N(0, 1); stored with the weights.

    Args:
        channels: channels of a token or a frame.
    """

    mean: Tensor
    deviation: Tensor
    is_fitted: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("is_fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(
        self, tokens: Float[Tensor, "*batch channels"], real: Bool[Tensor, "*batch channels"] | None = None
    ) -> None:
        """Measure both on training data; a channel that never changes keeps its size.

        Args:
            tokens: continuous tokens, not normalised.
            real: their elements that are real; None for all.
        """
        values = tokens.double().reshape(-1, tokens.shape[-1])
        weight = torch.ones_like(values) if real is None else real.reshape(values.shape).double()
        count = weight.sum(0)
        if not bool((count > 0).all()):
            raise UserError(
                "a channel has no real element to measure its scale on: give training data that covers all channels."
            )
        mean = (values * weight).sum(0) / count
        deviation = ((values - mean).square() * weight).sum(0).div(count).sqrt()
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))
        self.is_fitted.fill_(True)

    def forward(self, tokens: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch channels"]:
        """Normalise."""
        return (tokens - self.mean) / self.deviation

    def inverse(self, tokens: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch channels"]:
        """Undo it."""
        return tokens * self.deviation + self.mean
