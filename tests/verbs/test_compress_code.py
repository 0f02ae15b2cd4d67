"""`tokenry compress code`: what is counted and measured on a user's sources, and what is refused before any work starts."""

import pytest
from transformers import RobertaConfig, RobertaModel, T5Config, T5EncoderModel

from tests.tiny.models import made
from tests.tiny.tokenizers import CODE, byte_level
from tests.verbs.check_verb import check_refused, check_verb

CODE_VERB = "compress code"
PYTHON = (
    "def read_user_data(user_id, max_retries=3):\n    naive_cat = add(user_id, cats)\n    return naive_cat\n"
)
FAST = ("--rounds", "2", "--max-length", "60", "--device", "cpu")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    tokenizer = byte_level(CODE, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    roberta = RobertaConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=80,
        **sizes,
    )
    t5 = T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, **sizes)
    folders = {}
    for name, model in (("roberta", made(RobertaModel, roberta)), ("t5", made(T5EncoderModel, t5))):
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code")
    (folder / "inside").mkdir()
    (folder / "one.py").write_text(PYTHON)
    (folder / "inside/two.py").write_text("x = 1\n")
    (folder / "empty.py").write_text("")
    (folder / "Main.java").write_text("class Main { int retryCount = 2; }\n")
    (folder / "notes.txt").write_text("none of this")
    return folder


def test_a_folder_is_measured_under_every_policy(encoders, sources, tmp_path):
    saved = check_verb(CODE_VERB, sources, "--model", encoders["roberta"], *FAST, output=tmp_path / "out")
    assert (saved["language"], saved["sources"], saved["backend"], saved["after"]) == (
        "python",
        2,
        "tree-sitter",
        1,
    )
    tokens = {name: estimate["value"] for name, estimate in saved["tokens"].items()}
    assert tokens["unmerged"] > tokens["identifier"] >= tokens["identifier+literal"]
    for shares in saved["savings"].values():
        assert shares == sorted(shares, reverse=True)
        assert shares[0] > 0 == shares[-1]
    assert 0 < saved["cosine"]["value"] < 1
    grouped = [token["group"] for token in saved["text"]["tokens"]]
    assert grouped == sorted(grouped)


def test_one_file_in_another_language_by_t5_and_the_lexer(encoders, sources, tmp_path):
    arguments = (
        sources / "Main.java",
        "--model",
        encoders["t5"],
        "--backend",
        "lexer",
        "--after",
        "0",
        *FAST,
    )
    saved = check_verb(CODE_VERB, *arguments, output=tmp_path / "out")
    assert (saved["language"], saved["sources"], saved["backend"], saved["after"]) == ("java", 1, "lexer", 0)
    assert "leaf" not in saved["savings"]


def test_a_language_without_a_grammar_is_read_by_the_lexer_and_the_result_says_so(
    encoders, sources, tmp_path
):
    arguments = (sources / "notes.txt", "--language", "cobol", "--model", encoders["roberta"], *FAST)
    saved = check_verb(CODE_VERB, *arguments, output=tmp_path / "out")
    assert saved["backend"] == "lexer"
    assert any("no grammar for 'cobol' here: install the extra `code`" in note for note in saved["notes"])


def test_what_cannot_be_read_is_refused(encoders, sources, tmp_path):
    (tmp_path / "empty.py").write_text("")
    model = ("--model", encoders["roberta"])
    for arguments, words in (
        ((tmp_path / "nothing", *model), "does not exist: give a source file, or a folder of them"),
        ((tmp_path, *model), "holds no source that is not empty: give a source file, or a folder of them"),
        ((tmp_path / "empty.py", *model), "holds no source that is not empty"),
        (
            (sources / "notes.txt", *model),
            "has no source with a known suffix (.py, .java, .c, .h): name the language with",
        ),
        ((sources, *model, "--language", "c"), "has no source in c that is not empty"),
        ((sources, *model, "--after", "3"), "give a number from 0 to 2, got 3"),
        ((sources, *model, "--after", "-1"), "--after must be at least 0, got -1"),
        ((sources, *model, "--rounds", "1"), "--rounds must be at least 2, got 1"),
        ((sources, *model, "--max-length", "500"), "--max-length must be at most"),
        ((sources, "--model", tmp_path / "no-model"), "no-model"),
        (
            (sources / "notes.txt", *model, "--language", "cobol", "--policy", "leaf"),
            "there is no grammar for 'cobol' here",
        ),
    ):
        check_refused(CODE_VERB, *arguments, words=words)
