"""The real Whisper base hears for a `ContinuousTokenLM` (make whisper fetches it; skipped where it is not there)."""

import sys

import pytest
import torch
from scipy.signal import resample_poly
from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

from tests import ROOT, tiny
from tokenry.generation import ContinuousTokenLM, SpeechSampling, SpokenSample, StreamCollator
from tokenry.recipes.testbeds.synthetic_voice import SAMPLE_RATE, Speaker, SyntheticVoice

sys.path.insert(0, str(ROOT / "benchmarks"))
import _whisper

sys.path.pop(0)

PLACE = _whisper.whisper_place()
SENTENCES = ("The cat sat on the mat.", "Seven people went home.")

pytestmark = [
    pytest.mark.real_whisper,
    pytest.mark.skipif(not PLACE.is_dir(), reason=f"Whisper base is not in {PLACE}: make whisper"),
]


@pytest.fixture(scope="module")
def whisper():
    return WhisperForConditionalGeneration.from_pretrained(PLACE).eval()


@pytest.fixture(scope="module")
def features():
    """What both sentences are to the encoder."""
    pytest.importorskip("espeakng_loader")
    voice = SyntheticVoice()
    waves = [resample_poly(voice.say(text, Speaker()).numpy(), 16_000, SAMPLE_RATE) for text in SENTENCES]
    extractor = WhisperFeatureExtractor.from_pretrained(PLACE)
    return extractor(waves, sampling_rate=16_000, return_tensors="pt").input_features


def test_it_is_whisper_and_understands_most_of_what_is_said(whisper, features):
    said = torch.tensor([[50258, 50259, 50359, 50363]] * len(SENTENCES))  # English, written down, no times
    with torch.no_grad():
        heard = whisper.model.encoder(features)
        for _ in range(8):
            logits = whisper(encoder_outputs=heard, decoder_input_ids=said).logits[:, -1]
            said = torch.cat([said, logits[:, :50258].argmax(1, keepdim=True)], dim=1)
    tokenizer = AutoTokenizer.from_pretrained(PLACE)
    for text, row in zip(SENTENCES, said, strict=True):
        words = tokenizer.decode(row[4:]).partition("<|endoftext|>")[0].lower().split()
        right = [word for word in text.lower().split() if word in words]
        assert len(right) >= 0.6 * len(text.split()), f"a robot said {text!r}, and Whisper heard {words}"


def test_a_language_model_learns_through_it_and_answers_otherwise_to_another_sentence(whisper, features):
    torch.manual_seed(0)
    model = ContinuousTokenLM.around(tiny.llama(), whisper, channels=6, width=8, depth=1)
    assert not any("decoder" in name for name, _ in model.encoder.named_parameters())
    states = model.heard_states(200)  # of the two seconds that are spoken; the encoder reads thirty
    assert states == 25
    rows = [SpokenSample((1,), (4, 5), torch.randn(5, 3), given, states) for given in features]
    model.train_stage("alignment")
    model(**StreamCollator(2)(rows)).loss.backward()
    assert model.adapter[0].weight.grad.abs().sum() > 0
    assert all(value.grad is None for value in model.encoder.parameters())
    sampling = SpeechSampling(steps=2, min_tokens=2, max_tokens=2, max_text=2)
    with torch.no_grad():
        for parameter in model.speech_head.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    one, other = model.generate([(1,), (1,)], sampling, None, features[[0, 1]], [states] * 2)
    again = model.generate([(1,), (1,)], sampling, None, features[[1, 1]], [states] * 2)[0]
    assert len(one.tokens) == len(other.tokens) == 2
    assert not torch.allclose(one.tokens, again.tokens)
