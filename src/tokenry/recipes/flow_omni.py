"""Flow-Omni (arXiv 2412.04917): speech as continuous tokens from a flow head, beside a codebook and a regression.

One causal transformer of two layers is told digit and voice and says the digit, four log-mel frames a token, three times:

    flow         a flow head, 16 Euler steps
    codebook     a softmax over 512 codes (k-means), which are fed back
    regression   the mean of what may come

The digits are spoken by a synthetic voice with pitch and speed that the model is not told, or by people (`recordings`). Every arm says the
digits of all test clips, at their length; clips are the units, and the intervals are the bootstrap's over them.

Headline: the frames of the flow head are at most a third as far from those of the test clips as the codebook's and the regression's
(Fréchet distance).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Generator, Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tokenry.core.io.progress import Progress, named, part
from tokenry.core.stats import Estimate, all_of, bootstrap_estimate, estimate_of_mean, resampled_totals, shown
from tokenry.core.stats.frechet import frechet_distance
from tokenry.generation.flow_omni.continuous_tokens import ContinuousTokenConfig, ContinuousTokenLM
from tokenry.generation.flow_omni.speech_frames import group_frames, log_mel, pad_frames, ungroup_frames
from tokenry.generation.flow_omni.speech_generation import SpeechSampling
from tokenry.generation.flow_omni.streams import SpokenSample, StreamCollator
from tokenry.recipes.kit import Claim, RecipeRun, batches_of_epochs, cosine, fit, recipe
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
    trained_recogniser,
)

GROUP = 4
FLOW, CODEBOOK, REGRESSION, REAL = "flow", "codebook", "regression", "real"
ARMS: Mapping[str, type[ContinuousTokenLM]] = {
    FLOW: ContinuousTokenLM,
    CODEBOOK: CodebookSpeechLM,
    REGRESSION: RegressionSpeechLM,
}
_AS_FAR, _AS_ROUGH, _AS_LOSSY = 3.0, 2.0, 2.0


@dataclass(frozen=True)
class SpokenSizes:
    """Size of the experiment at one scale.

    Attributes:
        recordings: folder of recordings; None for the synthetic voice.
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

    recordings: str | None = None
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


Frames = Sequence[Tensor]


@recipe(
    "flow-omni",
    laptop=SpokenSizes(),
    paper=SpokenSizes("recordings", codes=4096, width=896, head_width=1024, steps=20_000),
)
def reproduce(run: RecipeRun) -> Iterator[Claim]:
    """Train the three heads, let them speak, and judge each claim."""
    sizes: SpokenSizes = run.sizes
    clips = _clips(sizes, part(run.progress, 0.0, 0.12))
    spoken = _Spoken(clips, sizes)
    run.progress("a network that hears digits", 0.12)
    recogniser = trained_recogniser(
        [spoken.train[number] for number in range(len(spoken.train))],
        spoken.digits(spoken.train_clips),
        spoken.mean,
        spoken.deviation,
        epochs=12,
        seed=sizes.seed,
    )
    said: dict[str, Frames] = {REAL: spoken.train[: len(spoken.test)]}
    for number, arm in enumerate(ARMS):
        begin = 0.18 + 0.26 * number
        said[arm] = spoken.said_by(arm, part(run.progress, begin, begin + 0.26))
    run.progress("measuring", 0.96)
    measured = Measured(
        {name: spoken.frame_sums(frames) for name, frames in said.items()},
        {name: spoken.frame_sums(frames, deltas=True) for name, frames in said.items()},
        spoken.frame_sums(spoken.test),
        spoken.frame_sums(spoken.test, deltas=True),
        spoken.distortions(),
        sizes.draws,
    )
    right = {
        name: float((recogniser.heard(frames) == spoken.digits(spoken.test_clips)).float().mean())
        for name, frames in ((arm, said[arm]) for arm in ARMS)
    }
    run.settings |= {
        **asdict(sizes),
        "clips": [len(spoken.train), len(spoken.test)],
        "frame_distance": {name: measured.distance(name) for name in said},
        "delta_distance": {name: measured.distance(name, deltas=True) for name in said},
        "distortion": {name: float(np.mean(values)) for name, values in measured.distortions.items()},
        "digits_right": right
        | {REAL: float((recogniser.heard(spoken.test) == spoken.digits(spoken.test_clips)).float().mean())},
    }
    with run.figure(11, 5.5) as figure:
        draw(figure, spoken, said)
    yield from claims(measured)


def _clips(sizes: SpokenSizes, progress: Progress) -> list[Clip]:
    if sizes.recordings is not None:
        from pathlib import Path

        return recorded_digits(Path(sizes.recordings))
    return synthetic_digits(sizes.voices, sizes.takes, sizes.test_takes, sizes.seed, progress)


class _Spoken:
    """Clips, and what models trained on them say."""

    def __init__(self, clips: Sequence[Clip], sizes: SpokenSizes) -> None:
        self.sizes = sizes
        order = torch.randperm(len(clips), generator=Generator().manual_seed(sizes.seed)).tolist()
        mixed = [clips[number] for number in order]
        self.train_clips = [clip for clip in mixed if not clip.is_test]
        self.test_clips = [clip for clip in mixed if clip.is_test]
        self.train = [clip.frames for clip in self.train_clips]
        self.test = [clip.frames for clip in self.test_clips]
        self.voices = 1 + max(clip.voice for clip in clips)
        every = torch.cat(self.train)
        self.mean, self.deviation = every.mean(0), every.std(0)

    def digits(self, clips: Sequence[Clip]) -> Tensor:
        return torch.tensor([clip.digit for clip in clips])

    def prompt(self, clip: Clip) -> tuple[int, int]:
        return clip.digit, len(WORDS) + clip.voice

    def model(self, arm: str) -> ContinuousTokenLM:
        """A model with the head of an arm, whose scale is that of the training clips."""
        sizes, torch_state = self.sizes, torch.random.get_rng_state()
        torch.manual_seed(sizes.seed)
        text = LlamaConfig(
            vocab_size=len(WORDS) + self.voices,
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
            real = grouped.element_mask.bool().all(2)
            model.codebook.fit(model.scale(grouped.tokens[real]), sizes.seed)
        torch.random.set_rng_state(torch_state)
        return model

    def said_by(self, arm: str, progress: Progress) -> Frames:
        """Train an arm, and let it say every test clip at its length."""
        model, sizes = self.model(arm), self.sizes
        fed = self.train if arm != CODEBOOK else [_coded(model, frames) for frames in self.train]
        samples = [
            SpokenSample(self.prompt(clip), (), frames)
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
        spoken = model.generate(
            [self.prompt(clip) for clip in self.test_clips], sampling, texts=[()] * len(self.test)
        )
        lengths = torch.tensor([len(frames) for frames in self.test])
        return ungroup_frames(torch.stack([row.tokens for row in spoken]), lengths, GROUP)

    def frame_sums(self, clips: Frames, deltas: bool = False) -> np.ndarray:
        """Number, sum and sum of products of the normalised frames of each clip, of which any set of clips has its distance."""
        rows = []
        for frames in clips:
            scaled = ((frames - self.mean) / self.deviation).double().numpy()
            values = np.diff(scaled, axis=0) if deltas else scaled
            rows.append(np.concatenate([[len(values)], values.sum(0), (values.T @ values).ravel()]))
        return np.stack(rows)

    def distortions(self) -> dict[str, np.ndarray]:
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
    whole = frames[: len(frames) - len(frames) % GROUP] if len(frames) >= GROUP else frames
    apart = (whole - _coded(model, whole)) / model.scale.deviation[: MEL.n_mels]
    return float(apart.square().mean())


@dataclass(frozen=True)
class Measured:
    """What the claims are judged from: sums over the frames of each clip, and the distortion of each clip.

    Attributes:
        frames: sums of each arm's clips.
        deltas: the same of frame differences.
        real: sums of the test clips.
        real_deltas: the same of frame differences.
        distortions: of a codebook, by disturbance.
        draws: draws of the bootstrap.
    """

    frames: Mapping[str, np.ndarray]
    deltas: Mapping[str, np.ndarray]
    real: np.ndarray
    real_deltas: np.ndarray
    distortions: Mapping[str, np.ndarray]
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


def _margin(totals: np.ndarray, times: float) -> float:
    ours, theirs, real = np.split(totals, 3)
    return _distance(theirs, real) - times * _distance(ours, real)


def _distance(ours: np.ndarray, real: np.ndarray) -> float:
    return frechet_distance(*_moments(ours), *_moments(real))


def _moments(totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count, width = totals[0], round((len(totals) - 1) ** 0.5 - 0.5)
    mean = totals[1 : 1 + width] / count
    products = totals[1 + width :].reshape(width, width)
    return mean, (products - count * np.outer(mean, mean)) / (count - 1)


def claims(measured: Measured) -> Iterator[Claim]:
    """Put each claim beside its measurement."""
    flow = measured.distance(FLOW)
    controls = {arm: measured.distance(arm) for arm in (CODEBOOK, REGRESSION)}
    margins = {arm: measured.margin(FLOW, arm, _AS_FAR) for arm in controls}
    yield Claim(
        "the frames of the flow head are at most a third as far from real ones as the codebook's and the regression's (Fréchet distance; "
        "clips are the units)",
        None,
        measured=f"{flow:.3f} (three times that is below by "
        + ", ".join(f"{margin.with_interval('.3f')}" for margin in margins.values())
        + f", n = {len(measured.real):,})",
        control=", ".join(f"{value:.3f} ({arm})" for arm, value in controls.items()),
        verdict=all_of(shown(margin) for margin in margins.values()),
    )
    rough = measured.margin(FLOW, REGRESSION, _AS_ROUGH, deltas=True)
    yield Claim(
        "the regression's changes from frame to frame are at least twice as far from real ones as the flow head's",
        None,
        measured=f"{measured.distance(FLOW, deltas=True):.3f} (twice that is below by {rough.with_interval('.3f')})",
        control=f"{measured.distance(REGRESSION, deltas=True):.3f} (regression)",
        verdict=shown(rough),
    )
    clean = measured.distortions["clean"]
    more = {
        how: estimate_of_mean(values - _AS_LOSSY * clean)
        for how, values in measured.distortions.items()
        if how != "clean"
    }
    yield Claim(
        "a codebook of clean speech loses at least twice as much of speech that is higher, noisy or clipped, each",
        None,
        measured=", ".join(f"{np.mean(measured.distortions[how]):.3f} ({how})" for how in more),
        control=f"{clean.mean():.3f} (clean); continuous tokens lose nothing",
        verdict=all_of(map(shown, more.values())),
    )


def draw(figure: Figure, spoken: _Spoken, said: Mapping[str, Frames]) -> None:
    """Draw log-mel frames of the same digits: real, and as each arm says them."""
    rows = (REAL, *ARMS)
    chosen = [
        number for digit in (0, 3, 7) for number, clip in enumerate(spoken.test_clips) if clip.digit == digit
    ][:: max(1, len(spoken.test_clips) // 30)][:3]
    axes: Any = figure.subplots(len(rows), len(chosen), squeeze=False, sharey=True)
    low, high = (float(torch.cat(list(spoken.test)).quantile(share)) for share in (0.02, 0.995))
    for row, name in enumerate(rows):
        for column, number in enumerate(chosen):
            frames = spoken.test[number] if name == REAL else said[name][number]
            axis = axes[row, column]
            axis.imshow(frames.T.numpy(), origin="lower", aspect="auto", vmin=low, vmax=high, cmap="magma")
            axis.set_xticks([])
            axis.set_yticks([])
            if not column:
                axis.set_ylabel(name)
            if not row:
                axis.set_title(f"“{WORDS[spoken.test_clips[number].digit]}”")
