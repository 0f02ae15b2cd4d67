"""The verb `explain`: what it saves and draws, and what it refuses."""

import pytest
from transformers import BertConfig, BertForSequenceClassification

from tests.compression.text.test_scorers import SIZES, TOKENIZER
from tests.tiny.chats import write_model
from tests.tiny.models import made
from tests.tiny.server import tiny_server
from tests.verbs.check_verb import check_refused, check_verb
from tokenry.models import LocalText, load_model, load_tokenizer
from tokenry.verbs import explain
from tokenry.verbs.explain import METHODS

QUICK = ("reagent:stop=never,max_steps=2,probes=4", "attention-last", "leave-one-out:rounds=2")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("explain") / "model")


def methods(*names):
    return [part for name in names for part in ("--method", name)]


def test_every_method_stands_beside_random_scores(model, tmp_path):
    found = check_verb(
        "explain", "What is the answer to 6 + 6?", "--answer", " 12", "--model", model, *methods(*QUICK), output=tmp_path / "out"
    )  # fmt: skip
    assert "".join(found["tokens"]) == "What is the answer to 6 + 6?"
    assert found["answer"]["text"] == " 12"
    assert 0 < found["answer"]["probability"] < 1
    assert [row["method"] for row in found["methods"]] == list(QUICK)
    length = len(found["tokens"])
    assert [row["forwards"] for row in found["methods"]] == [9, 1, 2 * length + 1]
    for row in found["methods"]:
        assert len(row["scores"]) == length
        assert set(row["faithfulness"]) == set(found["random"])
    assert found["random"]["soft_nc"]["samples"] == 16
    assert found["random"]["soft_nc"]["standard_error"] > 0


def test_words_are_replaced_as_a_whole_and_the_answer_is_the_models_own(model, tmp_path):
    found = check_verb(
        "explain", "What is the answer?", "--per", "word", "--model", model, *methods(QUICK[0]), output=tmp_path / "out"
    )  # fmt: skip
    scores = found["methods"][0]["scores"]
    assert 1 < len(set(scores)) <= 5
    assert len(found["answer"]["tokens"]) == 1


def test_the_text_is_what_the_user_says(model, tmp_path):
    found = check_verb(
        "explain", "What is 6 + 6?", "--chat", "--model", model, *methods("attention-last"), output=tmp_path / "out"
    )  # fmt: skip
    said = "".join(found["tokens"])
    assert "What is 6 + 6?" in said
    assert "user" in said
    assert said != "What is 6 + 6?"


def test_an_endpoint_is_explained_through_what_it_writes(model, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    text = LocalText(load_model(model), load_tokenizer(model))
    text.name = "one"
    arguments = ("--tokenizer", model, *methods("reagent:stop=never,probes=2,max_steps=2"))
    with tiny_server(text) as server:
        asked = ("explain", "What is 6 + 6?", "--model", f"{server.address}#one", *arguments)
        found = check_verb(*asked, output=tmp_path / "out")
        check_verb(*asked, "--chat", "--answer", found["answer"]["text"], output=tmp_path / "chat")
        check_refused(*asked[:-1], "attention-last", words="use reagent or leave-one-out for a function")
    assert "".join(found["tokens"]) == "What is 6 + 6?"
    assert [name for name, value in found["methods"][0]["faithfulness"].items() if value is not None] == [
        "aopc"
    ]
    assert found["random"]["soft_nc"]["samples"] == 0
    assert 0 < found["answer"]["probability"] <= 1
    assert found["methods"][0]["faithfulness"]["aopc"] <= found["answer"]["probability"]


def test_the_label_of_a_classifier_is_explained(tmp_path):
    config = BertConfig(vocab_size=len(TOKENIZER), id2label={0: "cat", 1: "dog"}, **SIZES)
    for part in (made(BertForSequenceClassification, config), TOKENIZER):
        part.save_pretrained(tmp_path / "classifier")
    asked = ("explain", "the cat sat", "--model", str(tmp_path / "classifier"))
    found = check_verb(*asked, "--answer", "dog", output=tmp_path / "out")
    assert found["answer"]["text"] == "dog"
    assert [row["method"] for row in found["methods"]] == ["decompx", "decompx:method=linear", "globenc"]
    assert found["random"]["aopc"]["samples"] == 16
    check_refused(*asked, "--answer", "bird", words="gives the labels cat, dog, got --answer bird")
    check_refused(*asked, "--chat", words="is a classifier, to which nobody speaks")


def test_the_default_methods_are_known():
    from tokenry.attribution import ATTRIBUTIONS

    assert all(ATTRIBUTIONS.make(name) for name in METHODS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((" ",), "the text is empty"),
        (("What", "--answer", ""), "the answer has no tokens"),
        (("What", "--method", "regent"), "there is no attribution method 'regent'"),
        (("What", "--method", "reagent:probes=0"), "probes must be at least 1"),
        (("What", "--tokenizer", "mine"), "--tokenizer is for an endpoint"),
        (("nothing.txt",), "the file nothing.txt does not exist"),
    ],
)
def test_what_cannot_be_explained_is_refused(model, arguments, words):
    check_refused("explain", *arguments, "--model", model, words=words)


def test_scores_of_random_trials_are_coloured_by_their_differences():
    def shares(errors):
        row = {"scores": [-3.0, -1.0, -2.0], "standard_error": errors}
        return [token.signals["importance"] for token in explain._coloured(["a", "b", "c"], row)]

    assert shares([0.1, 0.1, 0.1]) == [0, 1, 0.5]
    assert shares(None) == pytest.approx([-1, -1 / 3, -2 / 3])
