"""A user's mistake, whatever the verb: exit code 2 and one sentence, before any work starts."""

import re
import sys

import pytest
import typer
from typer.testing import CliRunner

from tests.tiny.chats import sums, write_model, write_rows
from tests.tiny.images import write_classifier, write_images
from tokenry.cli import app
from tokenry.cli.console import command


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with models, data and texts, sound ones and others."""
    folder = tmp_path_factory.mktemp("mistakes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENRY_CACHE", str(folder / "cache"))
        write_model(folder / "model")
        write_rows(folder / "data.jsonl", sums(24))
        write_classifier(folder / "vit")
        write_images(folder / "images", 3)
        (folder / "text.txt").write_text("The cat sat on the mat.\n\nA dog and 12 cows.\n" * 20)
        (folder / "empty.txt").write_text("")
        (folder / "latin.txt").write_bytes("a café".encode("latin-1"))
        (folder / "words.txt").write_text("cat\ndog\nhouse\n")
        six = (f"word{first}{second}" for first in "abcdef" for second in "ghij")
        (folder / "six.txt").write_text("\n".join(six))
        (folder / "file").write_text("x")
        (folder / "taken").mkdir()
        (folder / "languages").mkdir()
        for language in ("eng", "deu"):
            (folder / "languages" / f"{language}.txt").write_text("a b c\nd e f\n" * 20)
        (folder / "unfinished").mkdir()
        (folder / "unfinished" / "plan.json").write_text("{}")
        yield folder


@pytest.fixture
def new(tmp_path):
    """A folder that is not there yet."""
    return tmp_path / "new"


def run(desk, new, command):
    """Run a command line in which `@x` is the path of x."""
    words = (word.replace("@new", str(new)).replace("@", f"{desk}/") for word in command.split())
    return CliRunner().invoke(app, [*words])


def words_of(stderr):
    """What was said, without the box that a wrong option is drawn in."""
    return " ".join(re.sub(r"[│╭╰─╮╯]", " ", stderr).split())


TUNE = "tune @model @data.jsonl --dtype float32 --max-length 96 --set use_cpu=true --output @new"
VISION = "compress vision --model @vit --images @images --output @new"
CHARBENCH = (
    "evaluate charbench @model --words @six.txt --min-length 6 --max-length 6 --per-length 4 --output @new"
)
LANGUAGES = "--parallel @languages --train @languages"
OPTIMAL = f"tokenizer optimal-vocab {LANGUAGES}"
ZETT = "tokenizer zett train @model @text.txt --output @new --steps 40 --vocabulary-size 400"

MISTAKES = [
    # tune
    (f"{TUNE} --set learning_rate=-1", "learning_rate must be above 0, got -1.0"),
    (f"{TUNE} --set learning_rate=0", "learning_rate must be above 0, got 0.0"),
    (f"{TUNE} --set num_train_epochs=0", "num_train_epochs must be above 0"),
    (f"{TUNE} --set max_steps=0", "max_steps must be at least 1, or -1"),
    (f"{TUNE} --set gradient_accumulation_steps=0", "gradient_accumulation_steps must be at least 1, got 0"),
    (f"{TUNE} --set weight_decay=-1", "weight_decay must be 0 or more"),
    (f"{TUNE} --set max_grad_norm=-1", "max_grad_norm must be 0 or more"),
    (f"{TUNE} --set neftune_noise_alpha=-5", "neftune_noise_alpha must be 0 or more"),
    (f"{TUNE} --set max_steps=1 --set warmup_steps=1", "the only optimisation step would be one of warm-up"),
    (f"{TUNE} --set resume_from_checkpoint=x", "resume_from_checkpoint is no training argument here"),
    (f"{TUNE} --set dataloader_num_workers=-1", "dataloader_num_workers=-1)"),
    (f"{TUNE} --set lr_scheduler_type=cosine_with_min_lr", "(with lr_scheduler_type=cosine_with_min_lr, use_cpu=True)"),
    (f"{TUNE} --set lr_scheduler_type=warmup_stable_decay", "num_decay_steps"),
    (f"{TUNE} --set optim=adamw_bnb_8bit", "install"),
    (f"{TUNE} --set optim_args=nonsense", "(with use_cpu=True, optim_args=nonsense)"),
    (f"{TUNE} --set accelerator_config=@none.json", "a training argument is not right: "),
    (f"{TUNE} --set chat_template_path=@none", "chat_template_path="),
    (f"{TUNE} --set adam_beta1=3", "this cannot be trained: Invalid beta parameter at index 0: 3.0 (with use_cpu=True, adam_beta1=3.0)"),
    (f"{TUNE} --weighing small-loss --set max_steps=2 --set gradient_accumulation_steps=1", "nothing would ever be selected"),
    (f"{TUNE} --seed -1", "--seed is not right: input should be greater than or equal to 0, got -1"),
    (f"{TUNE} --seed x", "'--seed'"),
    (f"{TUNE} --max-length 1", "--max-length is not right"),
    (f"{TUNE} --config @taken", "cannot be read: Is a directory"),
    (f"{TUNE} --held-out @none.jsonl", "none.jsonl does not exist"),
    (f"{TUNE} --trusted @taken", "is not a data set"),
    ("tune @model @data.jsonl --output @file", "file cannot be written"),
    ("tune @model @data.jsonl --output @file/sub", "file/sub cannot be written"),
    ("tune @model @data.jsonl --output @languages", "languages exists already and holds no run of `tokenry tune`: name a new folder"),
    ("tune @model @data.jsonl --output @new.json", "--output must name a folder"),
    ("tune @model @data.jsonl --config @new", "cannot be read: No such file or directory"),
    ("tune @model @images --output @new", "is not a data set that datasets' save_to_disk wrote"),
    ("tune @model @text.txt --output @new", "is of no known kind"),
    ("tune @file @data.jsonl --output @new", "file is a file: name the folder that holds config.json"),
    ("tune @vit @data.jsonl --output @new", "has no tokenizer"),
    # report
    ("report @none", "none does not exist"),
    ("report @taken", "taken/result.json does not exist"),
    ("report @file", "file is not valid JSON"),
    ("report @unfinished", "is not finished (finished so far: nothing): go on with `tokenry tune --resume --output"),
    ("report @taken --output @languages", "languages is a folder: name a file in it"),
    ("report @taken --output @file/page.html", "page.html cannot be written"),
    # score
    ("score hello --model @model --signals nonsense", "signals are nll, entropy, prompt_attention"),
    ("score hello --model @model --signals ,", "got none"),
    ("score @data.jsonl --model @model --samples 0", "--samples must be at least 1, got 0"),
    ("score @data.jsonl --model @model --samples -1", "--samples must be at least 1, got -1"),
    ("score @text.txt --model @model --max-length 1", "--max-length must be at least 2, got 1"),
    ("score @none.txt --model @model", "none.txt does not exist"),
    ("score @none.ndjson --model @model", "none.ndjson does not exist"),
    ("score @text.txt --model @model --layers x", "layers are -1, deep, or numbers"),
    ("score @text.txt --model @model --output @file", "file cannot be written"),
    ("score @text.txt --model @none/x/y --output @new", "none/x/y does not exist"),
    ("score @empty.txt --model @model --output @new", "fewer than two tokens"),
    ("score @latin.txt --model @model --output @new", "is not UTF-8: byte 5"),
    # evaluate
    ("evaluate @model @none.jsonl", "none.jsonl does not exist"),
    ("evaluate @model @data.jsonl --answers -3", "--answers must be at least 0, got -3"),
    ("evaluate @model @data.jsonl --max-length 0", "--max-length must be at least 2, got 0"),
    ("evaluate @model @data.jsonl --seed -1", "--seed must be at least 0, got -1"),
    ("evaluate @model @data.jsonl --dtype int3", "'int3' is not one of 'float32', 'bfloat16', 'float16'"),
    ("evaluate @model @data.jsonl --output @file", "file cannot be written"),
    ("evaluate @model @data.jsonl --output @file/x.json", "cannot be written"),
    ("evaluate arithmetic @model --format nosuch", "format must be one of nosep"),
    ("evaluate arithmetic @model --signature 7,7", "a signature is three lengths"),
    ("evaluate arithmetic @model --per-signature 0", "--per-signature must be at least 1, got 0"),
    ("evaluate arithmetic @model --shots -1", "--shots must be at least 0, got -1"),
    ("evaluate arithmetic @model --batch-size 0", "--batch-size must be at least 1, got 0"),
    ("evaluate arithmetic @model --group 0", "group must be at least 1"),
    ("evaluate arithmetic @model --retokenize r2l --group 99", "the vocabulary lacks more than 10^12"),
    ("evaluate arithmetic @model --output @file/there", "cannot be written"),
    ("evaluate charbench @model --mode x", "'x' is not one of 'score', 'generate'"),
    ("evaluate charbench @model --words @none.txt", "none.txt cannot be read"),
    ("evaluate charbench @model --words @empty.txt", "holds no words"),
    ("evaluate charbench @model --words @taken", "Is a directory"),
    ("evaluate charbench @model --words @words.txt --per-length 3", "--per-length must be at least 4, got 3"),
    (f"{CHARBENCH} --limit -1", "limit must be at least 1"),
    ("evaluate charbench @model --words @words.txt --min-length 0", "--min-length must be at least 1, got 0"),
    (f"{CHARBENCH} --batch-size 0", "--batch-size must be at least 1, got 0"),
    ("evaluate charbench @model --words @words.txt --output @file", "file cannot be written"),
    # compress
    ("compress vision --model @vit --images @none", "none does not exist"),
    ("compress vision --model @vit --images @file", "is a file: name the folder that holds the images"),
    ("compress vision --model @model --images @images", "reads no images"),
    (f"{VISION} --batch-size -1", "--batch-size must be at least 1"),
    (f"{VISION} --limit 0", "--limit must be at least 1"),
    (f"{VISION} --method tome --r -3", "--r must not be negative"),
    (f"{VISION} --method diffrate --schedule @taken", "taken cannot be read (Is a directory)"),
    (f"{VISION} --method diffrate --schedule vit-large@42.3".replace("vit-large@", "vit-large%"), "does not exist"),
    (f"{VISION} --labels @none.csv", "the labels"),
    (f"{VISION} --mean 0.5", "mean and std go together"),
    ("compress vision --model @vit --images @images --output @file/x", "cannot be written"),
    ("compress plan @none.csv", "none.csv does not exist"),
    ("compress plan @taken", "cannot be read as CSV"),
    ("compress plan --budget -1", "the budget must be at least 0 FLOPs"),
    ("compress plan --sizes a", "--sizes takes numbers separated by commas"),
    ("compress plan --bootstrap -2", "--bootstrap must be at least 0, got -2"),
    ("compress plan --seed -1", "--seed must be at least 0, got -1"),
    ("compress plan --output @file/x", "cannot be written"),
    # tokenizer
    ("tokenizer compare @model --text @none.txt", "there is no text file"),
    ("tokenizer compare @file --text @text.txt", "is not a tokenizer file"),
    ("tokenizer compare @model --text @text.txt --output @x.txt", "--output must end in .html or .json"),
    ("tokenizer compare @model --text @text.txt --output @file/x.json", "cannot be written"),
    ("tokenizer premiums @model --grid", "one of the two"),
    ("tokenizer premiums @model --parallel @none", "is not a folder"),
    ("tokenizer premiums @model --parallel @languages --reference fra --output @new", "the reference language 'fra'"),
    ("tokenizer premiums @model --parallel @languages --output @file", "file cannot be written"),
    (f"tokenizer premiums --grid {LANGUAGES} --vocab-sizes 512,256 --output @new", "must be positive and increase"),
    (f"tokenizer premiums --grid {LANGUAGES} --min-frequency -1 --output @new", "--min-frequency must be at least 0"),
    ("tokenizer train nosuch @text.txt", "'nosuch'"),
    ("tokenizer train bpe @none.txt", "there is no text file"),
    ("tokenizer train bpe @text.txt --vocab-size 100 --output @new", "has no room for the 256 bytes"),
    ("tokenizer train bpe @text.txt --min-frequency -1 --output @new", "--min-frequency must be at least 0"),
    ("tokenizer train bpe @text.txt --pattern ( --output @new", "is not a valid regular expression"),
    ("tokenizer train superbpe @text.txt --max-words 0 --output @new", "--max-words must be at least 1"),
    ("tokenizer train boundless @text.txt --tau -1 --output @new", "tau must be positive"),
    ("tokenizer train bpe @text.txt --output @file/x", "cannot be written"),
    (f"{OPTIMAL} --vocab-sizes 300,310", "measure at least 4 vocabulary sizes"),
    (f"{OPTIMAL} --vocab-sizes 300,310,320,330 --target -1", "the target must be a positive number of tokens"),
    (f"{OPTIMAL} --vocab-sizes 300,310,320,330 --budget 300", "cannot be spread over 2 languages"),
    (f"{OPTIMAL} --vocab-sizes 300,310,320,330 --largest 7", "the largest vocabulary (7) is below the smallest"),
    (f"{OPTIMAL} --output @file", "file cannot be written"),
    (f"{OPTIMAL} --save-tokenizers @file", "file cannot be written"),
    ("tokenizer numbers @none/x", "none/x does not exist"),
    ("tokenizer numbers @model --group 0", "group must be at least 1"),
    ("tokenizer numbers @model --group 99", "the vocabulary lacks more than 10^12 of the more than 10^12 numbers"),
    ("tokenizer numbers @model --output @taken", "exists already"),
    ("tokenizer numbers @model --output @file/x", "cannot be written"),
    ("tokenizer transplant @model @model @taken", "exists already"),
    ("tokenizer transplant @model @model @file/x", "cannot be written"),
    ("tokenizer transplant @model @file @new", "is not a tokenizer file"),
    ("tokenizer transplant @model @model @new --method magic", "method must be one of"),
    ("tokenizer transplant @model @model @new --text @taken", "cannot be read as UTF-8 text"),
    ("tokenizer transplant @model @model @new --seed -1", "--seed must be at least 0, got -1"),
    ("tokenizer zett train @model @text.txt --output @file/x", "cannot be written"),
    ("tokenizer zett train @model @none.txt --output @new", "none.txt cannot be read"),
    (f"{ZETT} --learning-rate -1", "learning rates must be 0 or more"),
    (f"{ZETT} --identity-learning-rate nan", "learning rates must be 0 or more"),
    (f"{ZETT} --batch-size 0", "--batch-size must be at least 1"),
    (f"{ZETT} --identity-steps 99", "stages must end in ascending order and within the 40 steps"),
    ("tokenizer zett transfer @model @taken @model --output @new", "holds no hypernetwork"),
    ("tokenizer zett transfer @model @taken @model --output @new --most-characters 0", "--most-characters must be at least 1, got 0"),
    # bytes
    ("bytes next", "give the text once"),
    ("bytes next --hex 6", "--hex takes pairs of hexadecimal digits"),
    ("bytes next --file @none", "none does not exist"),
    ("bytes next hi --model @model --most 0", "--most must be at least 1, got 0"),
    ("bytes next hi --model @model --invalid x", "'x' is not one of 'truncate', 'renormalize', 'all'"),
    ("bytes next hi --model @model --output @file", "file cannot be written"),
    ("bytes score hi --model @model --per word", "'word' is not one of 'byte', 'character'"),
    ("bytes generate hi --model @model --max-bytes -1", "--max-bytes must be at least 1, got -1"),
    ("bytes generate hi --model @model --samples 0", "samples must be at least 1, got 0"),
    ("bytes generate hi --model @model --top-p 2", "--top-p must be in (0, 1], got 2.0: 1 samples from all bytes"),
    ("bytes generate hi --model @model --temperature -1", "temperature must not be negative"),
    ("bytes self-test @file", "is a file"),
    ("bytes self-test @model --output @file/x", "cannot be written"),
    # papers and recipes
    ("reproduce", "no paper was named"),
    ("reproduce nosuch", "no paper has the slug 'nosuch'"),
    ("reproduce sstoken --scale huge", "'huge'"),
    ("reproduce sstoken --output @file", "cannot be written"),
    ("reproduce sstoken --output @new.json", "--output must name a folder"),
    ("papers extra", "extra"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "words"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_bad_usage_and_one_sentence(desk, new, command, words):
    result = run(desk, new, command)
    assert (result.exit_code, result.stdout) == (2, ""), result.stderr
    assert words in words_of(result.stderr)
    assert "Traceback" not in result.stderr
    assert not list(new.rglob("*.json"))
    assert not re.search(r"[1-9]\d?%  |100%  ", result.stderr), "work had begun"


# A package that is not there, and a path that cannot be used, wherever they show.


def spoken(function):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command(function))
    result = CliRunner().invoke(app, [])
    return result.exit_code, result.stderr.strip()


@pytest.mark.parametrize(
    ("package", "install"),
    [
        ("reasoning_gym", "'tokenry[demo]'"),
        ("wordfreq", "'tokenry[words]'"),
        ("english_words", "'tokenry[words]'"),
        ("gradio", "'tokenry[app]'"),
        ("ray", "'tokenry[ray]'"),
        ("lm_eval.models", "'tokenry[lm-eval]'"),
        ("no_such_package.inside", "no_such_package"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package, install):
    top = package.partition(".")[0]
    monkeypatch.setitem(sys.modules, top, None)

    def imports() -> None:
        __import__(package)

    assert spoken(imports) == (
        2,
        f"tokenry: error: the package {top} is needed and not installed: `pip install {install}`.",
    )


def test_a_missing_module_of_our_own_is_a_failure():
    def imports() -> None:
        import tokenry.no_such_module  # noqa: F401

    code, said = spoken(imports)
    assert (code, said.startswith("tokenry: failed: ModuleNotFoundError")) == (1, True)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda folder: (folder / "none").read_text(), "none cannot be used (No such file or directory)"),
        (lambda folder: folder.read_text(), "cannot be used (Is a directory): name another path"),
        (lambda folder: (folder / "file" / "x").mkdir(), "file/x cannot be used (Not a directory)"),
    ],
)
def test_a_path_that_cannot_be_used_is_named(tmp_path, use, words):
    (tmp_path / "file").touch()

    def uses() -> None:
        use(tmp_path)

    code, said = spoken(uses)
    assert code == 2
    assert words in said


def test_without_the_words_extra_the_benchmark_says_what_to_install(desk, new, monkeypatch):
    for package in ("wordfreq", "english_words"):
        monkeypatch.setitem(sys.modules, package, None)
    result = run(desk, new, "evaluate charbench @model --output @new")
    assert result.exit_code == 2
    assert "pip install 'tokenry[words]'" in result.stderr
    assert not new.exists()


def test_a_second_model_that_is_not_there_is_named_before_the_first_is_asked(desk, new):
    result = run(desk, new, CHARBENCH.replace("@model", "@model @none/x/y"))
    assert result.exit_code == 2
    assert "none/x/y does not exist" in result.stderr
    assert "asking" not in result.stderr
