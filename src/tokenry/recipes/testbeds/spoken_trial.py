"""Three heads on one small model that says digits: training, speaking, and what is measured of the frames.

Every model is told digit, voice and length; they differ in the head alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Generator, Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tokenry.core.io.progress import Progress, named
from tokenry.core.stats import Estimate, bootstrap_estimate, resampled_totals
from tokenry.core.stats.frechet import frechet_distance
from tokenry.generation import (
    ContinuousTokenConfig,
    ContinuousTokenLM,
    SpeechSampling,
    SpokenSample,
    StreamCollator,
    group_frames,
    log_mel,
    ungroup_frames,
)
from tokenry.generation.flow_omni.speech_frames import pad_frames
from tokenry.recipes.kit import batches_of_epochs, cosine, fit
from tokenry.recipes.testbeds.speech_heads import CodebookSpeechLM, RegressionSpeechLM
from tokenry.recipes.testbeds.spoken_digits import (
    DISTURBANCES,
    FRAMES,
    MEL,
    WORDS,
    Clip,
    disturbed,
    recorded_digits,
    synthetic_digits,
    whole_tokens,
)

GROUP = 4
FLOW, CODEBOOK, REGRESSION = "flow", "codebook", "regression"
ARMS: Mapping[str, type[ContinuousTokenLM]] = {
    FLOW: ContinuousTokenLM,
    CODEBOOK: CodebookSpeechLM,
    REGRESSION: RegressionSpeechLM,
}
Frames = Sequence[Tensor]
"""Frames of several clips."""


@dataclass(frozen=True)
class SpokenSizes:
    """Size of the experiment at one scale.

    Attributes:
        voices: of the synthetic voice.
        takes: training clips of a digit in a voice.
        test_takes: test clips.
        codes: of the codebook.
        width: of the transformer.
        head_width: of the heads.
        steps: training steps of each arm.
        batch: clips of a step.
        draws: draws of the bootstrap.
        seed: random seed.
    """

    voices: int = 10
    takes: int = 12
    test_takes: int = 3
    codes: int = 512
    width: int = 80
    head_width: int = 128
    steps: int = 700
    batch: int = 48
    draws: int = 1000
    seed: int = 0


def spoken_clips(sizes: SpokenSizes, recordings: Path | None, progress: Progress) -> list[Clip]:
    """The recordings in a folder, or what the synthetic voice says."""
    if recordings is not None:
        return recorded_digits(recordings)
    return synthetic_digits(sizes.voices, sizes.takes, sizes.test_takes, sizes.seed, progress)


class SpokenTrial:
    """Clips, and what models trained on them say.

    Args:
        clips: for training and for testing.
        sizes: of the experiment.

    Attributes:
        train: frames of the training clips, in an order of their own.
        test: frames of the test clips.
    """

    def __init__(self, clips: Sequence[Clip], sizes: SpokenSizes) -> None:
        self.sizes = sizes
        order = torch.randperm(len(clips), generator=Generator().manual_seed(sizes.seed)).tolist()
        mixed = [clips[number] for number in order]
        self.train_clips = [clip for clip in mixed if not clip.is_test]
        self.test_clips = [clip for clip in mixed if clip.is_test]
        self.train = [clip.frames(GROUP) for clip in self.train_clips]
        self.test = [clip.frames(GROUP) for clip in self.test_clips]
        self.voices = 1 + max(clip.voice for clip in clips)
        every = torch.cat(self.train)
        self.mean, self.deviation = every.mean(0), every.std(0)

    def digits(self, clips: Sequence[Clip]) -> Int[Tensor, "clips"]:
        """What is said in each."""
        return torch.tensor([clip.digit for clip in clips])

    def prompt(self, clip: Clip, frames: Tensor) -> tuple[int, int, int]:
        """Digit, voice and number of tokens."""
        return clip.digit, len(WORDS) + clip.voice, len(WORDS) + self.voices + len(frames) // GROUP - 1

    def model(self, arm: str) -> ContinuousTokenLM:
        """A model with the head of an arm, whose scale is that of the training clips."""
        sizes, torch_state = self.sizes, torch.random.get_rng_state()
        torch.manual_seed(sizes.seed)
        text = LlamaConfig(
            vocab_size=len(WORDS) + self.voices + FRAMES // GROUP,
            hidden_size=sizes.width,
            intermediate_size=4 * sizes.width,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=64,
        )
        config = ContinuousTokenConfig(
            text,
            channels=GROUP * MEL.n_mels,
            group=GROUP,
            width=sizes.head_width,
            condition_dropout=0.0,
        )
        model = (
            ARMS[arm](config, LlamaForCausalLM(text))
            if arm != CODEBOOK
            else CodebookSpeechLM(config, LlamaForCausalLM(text), codes=sizes.codes)
        )
        grouped = group_frames(*pad_frames(self.train), GROUP)
        model.scale.fit(grouped.tokens, grouped.element_mask.bool())
        if isinstance(model, CodebookSpeechLM):
            real = grouped.element_mask[..., 0].bool()
            model.codebook.fit(model.scale(grouped.tokens[real]), sizes.seed)
        torch.random.set_rng_state(torch_state)
        return model

    def said_by(self, arm: str, progress: Progress) -> Frames:
        """Train an arm, and let it say every test clip at its length."""
        model, sizes = self.model(arm), self.sizes
        fed = self.train if arm != CODEBOOK else [_coded(model, frames) for frames in self.train]
        samples = [
            SpokenSample(self.prompt(clip, frames), (), frames)
            for clip, frames in zip(self.train_clips, fed, strict=True)
        ]
        collate, draw = StreamCollator(GROUP), Generator().manual_seed(sizes.seed)
        torch.manual_seed(sizes.seed)

        def loss(batch: Tensor) -> Tensor:
            found: Tensor = model(**collate([samples[number] for number in batch.tolist()])).loss
            return found

        epochs = -(-sizes.steps * sizes.batch // (len(samples) - len(samples) % sizes.batch))
        model.train()
        fit(
            model,
            batches_of_epochs(len(samples), sizes.batch, epochs, draw),
            loss,
            sizes.steps,
            2e-3,
            cosine,
            clip=1.0,
            progress=named(progress, f"training the {arm} head"),
        )
        most = FRAMES // GROUP
        sampling = SpeechSampling(
            steps=16, min_tokens=most, max_tokens=most, stop_threshold=1.0, seed=sizes.seed
        )
        prompts = [self.prompt(*pair) for pair in zip(self.test_clips, self.test, strict=True)]
        spoken = model.generate(prompts, sampling, texts=[()] * len(prompts))
        lengths = torch.tensor([len(frames) for frames in self.test])
        return ungroup_frames(torch.stack([row.tokens for row in spoken]), lengths, GROUP)

    def frame_sums(self, clips: Frames, deltas: bool = False) -> ndarray:
        """Number, sum and sum of products of the normalised frames of each clip, of which any set of clips has its distance."""
        rows = []
        for frames in clips:
            scaled = ((frames - self.mean) / self.deviation).double().numpy()
            values = np.diff(scaled, axis=0) if deltas else scaled
            rows.append(np.concatenate([[len(values)], values.sum(0), (values.T @ values).ravel()]))
        return np.stack(rows)

    def coded_test(self) -> Frames:
        """The test clips as the codebook keeps them: the nearest that its head could come."""
        model = self.model(CODEBOOK)
        return [_coded(model, frames) for frames in self.test]

    def distortions(self) -> dict[str, ndarray]:
        """Squared error of a codebook on the test clips, clean and disturbed: the mean over the elements of each clip."""
        model, draw = self.model(CODEBOOK), Generator().manual_seed(self.sizes.seed)
        assert isinstance(model, CodebookSpeechLM)
        heard = {"clean": [clip.wave for clip in self.test_clips]} | {
            how: [disturbed(clip.wave, how, draw) for clip in self.test_clips] for how in DISTURBANCES
        }
        return {how: np.array([_distortion(model, wave) for wave in waves]) for how, waves in heard.items()}


def _coded(model: ContinuousTokenLM, frames: Tensor) -> Tensor:
    """Frames as the codebook keeps them."""
    assert isinstance(model, CodebookSpeechLM)
    grouped = group_frames(frames[None], torch.tensor([len(frames)]), GROUP)
    nearest = model.codebook.vectors[model.codebook(model.scale(grouped.tokens[0]))]
    return ungroup_frames(model.scale.inverse(nearest)[None], torch.tensor([len(frames)]), GROUP)[0]


def _distortion(model: CodebookSpeechLM, wave: Tensor) -> float:
    frames = log_mel(wave, MEL)
    whole = whole_tokens(frames, GROUP)
    apart = (whole - _coded(model, whole)) / model.scale.deviation[: MEL.n_mels]
    return float(apart.square().mean())


@dataclass(frozen=True)
class SpeechDistances:
    """What the claims are judged from: sums over the frames of each clip, and the distortion of each clip.

    Attributes:
        frames: sums of each arm's clips.
        deltas: the same of frame differences.
        real: sums of the test clips.
        real_deltas: the same of frame differences.
        distortions: of a codebook, by disturbance.
        draws: draws of the bootstrap.
    """

    frames: Mapping[str, ndarray]
    deltas: Mapping[str, ndarray]
    real: ndarray
    real_deltas: ndarray
    distortions: Mapping[str, ndarray]
    draws: int

    def distance(self, arm: str, deltas: bool = False) -> float:
        """The Fréchet distance of an arm's frames, or of their differences, to those of the test clips."""
        ours, real = (self.deltas, self.real_deltas) if deltas else (self.frames, self.real)
        return _distance(ours[arm].sum(0), real.sum(0))

    def margin(self, ours: str, theirs: str, times: float, deltas: bool = False) -> Estimate:
        """Theirs − times · ours, with the bootstrap over clips, which all arms share; moved onto the value (see `core.stats.frechet`)."""
        sums, real = (self.deltas, self.real_deltas) if deltas else (self.frames, self.real)
        columns = np.concatenate([sums[ours], sums[theirs], real], axis=1)
        drawn = np.array([_margin(row, times) for row in resampled_totals(columns, self.draws)])
        value = _margin(columns.sum(0), times)
        return bootstrap_estimate(value, drawn - drawn.mean() + value, len(columns))


def _margin(totals: ndarray, times: float) -> float:
    ours, theirs, real = np.split(totals, 3)
    return _distance(theirs, real) - times * _distance(ours, real)


def _distance(ours: ndarray, real: ndarray) -> float:
    return frechet_distance(*_moments(ours), *_moments(real))


def _moments(totals: ndarray) -> tuple[ndarray, ndarray]:
    count, width = totals[0], round((len(totals) - 1) ** 0.5 - 0.5)
    mean = totals[1 : 1 + width] / count
    products = totals[1 + width :].reshape(width, width)
    return mean, (products - count * np.outer(mean, mean)) / (count - 1)
