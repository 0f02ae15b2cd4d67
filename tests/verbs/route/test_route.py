"""`tokenry route`: a small model cut out of a large one, labels, a router, texts of both and curves."""

import json

import pytest
import torch

from tests import tiny
from tests.tiny.chats import sums, write_rows
from tests.tiny.tokenizers import chatml_tokenizer
from tests.verbs.check_verb import check_refused, check_verb, tokenry
from tokenry.decoding.r2r import LabelledTokens
from tokenry.models import load_model
from tokenry.report.result import RESULT_FILE
from tokenry.verbs.route.small import in_words, layers

CPU = ("--dtype", "float32", "--device", "cpu")
ROUTER = ("--width", 8, "--blocks", 1, "--epochs", 2, "--validation", 0.5, "--learning-rate", 0.01)


def write_model(folder, seed, tokenizer=None):
    """A model whose answers soon end: one token in eight ends them."""
    tokenizer = tokenizer or chatml_tokenizer()
    size = len(tokenizer)
    ends = [tokenizer.eos_token_id, *range(size - size // 8, size)]
    model = tiny.llama(
        seed, vocab_size=size, initializer_range=0.5, max_position_embeddings=512, num_hidden_layers=3
    )
    model.generation_config.eos_token_id = ends
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("route")


@pytest.fixture(scope="module")
def pair(folder):
    return ("--small", write_model(folder / "small", 1), "--large", write_model(folder / "large", 2), *CPU)


@pytest.fixture(scope="module")
def prompts(folder):
    return write_rows(folder / "rows.jsonl", sums(30))


@pytest.fixture(scope="module")
def labels(folder, pair, prompts):
    arguments = ("--data", prompts, "--verifier", "gap", "--max-new-tokens", 24, "--top-k", 6)
    saved = check_verb("route label", *pair, *arguments, output=folder / "labels")
    assert saved["answers"] > 4
    return folder / "labels"


@pytest.fixture(scope="module")
def router(folder, labels):
    check_verb("route train", labels, *ROUTER, *CPU, output=folder / "router")
    return folder / "router"


def test_layers_are_dropped_and_healed_and_a_stopped_run_is_resumed(folder, pair, prompts, tmp_path):
    output = tmp_path / "cut"
    arguments = (
        folder / "large",
        output,
        "--drop",
        "1",
        "--data",
        prompts,
        "--steps",
        4,
        "--save-every",
        2,
        *CPU,
    )
    result = tokenry("route small", *arguments, "--quiet", "--json")
    assert result.exit_code == 0, result.output
    saved = json.loads((output / RESULT_FILE).read_text())
    assert saved["layers"] == [3, 2]
    assert saved["parameters"][1] < saved["parameters"][0]
    assert saved["expected_seconds"] > 0
    healed, large = load_model(output), load_model(folder / "large")
    assert healed.config.num_hidden_layers == 2
    assert not torch.equal(
        healed.model.layers[1].mlp.up_proj.weight, large.model.layers[2].mlp.up_proj.weight
    )
    assert "begun: resume it" in tokenry("route small", *arguments).stderr.replace("\n", " ").replace("│", "")
    assert tokenry("route small", *arguments, "--resume").exit_code == 0
    told = tokenry(
        "route small", folder / "large", tmp_path / "b", "--drop", "0", "--data", prompts, "--steps", 1, *CPU
    )
    assert "Healing takes about" in told.stderr.replace("\n", " ")


def test_layers_alone_are_dropped_without_steps(folder, pair, prompts, tmp_path):
    arguments = ("--drop", "0-1", "--data", prompts, "--steps", 0, *CPU)
    assert tokenry("route small", folder / "large", tmp_path / "cut", *arguments).exit_code == 0
    cut, large = load_model(tmp_path / "cut"), load_model(folder / "large")
    assert torch.equal(cut.model.layers[0].mlp.up_proj.weight, large.model.layers[2].mlp.up_proj.weight)


def test_layers_and_times_are_written_as_they_are_read():
    assert layers("3, 20-22") == [3, 20, 21, 22]
    assert (in_words(60), in_words(600)) == ("60 seconds", "10 minutes")


def test_labels_say_how_often_it_matters(labels):
    saved = json.loads((labels / RESULT_FILE).read_text())
    labelled = LabelledTokens.load(labels / "labels.safetensors")
    assert saved["mismatches"] == int(labelled.mismatch.sum()) > saved["divergent"] > 0
    assert saved["agreement_with_gap"]["share"] == 1
    assert "are few to train a router on" in tokenry("report", labels).stdout.replace("\n", " ")


@pytest.mark.parametrize("verifier", ["exact", "judge"])
def test_other_verifiers_are_compared_with_the_gap(verifier, pair, prompts, tmp_path):
    few = ("--data", prompts, "--items", 8, "--verifier", verifier, "--max-new-tokens", 24)
    saved = check_verb("route label", *pair, *few, "--top-k", 6, output=tmp_path / "labels")
    assert 0 <= saved["agreement_with_gap"]["count"] <= saved["mismatches"]


def test_two_models_write_together(pair, router, folder, tmp_path):
    questions = folder / "questions.txt"
    questions.write_text("What is 1 + 1?\nWhy?\n")
    shared = (questions, *pair, "--max-new-tokens", 12)
    saved = check_verb("route generate", router, *shared, "--rate", 0.5, output=tmp_path / "both")
    account = saved["account"]
    assert account["tokens"] == sum(len(answer["sources"]) for answer in saved["answers"])
    assert account["large_tokens"] == sum(sum(answer["sources"]) for answer in saved["answers"])
    assert account["activated_full"] > saved["parameters"][0]
    alone = check_verb("route generate", "entropy", *shared, "--threshold", 0, output=tmp_path / "large")
    assert alone["account"]["rate"] == 1
    assert alone["account"]["activated_code"] == saved["parameters"][1]
    assert "written by the large model" in (tmp_path / "both/report.html").read_text()


def test_rules_are_compared_at_the_same_rates(pair, prompts, router, tmp_path):
    arguments = (
        "--data",
        prompts,
        "--items",
        4,
        "--max-new-tokens",
        8,
        "--rates",
        "0.2,0.5",
        "--rule",
        router,
    )
    saved = check_verb("route curve", *pair, *arguments, "--rule", "entropy", output=tmp_path / "curve")
    assert [point["asked"] for point in saved["points"]] == [0, 1, 0.2, 0.5, 0.2, 0.5]
    assert [point["rate"] for point in saved["points"][:2]] == [0, 1]
    assert (
        saved["points"][2]["activated_full"]
        > saved["points"][4]["activated_full"] - saved["points"][4]["rate"] * 1e9
    )


# --- bad input ---------------------------------------------------------------------------------------------------------


def test_a_router_of_another_small_model_is_refused(pair, router, folder, tmp_path):
    (tmp_path / "questions.txt").write_text("Why?\n")
    other = write_model(tmp_path / "other", 5)
    swapped = ("--small", other, *pair[2:])
    check_refused(
        "route generate",
        router,
        tmp_path / "questions.txt",
        *swapped,
        words="for which the router was fitted",
    )
    check_refused(
        "route train", folder / "labels", "--small", other, *CPU, words="has other weights or another dtype"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--drop", "x"), "--drop takes layers such as 20-23 or 3,5,20-23, got 'x'"),
        (("--drop", "7", *CPU), "layers to drop are some of 0 … 2, but not all, got 7"),
        (("--drop", "0-2", *CPU), "layers to drop are some of 0 … 2, but not all, got 0, 1, 2"),
        (("--drop", "0", "--steps", -1), "--steps must be at least 0, got -1"),
    ],
)
def test_layers_that_cannot_be_dropped_are_refused(arguments, words, pair, folder, prompts, tmp_path):
    check_refused(
        "route small", folder / "large", tmp_path / "new", "--data", prompts, *arguments, words=words
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("entropy", "--threshold", 0.1, "--rate", 0.1), "--threshold and --rate decide the same thing"),
        (("entrpy",), "there is no routing rule 'entrpy'"),
        (("router.safetensors",), "router.safetensors does not exist"),
        (("entropy", "--rate", 2), "--rate must be in [0, 1], got 2.0"),
    ],
)
def test_rules_that_make_no_sense_are_refused(arguments, words, pair, tmp_path):
    (tmp_path / "questions.txt").write_text("Why?\n")
    rule, *others = arguments
    check_refused("route generate", rule, tmp_path / "questions.txt", *pair, *others, words=words)


def test_other_tokenizers_and_files_are_refused(pair, folder, prompts, router, tmp_path):
    longer = chatml_tokenizer()
    longer.add_tokens(["<|more|>"])
    other = write_model(tmp_path / "other", 2, longer)
    check_refused(
        "route label", "--small", pair[1], "--large", other, "--data", prompts, *CPU,
        words="the large model has another tokenizer",
    )  # fmt: skip
    check_refused("route train", router / "router.safetensors", words="holds no file of labelled tokens")
    check_refused("route curve", *pair, "--rates", "", words="there is none")
    check_refused("route curve", *pair, "--rates", "1.5", words="a rate must be in [0, 1], got 1.5")
    check_refused("route label", *pair, "--judge", "x", words="--judge goes with --verifier judge")
