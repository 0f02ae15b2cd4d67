"""Spoken digits: the synthetic voice says the same again in the same order, and clips are what the recipe takes them for."""

import pytest
import torch

from tokenry.core.errors import UserError
from tokenry.recipes.testbeds.speech_heads import Codebook
from tokenry.recipes.testbeds.spoken_digits import (
    DISTURBANCES,
    FRAMES,
    MEL,
    SHORTEST,
    disturbed,
    recorded_digits,
    synthetic_digits,
    trained_recogniser,
    trimmed,
)
from tokenry.recipes.testbeds.synthetic_voice import Speaker, SyntheticVoice


@pytest.fixture(scope="module")
def clips():
    pytest.importorskip("espeakng_loader")
    return synthetic_digits(2, 2, 1, 100, lambda what, share: None)


def test_the_same_seed_gives_the_same_waves_and_no_take_is_like_another(clips):
    again = synthetic_digits(2, 2, 1, 100, lambda what, share: None)
    assert len(clips) == 60
    assert all(torch.equal(one.wave, other.wave) for one, other in zip(clips, again, strict=True))
    same = [clip.wave for clip in clips if (clip.digit, clip.voice) == (3, 0)]
    assert len({len(wave) for wave in same}) > 1 or not torch.equal(same[0], same[1])
    assert sum(clip.is_test for clip in clips) == 20


def test_a_voice_of_its_own_says_the_same_again():
    pytest.importorskip("espeakng_loader")
    said = [[SyntheticVoice(1)] * 1 for _ in range(2)]
    first, second = (
        [voice.say(word, Speaker("en+f3")) for word in ("one", "two", "one")] for (voice,) in said
    )
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[2]), "its flutter goes on"


def test_frames_are_short_enough_and_speech_begins_at_once(clips):
    for clip in clips:
        frames = clip.frames(4)
        assert 5 < len(frames) <= FRAMES
        assert len(frames) % 4 == 0
        assert frames.shape[1] == MEL.n_mels
        assert float(clip.wave[:400].abs().max()) > 0.01 * float(clip.wave.abs().max())
    silence = torch.zeros(3000)
    silence[1000:1010] = 1.0
    assert len(trimmed(silence)) == SHORTEST


def test_a_recogniser_learns_the_digits_of_one_voice(clips):
    own = [clip for clip in clips if clip.voice == 0]
    frames, digits = [clip.frames(4) for clip in own], torch.tensor([clip.digit for clip in own])
    every = torch.cat(frames)
    model = trained_recogniser(frames * 4, digits.repeat(4), every.mean(0), every.std(0), 10, 0)
    assert float((model.heard(frames) == digits).float().mean()) > 0.8


@pytest.mark.parametrize("how", DISTURBANCES)
def test_a_disturbance_changes_what_is_heard(how, clips):
    wave = clips[0].wave
    changed = disturbed(wave, how, torch.Generator().manual_seed(0))
    assert changed.isfinite().all()
    assert len(changed) != len(wave) or not torch.allclose(changed, wave, atol=1e-3)


def test_a_codebook_keeps_what_it_was_made_of():
    tokens = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]).repeat(5, 1)
    codebook = Codebook(3, 2)
    codebook.fit(tokens, 0)
    torch.testing.assert_close(codebook.vectors[codebook(tokens)], tokens)


def test_what_is_no_voice_or_no_recording_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("espeakng_loader")
    with pytest.raises(UserError, match="eSpeak NG has no voice 'nobody'"):
        SyntheticVoice().say("one", Speaker("nobody"))
    with pytest.raises(UserError, match=r"voices must be from 1 to 12, got 13"):
        synthetic_digits(13, 1, 1, 0, lambda what, share: None)
    with pytest.raises(UserError, match=r"holds no recordings named DIGIT_SPEAKER_TAKE\.wav"):
        recorded_digits(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "espeakng_loader", None)
    with pytest.raises(UserError, match=r"needs eSpeak NG: pip install 'tokenry\[speech\]'"):
        SyntheticVoice()
