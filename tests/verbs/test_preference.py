"""The verbs of preferences: what they say of a loss, of pairs and of a training, and what they refuse."""

import subprocess
import sys

import pytest
from safetensors import safe_open
from transformers import BertForMaskedLM

from tests import tiny
from tests.tiny.chats import write_rows
from tests.verbs.check_verb import check_refused, check_verb, in_terminal
from tokenry.models import load_tokenizer
from tokenry.report.html import page
from tokenry.verbs.preference import explain, lattice


def pair(number, wordy=", of course!"):
    return {
        "prompt": [{"role": "user", "content": f"What is {number} + 1?"}],
        "chosen": [{"role": "assistant", "content": f"The answer is {number + 1}."}],
        "rejected": [{"role": "assistant", "content": f"The answer is {number + 2}{wordy}"}],
    }


@pytest.fixture(scope="module")
def data(desk):
    return write_rows(desk.folder / "pairs.jsonl", [pair(number) for number in range(12)])


def test_a_formula_is_explained(tmp_path):
    saved = check_verb("preference explain", "L -> W | given W or L", output=tmp_path / "out")
    assert saved["published_as"] == "cCPO"
    assert saved["words"].startswith(
        "If the model accepts the rejected response, then the model accepts the chosen"
    )
    relations = {row["loss"]: row["relation"] for row in saved["relations"]}
    assert (relations["unCPO"], relations["CPO"], relations["UNL"]) == ("entails", "entailed", "incomparable")
    assert "DPO" not in relations
    middle = saved["multipliers"][len(saved["multipliers"]) // 2]
    assert middle["margin"] == 0
    assert middle["chosen"] > middle["rejected"] > 0


def test_a_loss_with_a_supervised_term_is_explained_without_a_formula(tmp_path):
    saved = check_verb("preference explain", "dpop:beta=0.5", "--logp", "-60", output=tmp_path / "out")
    assert saved["formula"] is None
    first, last = saved["multipliers"][0], saved["multipliers"][-1]
    assert first["chosen"] == pytest.approx(51 * first["rejected"])
    assert last["chosen"] == pytest.approx(last["rejected"])
    assert "is no link of one log-ratio" in in_terminal(explain.lay_out(saved), 200)


def test_the_lattice_has_sixteen_core_losses_and_256_in_all(tmp_path):
    saved = check_verb("preference lattice", output=tmp_path / "out")
    assert (len(saved["losses"]), saved["entailments"]) == (16, 81)
    by_name = {row["name"]: row for row in saved["losses"]}
    assert by_name["cCPO"]["above"] == [by_name["unCPO"]["marks"]]
    assert max(saved["losses"], key=lambda row: row["height"])["name"] == "unCPO"
    every = check_verb("preference lattice", "--all", output=tmp_path / "all")
    assert (len(every["losses"]), every["entailments"]) == (256, 6561)


def test_a_lattice_above_a_loss_has_what_it_entails(tmp_path):
    saved = check_verb("preference lattice", "--above", "CPO", output=tmp_path / "out")
    assert {row["name"] for row in saved["losses"]} == {"CPO", "cCPO", "unCPO", None}
    assert all(row["marks"] in page("", "", lattice.lay_out(saved), {}) for row in saved["losses"])


def test_nothing_of_a_model_is_loaded_to_explain_a_loss():
    run = (
        "import sys; from tokenry.verbs.preference.explain import Plan, run; "
        "run(Plan('cCPO'), lambda what, share: None); print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", run], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"transformers", "trl", "tokenry.models"} & set(loaded)


@pytest.mark.parametrize("scope", ["full", "head"])
def test_pairs_are_diagnosed(desk, data, tmp_path, scope):
    options = ("--pairs", "3", "--scope", scope, "--loss", "cpo:sft_weight=0.1")
    saved = check_verb("preference diagnose", desk.model, data, *options, output=tmp_path / "out")
    assert len(saved["pairs"]) == 3
    assert sum(saved["cases"].values()) == pytest.approx(1)
    for one in saved["pairs"]:
        assert one["d_w"] > one["d_l"] > 0
        assert (one["case"] == "as wanted") == (one["change_chosen"] >= 0 >= one["change_rejected"])
    tokens = saved["examples"][0]["tokens"]
    assert {"chosen": "The", "rejected": "The"}.items() <= max(
        tokens, key=lambda one: one["chosen"] == "The"
    ).items()
    signals = {token["text"]: token["signals"] for token in saved["examples"][0]["maps"]["chosen"]}
    assert signals["The"]["highest_cosine"] == pytest.approx(1)


def test_a_reference_gives_other_multipliers(desk, data, tmp_path):
    options = (desk.model, data, "--pairs", "2", "--scope", "head")
    alone = check_verb("preference diagnose", *options, output=tmp_path / "alone")
    beside = check_verb(
        "preference diagnose", *options, "--reference", desk.model, output=tmp_path / "beside"
    )
    assert alone["pairs"][0]["d_w"] == pytest.approx(0.05)
    assert beside["pairs"][0]["d_w"] == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        ("--update", "repaired"),
        ("--loss", "L -> W | given W or L", "--full-weights", "--shared-above", "0.9"),
        ("--full-weights", "--learning-rate", "1e-3"),
    ],
)
def test_a_model_is_trained(desk, data, tmp_path, options):
    training = ("--max-steps", "3", "--batch-size", "4", "--dtype", "float32", "--device", "cpu")
    saved = check_verb("preference train", desk.model, data, *training, *options, output=tmp_path / "out")
    assert saved["steps"] == 3
    assert (saved["pairs"], saved["held_out_pairs"]) == (11, 1)
    assert [row["step"] for row in saved["curve"]] == [1, 2, 3]
    assert saved["records"][0]["step"] == 0
    assert sum(saved["held_out"]["cases"].values()) == pytest.approx(1)
    changes = {name: row["value"] for name, row in saved["held_out"]["changes"].items()}
    assert changes["margin"] == pytest.approx(changes["chosen"] - changes["rejected"], abs=1e-5)
    name = "model.safetensors" if "--full-weights" in options else "adapter_model.safetensors"
    with safe_open(tmp_path / "out" / "model" / name, "pt") as weights:
        assert len(weights.keys()) > 0


def test_bad_losses_are_refused():
    check_refused(
        "preference explain", "dpoo", words="there is no preference loss 'dpoo' (did you mean 'dpo'?)"
    )
    check_refused("preference explain", "(L -> W", words="the ( at character 1 is not closed")
    check_refused("preference explain", "dpo:beta=0", words="beta must be above 0 and finite, got 0.")
    check_refused(
        "preference explain", "dpo", "--logp", "-5", words="must be below 0, as log-probabilities are"
    )
    check_refused("preference lattice", "--above", "DPO", words="DPO is not among the 16 losses of W and L")


def test_bad_pairs_are_refused_before_a_model_is_loaded(tmp_path):
    def refused(rows, words):
        source = write_rows(tmp_path / "bad.jsonl", rows)
        for verb in ("diagnose", "train"):
            further = ("--output", tmp_path / "out")
            check_refused(f"preference {verb}", tmp_path / "no-model", source, *further, words=words)

    equal = pair(1)
    refused(
        [{**equal, "rejected": equal["chosen"]}],
        "pair 1 has equal responses, so there is no preference to learn",
    )
    refused([pair(1), {**equal, "chosen": ""}], "pair 2 has an empty chosen response")
    refused([{"messages": [{"role": "user", "content": "Hi"}]}], "row 1 has no 'chosen'")
    write_rows(tmp_path / "one.jsonl", [pair(1)])
    check_refused(
        "preference train",
        "m",
        tmp_path / "one.jsonl",
        "--output",
        tmp_path / "out",
        words="has one pair: give more",
    )


def test_models_that_cannot_read_the_pairs_are_refused(desk, data, tmp_path):
    encoder, short = tmp_path / "encoder", tmp_path / "short"
    tokenizer = load_tokenizer(str(desk.model))
    for folder, model in (
        (encoder, tiny.bert(BertForMaskedLM, vocab_size=len(tokenizer))),
        (short, tiny.gpt2(vocab_size=len(tokenizer), n_positions=8)),
    ):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for folder, words in ((encoder, "is not causal"), (short, "the pairs")):
        check_refused("preference diagnose", folder, data, "--output", tmp_path / "out", words=words)


def test_bad_options_are_refused(desk, data, tmp_path):
    check_refused(
        "preference diagnose", desk.model, data, "--pairs", "0", words="--pairs must be at least 1, got 0."
    )
    check_refused(
        "preference diagnose", desk.model, data, "--max-length", "3", words="every pair is longer than"
    )
    check_refused(
        "preference train", desk.model, data, "--epochs", "0", words="--epochs must be above 0, got 0.0."
    )
    check_refused(
        "preference train",
        desk.model,
        data,
        "--output",
        tmp_path / "x.json",
        words="--output must name a folder",
    )
    (tmp_path / "out" / "model").mkdir(parents=True)
    check_refused("preference train", desk.model, data, "--output", tmp_path / "out", words="exists already")
    check_refused(
        "preference train", desk.model, data, "--output", tmp_path / "new", "--shared-above", "2",
        words="is a cosine and must be in [-1, 1], got 2.0",
    )  # fmt: skip
