"""`tokenry speech train` and `tokenry speech say`: waves and texts become a model that speaks, in two stages, and what is refused."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

from tests.tiny.chats import write_model
from tests.verbs.check_verb import check_refused, check_verb, tokenry
from tokenry.generation import ContinuousTokenLM

MEL = ("--sample-rate", 8000, "--n-fft", 256, "--hop", 128, "--n-mels", 10, "--fmax", 4000)
HEAD = ("--head-width", 16, "--head-depth", 1)
FEW = ("--steps", 3, "--batch-size", 2, "--held-out", 0.3, "--device", "cpu", "--dtype", "float32")


def write_tone(path, seconds=0.2, rate=8000, pitch=300.0, channels=1):
    wave = 0.3 * np.sin(2 * math.pi * pitch * np.arange(round(rate * seconds)) / rate)
    samples = np.round(wave * 32767).astype(np.int16)
    wavfile.write(path, rate, np.stack([samples] * channels, 1) if channels > 1 else samples)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech")
    write_model(folder / "lm")
    (folder / "clips").mkdir()
    rows = []
    for number in range(6):
        name = f"clip{number}"
        write_tone(folder / "clips" / f"{name}.wav", 0.15 + 0.02 * number, pitch=200.0 + 50 * number)
        (folder / "clips" / f"{name}.txt").write_text(f"what is {number}\n")
        rows.append({"audio": f"clips/{name}.wav", "text": f"what is {number}"})
    rows += [
        {"text": "only text"},
        {"audio": "clips/clip0.wav"},
        {"prompt": "say", "text": "it", "audio": "clips/clip1.wav"},
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def run(folder):
    output = folder / "run"
    saved = check_verb(
        "speech train", folder / "clips", "--model", folder / "lm", *MEL, *HEAD, *FEW, output=output
    )
    return output, saved


def test_a_language_model_learns_to_speak(run):
    output, saved = run
    assert saved["clips"] == [4, 2]
    assert saved["steps"] == len(saved["curve"]) == 3
    assert set(saved["held_out_losses"]) == {"text", "flow", "stop"}
    assert saved["trained_parameters"] < saved["parameters"]
    assert saved["spoken"]["text"].startswith("what is")
    assert not list((output / "checkpoints").glob("checkpoint-*"))
    model = ContinuousTokenLM.from_pretrained(output / "model")
    assert model.config.frames.n_mels == 10
    assert bool(model.scale.is_fitted)


def test_the_next_stage_begins_where_the_first_has_ended(folder, run, tmp_path):
    first = ContinuousTokenLM.from_pretrained(run[0] / "model")
    saved = check_verb(
        "speech train",
        folder / "rows.jsonl",
        "--model",
        run[0],
        "--stage",
        "everything",
        *FEW,
        output=tmp_path / "second",
    )
    assert saved["trained_parameters"] == saved["parameters"]
    second = ContinuousTokenLM.from_pretrained(tmp_path / "second" / "model")
    assert torch.equal(first.scale.mean, second.scale.mean)
    assert not torch.equal(first.language_model.lm_head.weight, second.language_model.lm_head.weight)


def test_adapters_learn_alone(folder, tmp_path):
    check_verb(
        "speech train", folder / "clips", "--model", folder / "lm", "--lora-rank", 2, "--stage", "everything", *MEL, *HEAD, *FEW,
        output=tmp_path / "lora",
    )  # fmt: skip
    model = ContinuousTokenLM.from_pretrained(tmp_path / "lora" / "model")
    assert model.config.lora["r"] == 2
    assert any(
        float(value.detach().abs().sum()) > 0 for name, value in model.named_parameters() if "lora_B" in name
    )


def test_a_stopped_training_is_resumed_with_the_same_weights(folder, tmp_path):
    arguments = (folder / "clips", "--model", folder / "lm", *MEL, *HEAD, *FEW, "--save-every", 1)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert tokenry("speech train", *arguments, "--output", whole).exit_code == 0

    class StoppedError(Exception):
        pass

    def stop(*_):
        raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokenry.verbs.speech.train._measured", stop)
        assert tokenry("speech train", *arguments, "--output", stopped).exit_code == 1
    __import__("shutil").rmtree(stopped / "checkpoints" / "checkpoint-3", ignore_errors=True)
    check_refused("speech train", *arguments, "--output", stopped, words="begun: resume it (--resume)")
    check_refused(
        "speech train",
        *arguments,
        "--seed",
        1,
        "--resume",
        "--output",
        stopped,
        words="belongs to a training with other settings",
    )
    assert tokenry("speech train", *arguments, "--resume", "--output", stopped).exit_code == 0
    ours, theirs = (
        ContinuousTokenLM.from_pretrained(path / "model").state_dict() for path in (stopped, whole)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    check_refused("speech train", *arguments, "--output", whole, words="exists already: name a new folder")


def test_a_text_is_spoken_into_a_wave(run, tmp_path):
    saved = check_verb("speech say", run[0], "what is 3", "--max-seconds", 0.4, output=tmp_path / "said")
    rate, samples = wavfile.read(tmp_path / "said" / "speech.wav")
    assert rate == 8000
    assert len(samples) / rate == pytest.approx(saved["seconds_of_speech"])
    assert saved["seconds_of_speech"] <= 0.45
    result = tokenry("speech say", run[0], "what is 3", "--output", tmp_path / "out.wav", "--json")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["out.wav", "said.log"]


def test_an_answer_is_chosen_by_the_model(run, tmp_path):
    saved = check_verb(
        "speech say", run[0] / "model", "what is", "--answer", "--max-seconds", 0.2, output=tmp_path / "said"
    )
    assert saved["text"] != "what is"


def write_whisper(folder):
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=12, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, num_mel_bins=8, max_source_positions=50,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, vocab_size=20, pad_token_id=0, bos_token_id=0,
        eos_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    WhisperModel(config).save_pretrained(folder)
    WhisperFeatureExtractor(8, 8000, hop_length=80, chunk_length=1, n_fft=160).save_pretrained(folder)
    return folder


def test_questions_are_heard(folder, tmp_path):
    rows = [
        {"question": f"clips/clip{n}.wav", "text": f"what is {n}", "audio": f"clips/clip{n}.wav"}
        for n in range(4)
    ]
    table = folder / "questions.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    check_refused(
        "speech train",
        table,
        "--model",
        folder / "lm",
        *MEL,
        *HEAD,
        *FEW,
        "--output",
        tmp_path / "x",
        words="has no speech encoder",
    )
    whisper = write_whisper(tmp_path / "whisper")
    check_verb(
        "speech train",
        table,
        "--model",
        folder / "lm",
        "--encoder",
        whisper,
        *MEL,
        *HEAD,
        *FEW,
        output=tmp_path / "hearing",
    )
    saved = check_verb(
        "speech say", tmp_path / "hearing", "", "--answer", "--hear", folder / "clips" / "clip1.wav", "--max-seconds", 0.2,
        output=tmp_path / "said",
    )  # fmt: skip
    assert saved["tokens"] > 0


# --- bad input ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--group 0", "--group must be at least 1, got 0"),
        ("--held-out 1", "--held-out must be in (0, 1), got 1"),
        ("--learning-rate 0", "--learning-rate must be above 0, got 0"),
        ("--fmax 9000", "between 0 and half the sample rate (4000 Hz)"),
        (
            "--sample-rate 16000",
            "has 8,000 samples a second and 16,000 are needed: give such a file, or --resample",
        ),
        ("--max-seconds 0.01", "clips are longer than 0.01 seconds: raise --max-seconds"),
        ("--output a.json", "output must name a folder, which holds the model too"),
        ("--model nowhere/at-all", "nowhere/at-all"),
        ("--encoder nowhere/at-all", "nowhere/at-all"),
    ],
)
def test_wrong_options_are_one_sentence(options, words, folder, tmp_path):
    given = ("--model", folder / "lm", *MEL, *HEAD, *FEW, "--output", tmp_path / "new")
    check_refused("speech train", folder / "clips", *given, *options.split(), words=words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"sentence": "a"},
            "row 1 has neither text nor audio: name the columns text and audio, got sentence",
        ),
        ({"text": "a", "audio": "none.wav"}, "none.wav does not exist"),
        ({"text": "a", "audio": 3}, "row 1: audio must be a text, got int"),
        ({"text": "a", "audio": "two.wav"}, "two.wav has 2 channels: give one, or --mix for their mean"),
        ({"text": "a", "audio": "silent.wav"}, "silent.wav is silent: no sample reaches"),
        ({"text": "a"}, "no clip has audio to say"),
    ],
)
def test_data_that_teach_no_speech_are_one_sentence(content, words, folder, tmp_path):
    write_tone(tmp_path / "two.wav", channels=2)
    wavfile.write(tmp_path / "silent.wav", 8000, np.zeros(2000, np.int16))
    (tmp_path / "rows.jsonl").write_text(2 * (json.dumps(content) + "\n"))
    given = ("--model", folder / "lm", *MEL, *HEAD, *FEW, "--output", tmp_path / "new")
    check_refused("speech train", tmp_path / "rows.jsonl", *given, words=words)


def test_a_folder_without_speech_is_one_sentence(folder, tmp_path):
    given = ("--model", folder / "lm", *MEL, "--output", tmp_path / "new")
    check_refused("speech train", tmp_path, *given, words="holds no speech: give metadata.csv")
    write_tone(tmp_path / "a.wav")
    check_refused("speech train", tmp_path, *given, words="a.wav has no text: write what it says into a.txt")
    (tmp_path / "a.txt").write_text("a")
    check_refused("speech train", tmp_path, *given, words="cannot be trained on and held out")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--steps 0", "--steps must be at least 1, got 0"),
        ("--solver heun", "--solver must be one of euler, midpoint, got 'heun'"),
        ("--max-seconds 0", "--max-seconds must be above 0, got 0"),
        ("--stop-threshold 0", "--stop-threshold must be in (0, 1], got 0"),
        ("--output a.json", "output must name a .wav file, or a folder"),
        ("--vocoder nowhere", "nowhere holds no vocoder"),
        ("--hear none.wav", "has no speech encoder"),
    ],
)
def test_what_cannot_be_said_is_one_sentence(options, words, run):
    check_refused("speech say", run[0], "what", *options.split(), words=words)


def test_nothing_is_said_without_a_model_or_a_text(run, folder):
    check_refused("speech say", folder / "lm", "what", words="holds no model that speaks")
    check_refused("speech say", run[0], " ", words="there is nothing to say")
