"""The verbs `tokenizer zett train | transfer`: train, resume, transfer; what is said and saved, and bad usage in one sentence."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from tests.tiny.tokenizers import CODE, byte_level
from tests.tokenization.transfer.zett.tiny import TEXTS, causal, tokenizer
from tests.verbs.check_verb import check_refused, check_verb, in_terminal
from tokenry.cli import app
from tokenry.core.plans import build_plan
from tokenry.tokenization.transfer.zett import HyperNetworkTrainingConfig
from tokenry.verbs.tokenizer.zett.train import Plan, lay_out, loss_curve, stage_losses

FAST = (
    *("--steps", 4, "--batch-size", 8, "--block-size", 16, "--vocabulary-size", 410),
    *("--layers", 1, "--hidden-size", 16, "--heads", 2, "--save-every", 2),
)

PLACES = {"model": "model", "texts": (), "output": Path("net")}


def tokenry(*arguments):
    return CliRunner().invoke(app, ["tokenizer", "zett", *map(str, arguments)])


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    causal().save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    byte_level([*CODE, *TEXTS], 400).save_pretrained(folder / "new")
    (folder / "one.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    # Text that is no Latin one is held in wider characters.
    (folder / "other.txt").write_text("\n\n".join(["日本 🤷", *TEXTS[::-1]]), encoding="utf-8")
    made = tokenry("train", folder / "model", folder / "one.txt", "--output", folder / "net", *FAST)
    assert made.exit_code == 0, made.stderr
    return folder


def test_training_tells_its_losses_and_leaves_a_hypernetwork(desk, tmp_path):
    arguments = ("tokenizer zett train", desk / "model", desk / "one.txt", *FAST)
    saved = check_verb(*arguments, output=tmp_path / "net")
    assert set(saved["stages"]) == {"main"}  # 5 % of 4 steps are none
    assert saved["texts"] == {"one": len(TEXTS)}
    stored = json.loads((tmp_path / "net" / "training.json").read_text())
    assert len(stored["history"]["loss"]) == 4
    assert stored["training"] == saved["training"]
    assert stored["training"]["drawing"]["least_vocabulary"] == 205
    assert (tmp_path / "net" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        ({}, (10_000, 20_000)),
        ({"residual": True}, (0, 10_000)),
        ({"steps": 1000}, (50, 100)),
        ({"steps": 1000, "identity_steps": 200}, (200, 250)),
        ({"steps": 1000, "identity_steps": 0, "warmup_steps": 7}, (0, 7)),
    ],
)
def test_stages_follow_the_steps_where_they_are_not_given(options, stages):
    config = build_plan(Plan, {**PLACES, **options}).training_config()
    assert (config.identity_steps, config.warmup_steps) == stages


def test_without_options_the_training_is_the_papers():
    assert build_plan(Plan, PLACES).training_config() == HyperNetworkTrainingConfig()


def test_the_losses_of_a_stage_are_means_of_its_beginning_and_its_end():
    assert stage_losses([4.0, 2.0, 3.0, 1.0], 2) == {
        "warm-up": {"first": 4.0, "last": 2.0},
        "main": {"first": 3.0, "last": 1.0},
    }


def test_a_long_curve_is_drawn_as_means_of_stretches():
    assert loss_curve([3.0, 1.0], 5) == [{"step": 6, "loss": 3.0}, {"step": 7, "loss": 1.0}]
    curve = loss_curve([float(step) for step in range(101)], 10)
    assert [curve[0], curve[-1]] == [{"step": 13, "loss": 1.0}, {"step": 111, "loss": 99.5}]
    assert len(curve) == 34


def test_the_table_names_texts_parameters_and_losses():
    data = {
        "model": "embedded",
        "texts": {"de": 1200, "en": 3},
        "text_back": {"summary": "NO: 1 of 1,203"},
        "notes": ["the model's tokenizer does not give 1 of 1,203 texts back"],
        "parameters": 1_234_567,
        "stages": {"main": {"first": 5.0, "last": 4.25}},
        "curves": {"main": [{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.25}]},
    }
    shown = in_terminal(lay_out(data))
    for words in (
        "Warning: the model's",
        "SmolLM2-135M-Instruct",
        "de: 1,200, en: 3",
        "1,234,567",
        "5.000 → 4.250",
    ):
        assert words in shown


def test_training_by_language_in_the_residual_form(desk, tmp_path):
    made = tokenry(
        "train",
        *(desk / "model", desk / "one.txt", desk / "other.txt"),
        *("--output", tmp_path / "net", *FAST, "--by-language", "--residual"),
    )
    assert made.exit_code == 0, made.stderr
    assert "one: 504, other: 505" in made.stdout
    arguments = (desk / "model", tmp_path / "net", desk / "new", "--output")
    without = tokenry("transfer", *arguments, tmp_path / "out")
    assert without.exit_code == 2
    assert "language must be one of 0 to 1, got None" in without.stderr
    assert tokenry("transfer", *arguments, tmp_path / "out", "--language", 1).exit_code == 0


def test_a_begun_training_wants_resume(desk):
    arguments = ("train", desk / "model", desk / "one.txt", "--output", desk / "net", *FAST)
    again = tokenry(*arguments)
    assert again.exit_code == 2
    assert "resume it (--resume), or name a new folder" in again.stderr
    assert tokenry(*arguments, "--resume").exit_code == 0


def test_the_transferred_model_loads_with_its_tokenizer(desk, tmp_path):
    made = tokenry(
        *("transfer", desk / "model", desk / "net", desk / "new", "--output", tmp_path / "out"),
        *("--text", desk / "one.txt", "--base", desk / "model", "--most-characters", 500),
    )
    assert made.exit_code == 0, made.stderr
    for words in ("shared", "composed", "bits per byte before", "bits per byte after", "furthest from it"):
        assert words in made.stdout
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path / "out"))


def test_json_is_all_there_is_on_stdout(desk, tmp_path):
    new = desk / "new" / "tokenizer.json"
    arguments = ("tokenizer zett transfer", desk / "model", desk / "net", new)
    saved = check_verb(*arguments, output=tmp_path / "out")
    assert saved["bits_per_byte"] == {"before": None, "after": None}
    assert saved["tokens"] == saved["shared"] + saved["composed"] + saved["special"]
    assert saved.items() >= json.loads((tmp_path / "out" / "zett.json").read_text()).items()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--max-length", 0), "--max-length must be at least 1, got 0"),
        (("--heads", 3), "--hidden-size must be divisible by heads, got 16 and 3"),
        (("--vocabulary-size", 9000), "but the texts hold only"),
        (("--steps", 0), "--steps must be at least 1, got 0"),
        (("--save-every", 0), "--save-every must be at least 1, got 0"),
        (("--micro-batch-size", -1), "--micro-batch-size must not be negative, got -1"),
        (("--predicted-tokens", -1), "--predicted-tokens must not be negative, got -1"),
        (("--block-size", 0), "--block-size must be at least 1, got 0"),
        (("--vocabulary-std", -1), "--vocabulary-std must not be negative, got -1.0"),
        (("--layers", 0), "--layers must be at least 1, got 0"),
        (("--seed", -1), "--seed must be at least 0, got -1"),
        (("--dtype", "int4"), "'int4' is not one of 'float32', 'bfloat16', 'float16'"),
        (("--device", "nowhere"), "device 'nowhere' is not there"),
        (("--lexical-weight", -1), "--lexical-weight must not be negative"),
    ],
)
def test_bad_usage_of_training_is_one_sentence_and_writes_nothing(desk, tmp_path, options, words):
    arguments = ("train", desk / "model", desk / "one.txt", "--output", tmp_path / "net", *FAST)
    check_refused("tokenizer zett", *arguments, *options, words=words)
    assert not (tmp_path / "net").exists()


def test_what_cannot_be_read_or_written_is_one_sentence(desk, tmp_path):
    for arguments, words in (
        (
            (desk / "model", desk / "model", desk / "new", "--output", tmp_path / "out"),
            "describes no hypernetwork",
        ),
        ((desk / "model", desk, desk / "new", "--output", tmp_path / "out"), "holds no hypernetwork"),
        (
            (desk / "model", desk / "net", desk / "one.txt", "--output", tmp_path / "out"),
            "is not a tokenizer file",
        ),
        ((desk / "model", desk / "net", desk / "new", "--output", desk / "net"), "exists already"),
        (
            (desk / "model", desk / "net", desk / "new", "--output", tmp_path / "out.json"),
            "--output must name a folder, which holds the model too",
        ),
    ):
        made = tokenry("transfer", *arguments)
        assert made.exit_code == 2
        assert words in made.stderr
    missing = tokenry("train", desk / "model", desk / "no.txt", "--output", tmp_path / "net", *FAST)
    assert missing.exit_code == 2
    assert "no.txt cannot be read as UTF-8 text" in missing.stderr
