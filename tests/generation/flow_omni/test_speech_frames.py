"""Speech frames, waves and vocoders: reference frames and groups, what round trips keep, files as they come, and bad input."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import wavfile

from tests.golden import golden_arrays
from tokenry.core.errors import UserError
from tokenry.generation import (
    FrameScale,
    GriffinLim,
    MelConfig,
    group_frames,
    load_vocoder,
    log_mel,
    read_wave,
    ungroup_frames,
    write_wave,
)
from tokenry.generation.flow_omni.speech_frames import SILENCE, mel_filters, pad_frames

SLUG = "30-flow-omni"
SMALL = MelConfig(8000, 256, 64, 20, 0.0, 4000.0)


def buzz():
    """Harmonics of a voice, at about the strength of speech."""
    t = torch.arange(4000) / 8000
    return sum(0.2 / k * torch.sin(2 * math.pi * 120 * k * t + k * k) for k in range(1, 30))


def tone(seconds=0.5, rate=8000, low=300.0, high=900.0):
    t = torch.arange(round(seconds * rate)) / rate
    return 0.4 * torch.sin(2 * math.pi * (low * t + (high - low) * t.square() / (2 * seconds)))


@pytest.mark.parametrize(("dtype", "nearness"), [(torch.float64, 1e-8), (torch.float32, 1e-3)])
def test_frames_are_the_reference(dtype, nearness):
    found = golden_arrays(SLUG, "dev-logmel.npz")
    config = MelConfig(
        *(int(found[name]) for name in ("sample_rate", "n_fft", "hop", "n_mels")), fmax=float(found["fmax"])
    )
    torch.testing.assert_close(mel_filters(config), found["filters"], rtol=0, atol=1e-12)
    frames = log_mel(found["wav"].to(dtype), config)
    torch.testing.assert_close(frames.double(), found["logmel"], rtol=nearness, atol=nearness)


def test_groups_are_the_reference():
    found = golden_arrays(SLUG, "dev-group.npz")
    grouped = group_frames(found["mel"], found["lengths"], int(found["r"]), float(found["pad_value"]))
    names = ("tokens", "token_lengths", "frame_mask", "element_mask", "stop_target")
    for ours, name in zip(grouped, names, strict=True):
        assert torch.equal(ours, found[name].to(ours.dtype)), name
    assert float(found["pad_value"]) == pytest.approx(SILENCE)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any), st.integers(1, 5), st.integers(0, 99))
def test_grouped_frames_come_back_as_they_were(lengths, group, seed):
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.randn(length, 3, generator=draw) for length in lengths]
    padded, counted = pad_frames(rows)
    padded[torch.arange(padded.shape[1]) >= counted[:, None]] = torch.nan
    grouped = group_frames(padded, counted, group)
    assert grouped.tokens.isfinite().all()
    assert grouped.lengths.tolist() == [-(-length // group) for length in lengths]
    assert grouped.frame_mask.sum(1).tolist() == lengths
    assert torch.equal(grouped.element_mask.sum((1, 2)), 3 * counted.float())
    assert (grouped.stop_target.argmax(1) + 1).tolist() == grouped.lengths.clamp(min=1).tolist()
    for row, back in zip(rows, ungroup_frames(grouped.tokens, counted, group), strict=True):
        assert torch.equal(row, back)


def test_a_scale_ignores_padding_and_channels_that_never_change():
    tokens = torch.randn(50, 3) * 4 + 7
    tokens[:, 2] = -11.5
    real = torch.ones(50, 3, dtype=torch.bool)
    real[40:] = False
    scale = FrameScale(3)
    scale.fit(torch.where(real, tokens, 1e6), real)
    scaled = scale(tokens[:40])
    torch.testing.assert_close(scaled.mean(0), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(scaled.std(0, correction=0)[:2], torch.ones(2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scale.inverse(scale(tokens)), tokens)


def test_griffin_lim_makes_a_wave_with_these_frames():
    wave = buzz()
    frames = log_mel(wave, SMALL)
    heard = GriffinLim(SMALL)(frames)
    assert heard.shape == (len(frames) * SMALL.hop,)
    again = log_mel(heard, SMALL)
    loud = frames > frames.max() - 5
    assert float((again - frames)[loud].abs().mean()) < 0.25
    assert torch.equal(heard, GriffinLim(SMALL)(frames)), "the first phases come from the seed"
    assert GriffinLim(SMALL)(frames[:1]).shape == (SMALL.hop,)


def test_more_iterations_come_nearer():
    frames = log_mel(buzz(), SMALL)
    loud = frames > frames.max() - 5
    errors = [
        float((log_mel(GriffinLim(SMALL, iterations)(frames), SMALL) - frames)[loud].abs().mean())
        for iterations in (1, 40)
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint8, np.float32])
def test_waves_of_any_type_are_read_alike(kind, tmp_path):
    wave = tone(0.1).numpy().astype(np.float64)
    if np.issubdtype(kind, np.floating):
        stored = wave.astype(kind)
    elif kind is np.uint8:
        stored = np.round(wave * 127 + 128).astype(kind)
    else:
        stored = np.round(wave * np.iinfo(kind).max).astype(kind)
    wavfile.write(tmp_path / "a.wav", 8000, stored)
    torch.testing.assert_close(read_wave(tmp_path / "a.wav", 8000).double().numpy(), wave, rtol=0, atol=0.01)


def test_a_written_wave_is_read_back(tmp_path):
    write_wave(tmp_path / "new" / "a.wav", tone(), 8000)
    torch.testing.assert_close(read_wave(tmp_path / "new" / "a.wav", 8000), tone(), rtol=0, atol=1e-4)
    write_wave(tmp_path / "loud.wav", 3 * tone(), 8000)
    assert float(read_wave(tmp_path / "loud.wav", 8000).abs().max()) == pytest.approx(1.0, abs=1e-3)


def test_channels_are_mixed_and_rates_changed_where_asked(tmp_path):
    both = np.stack([tone().numpy(), -0.5 * tone().numpy()], axis=1)
    wavfile.write(tmp_path / "two.wav", 8000, both)
    with pytest.raises(UserError, match="has 2 channels: give one, or mix=True"):
        read_wave(tmp_path / "two.wav", 8000)
    torch.testing.assert_close(
        read_wave(tmp_path / "two.wav", 8000, mix=True), 0.25 * tone(), rtol=0, atol=1e-6
    )
    with pytest.raises(
        UserError, match="has 8,000 samples a second and 16,000 are needed: give such a file, or resample"
    ):
        read_wave(tmp_path / "two.wav", 16_000, mix=True)
    resampled = read_wave(tmp_path / "two.wav", 16_000, resample=True, mix=True)
    assert len(resampled) == 8000
    torch.testing.assert_close(resampled[200:-200:2], 0.25 * tone()[100:-100], rtol=0, atol=5e-3)


def test_other_formats_are_read_by_soundfile(tmp_path, monkeypatch):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.flac", tone().numpy(), 8000)
    torch.testing.assert_close(read_wave(tmp_path / "a.flac", 8000), tone(), rtol=0, atol=1e-4)
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(
        UserError, match=r"\.flac is read by soundfile: pip install 'tokenry\[speech\]', or give WAV"
    ):
        read_wave(tmp_path / "a.flac", 8000)
    write_wave(tmp_path / "a.wav", tone(), 8000)
    read_wave(tmp_path / "a.wav", 8000)


def save_vocoder(folder, kind="hifigan", **settings):
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig, UnivNetConfig, UnivNetModel

    torch.manual_seed(0)
    if kind == "hifigan":
        sizes = {
            "model_in_dim": 20,
            "sampling_rate": 8000,
            "upsample_rates": [8, 8],
            "upsample_kernel_sizes": [16, 16],
        }
        config = SpeechT5HifiGanConfig(upsample_initial_channel=8, **(sizes | settings))
        SpeechT5HifiGan(config).save_pretrained(folder)
    else:
        config = UnivNetConfig(
            num_mel_bins=20,
            model_in_channels=4,
            model_hidden_channels=4,
            resblock_stride_sizes=[8, 8],
            resblock_kernel_sizes=[3, 3],
            resblock_dilation_sizes=[[1, 3], [1, 3]],
            kernel_predictor_hidden_channels=4,
        )
        UnivNetModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["hifigan", "released hifigan", "univnet"])
def test_vocoders_of_transformers_are_loaded(kind, tmp_path):
    folder = save_vocoder(tmp_path / kind, kind.removeprefix("released "))
    if kind == "released hifigan":
        stored = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(stored | {"model_type": "hifigan"}))
    vocoder = load_vocoder(folder, SMALL)
    wave = vocoder(log_mel(tone(), SMALL))
    assert wave.ndim == 1
    assert len(wave) == SMALL.hop * len(log_mel(tone(), SMALL))


def bad_wave(folder, samples, rate=8000):
    wavfile.write(folder / "a.wav", rate, samples)
    return folder / "a.wav"


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (lambda at: MelConfig(n_fft=100, hop=200), "n_fft must be hop or an even number of samples above it"),
        (lambda at: MelConfig(8000, fmax=8000.0), r"between 0 and half the sample rate \(4000 Hz\)"),
        (
            lambda at: log_mel(torch.zeros(5), SMALL),
            "a wave of 5 samples is shorter than one frame: give at least 97",
        ),
        (lambda at: log_mel(torch.full((999,), torch.nan), SMALL), "the wave holds nan or inf"),
        (
            lambda at: group_frames(torch.zeros(1, 3, 2), torch.tensor([3]), 0),
            "group must be at least 1, got 0",
        ),
        (
            lambda at: group_frames(torch.zeros(1, 3, 2), torch.tensor([4]), 2),
            r"lengths must be 1, one for each row, from 0 to the 3 frames.*got \[4\]",
        ),
        (
            lambda at: group_frames(torch.full((1, 3, 2), torch.inf), torch.tensor([3]), 2),
            "the frames hold nan or inf",
        ),
        (
            lambda at: ungroup_frames(torch.zeros(1, 2, 5), torch.tensor([4]), 2),
            "tokens of 5 channels hold no 2 frames",
        ),
        (lambda at: pad_frames([]), "there are no frames"),
        (lambda at: FrameScale(2).fit(torch.zeros(0, 2)), "a channel has no real element"),
        (lambda at: read_wave(at / "none.wav", 8000), "none.wav does not exist"),
        (
            lambda at: read_wave(bad_wave(at, np.zeros(99, np.int16)), 8000),
            "is silent: no sample reaches 0.0001",
        ),
        (lambda at: read_wave(bad_wave(at, np.zeros(0, np.int16)), 8000), "holds no samples"),
        (lambda at: read_wave(bad_wave(at, np.full(9, np.nan, np.float32)), 8000), "holds nan or inf"),
        (lambda at: write_wave(at / "a.mp3", tone(), 8000), "waves are written as .wav, got"),
        (
            lambda at: write_wave(at / "a.wav", torch.full((9,), torch.nan), 8000),
            "holds nan or inf, so it cannot be written",
        ),
        (lambda at: GriffinLim(SMALL, 0), "iterations must be at least 1, got 0"),
        (lambda at: GriffinLim(SMALL, momentum=1.0), r"momentum must be in \[0, 1\), got 1.0"),
        (lambda at: load_vocoder(at, SMALL), "holds no vocoder"),
        (
            lambda at: load_vocoder(save_vocoder(at / "v"), MelConfig()),
            "is a vocoder for 20 mel bins, and the frames have 80",
        ),
        (
            lambda at: load_vocoder(save_vocoder(at / "v", sampling_rate=9000), SMALL),
            "is a vocoder for 9000 samples a second, and the frames have 8000",
        ),
    ],
)
def test_what_is_no_speech_is_refused(do, words, tmp_path):
    with pytest.raises(UserError, match=words):
        do(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"), [("a.wav", b"RIFF"), ("a.wav", b""), ("a.txt", b"x"), ("a.flac", b"x")]
)
def test_torn_files_and_files_of_another_kind_are_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} (cannot be read|is no wave)"):
        read_wave(tmp_path / name, 8000)


def test_a_model_that_is_no_vocoder_is_refused(tmp_path):
    from tests import tiny

    tiny.llama().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a model of the kind 'llama': a vocoder is one of"):
        load_vocoder(tmp_path, SMALL)
