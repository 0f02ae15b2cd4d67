"""Spoken digits as log-mel frames: a synthetic voice, or the recordings of the Free Spoken Digit Dataset, and a network that recognises them.

Synthetic: each digit in each voice several times, with a pitch and a speed that nothing tells the model: what is said is then a distribution,
as it is for people. 8 kHz, 24 mel bins, a frame every 12.5 ms, at most 64 frames.

Recordings: the wav files DIGIT_SPEAKER_TAKE.wav of the data set (CC BY-SA 4.0, not shipped), takes 0 to 4 for testing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from scipy.signal import resample_poly
from torch import Generator, Tensor, nn

from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress
from tokenry.generation.flow_omni.speech_frames import SILENCE, MelConfig, log_mel, pad_frames
from tokenry.generation.flow_omni.waves import read_wave
from tokenry.recipes.kit import batches_of_epochs, fit, one_cycle
from tokenry.recipes.testbeds.synthetic_voice import SAMPLE_RATE, VOICES, Speaker, SyntheticVoice

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MEL = MelConfig(8000, 256, 100, 24, 0.0, 4000.0)
FRAMES = 64
"""Frames of the longest clip."""
SHORTEST = 8 * MEL.hop
"""Samples of the shortest clip."""

_AUDIBLE = 0.01


@dataclass(frozen=True)
class Clip:
    """One spoken digit.

    Attributes:
        wave: 8 kHz, without the silence around it.
        digit: what is said.
        voice: number of the voice.
        is_test: whether it is kept for testing.
    """

    wave: Float[Tensor, "samples"]
    digit: int
    voice: int
    is_test: bool

    def frames(self, group: int) -> Float[Tensor, "frames mels"]:
        """Its log-mel frames, as many as whole tokens of `group` frames have."""
        return whole_tokens(log_mel(self.wave, MEL), group)[:FRAMES]


def synthetic_digits(voices: int, takes: int, test_takes: int, seed: int, progress: Progress) -> list[Clip]:
    """Let a synthetic voice say every digit in several voices; pitch and speed are drawn anew for each clip."""
    if not 1 <= voices <= len(VOICES):
        raise UserError(f"voices must be from 1 to {len(VOICES)}, got {voices}.")
    voice, draw, clips = SyntheticVoice(seed), Generator().manual_seed(seed), []
    for number in range(voices):
        for digit, word in enumerate(WORDS):
            for take in range(takes + test_takes):
                pitch = int(torch.randint(30, 71, (), generator=draw))
                speed = int(torch.randint(140, 221, (), generator=draw))
                wave = voice.say(word, Speaker(VOICES[number], pitch, speed))
                clips.append(Clip(trimmed(at_8_khz(wave)), digit, number, take >= takes))
        progress("speaking", (number + 1) / voices)
    return clips


def at_8_khz(wave: Float[Tensor, "samples"]) -> Float[Tensor, "fewer"]:
    """The synthetic voice at the rate of the recordings."""
    return torch.from_numpy(resample_poly(wave.numpy(), MEL.sample_rate // 50, SAMPLE_RATE // 50)).float()


def trimmed(wave: Float[Tensor, "samples"]) -> Float[Tensor, "fewer"]:
    """The wave without what cannot be heard before and behind it, at least as long as a frame."""
    loud = (wave.abs() > _AUDIBLE * wave.abs().max()).nonzero()[:, 0]
    first, last = int(loud[0]), int(loud[-1]) + 1
    kept = wave[first:last]
    return nn.functional.pad(kept, (0, max(0, SHORTEST - len(kept))))


def recorded_digits(folder: Path) -> list[Clip]:
    """Read DIGIT_SPEAKER_TAKE.wav files.

    Raises:
        UserError: a folder without them.
    """
    found = {
        path: re.fullmatch(r"(\d)_([a-z]+)_(\d+)", path.stem) for path in sorted(Path(folder).glob("*.wav"))
    }
    named = {path: match for path, match in found.items() if match}
    if not named:
        raise UserError(
            f"{folder} holds no recordings named DIGIT_SPEAKER_TAKE.wav: name the folder of the Free Spoken Digit Dataset."
        )
    speakers = sorted({match[2] for match in named.values()})
    return [
        Clip(
            trimmed(read_wave(path, MEL.sample_rate)),
            int(match[1]),
            speakers.index(match[2]),
            int(match[3]) < 5,
        )
        for path, match in named.items()
    ]


class DigitRecogniser(nn.Module):
    """A small convolutional network that hears which digit frames say.

    Args:
        mean: of every mel bin.
        deviation: of every mel bin.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Float[Tensor, "mels"], deviation: Float[Tensor, "mels"]) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        layers: list[nn.Module] = []
        for before, after in ((len(mean), 48), (48, 64), (64, 64)):
            layers += [nn.Conv1d(before, after, 5, stride=2, padding=2), nn.BatchNorm1d(after), nn.ReLU()]
        self.layers, self.dropout, self.out = nn.Sequential(*layers), nn.Dropout(0.2), nn.Linear(64 * 2, 10)

    def features(self, frames: Float[Tensor, "batch frames mels"]) -> Float[Tensor, "batch features"]:
        """What the last layer reads: mean and maximum over time."""
        fixed = nn.functional.pad(
            frames[:, :FRAMES], (0, 0, 0, max(0, FRAMES - frames.shape[1])), value=SILENCE
        )
        found = self.layers(((fixed - self.mean) / self.deviation).transpose(1, 2))
        return torch.cat([found.mean(2), found.amax(2)], dim=1)

    def forward(self, frames: Float[Tensor, "batch frames mels"]) -> Float[Tensor, "batch digits"]:
        """Logits of the digits."""
        return self.out(self.dropout(self.features(frames)))

    @torch.no_grad()
    def heard(self, frames: Sequence[Float[Tensor, "_ mels"]]) -> Int[Tensor, "clips"]:
        """The digit that each clip is taken for."""
        self.eval()
        found: Tensor = self(pad_frames(frames)[0]).argmax(1)
        return found


def trained_recogniser(
    frames: Sequence[Float[Tensor, "_ mels"]],
    digits: Int[Tensor, "clips"],
    mean: Float[Tensor, "mels"],
    deviation: Float[Tensor, "mels"],
    epochs: int,
    seed: int,
) -> DigitRecogniser:
    """Train a recogniser on clips."""
    torch.manual_seed(seed)
    model = DigitRecogniser(mean, deviation)
    padded, draw = pad_frames(frames)[0], Generator().manual_seed(seed)
    batch_size = min(32, len(frames))
    steps = epochs * (len(frames) // batch_size)

    def loss(batch: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(padded[batch]), digits[batch])

    fit(model, batches_of_epochs(len(frames), batch_size, epochs, draw), loss, steps, 3e-3, one_cycle)
    return model.eval()


def whole_tokens(frames: Float[Tensor, "frames mels"], group: int) -> Float[Tensor, "fewer mels"]:
    """Frames without a tail that fills no token: a head that is taught what fills it up says silence."""
    return frames[: max(group, len(frames) - len(frames) % group)]


def disturbed(wave: Float[Tensor, "samples"], how: str, generator: Generator) -> Float[Tensor, "others"]:
    """A wave as a codebook that was made of clean speech does not know it: higher, noisy or clipped."""
    if how == "pitch × 1.5":
        return nn.functional.pad(
            torch.from_numpy(resample_poly(wave.numpy(), 2, 3)).float(), (0, MEL.shortest)
        )
    if how == "noise at 10 dB":
        power = wave.square().mean() / 10
        return wave + power.sqrt() * torch.randn(len(wave), generator=generator)
    if how == "clipped at 20 %":
        most = 0.2 * wave.abs().max()
        return wave.clamp(-most, most)
    raise ValueError(how)


DISTURBANCES = ("pitch × 1.5", "noise at 10 dB", "clipped at 20 %")
