import re

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.tokenization.special_roles import ROLES
from tokenry.tokenization.tokenizer_files import (
    TextLines,
    load_any_tokenizer,
    load_fast_tokenizer,
    save_tokenizer,
    text_files,
)
from tokenry.tokenization.training.boundless_bpe import BoundlessBPE
from tokenry.tokenization.training.boundless_training import train_boundless_bpe
from tokenry.tokenization.training.superbpe import train_superbpe

TEXTS = ["to be or not to be", "that is to be"] * 3


def test_a_stock_tokenizer_loads_from_its_folder_and_from_its_file(tmp_path):
    trained = train_superbpe(TEXTS, 280, special_tokens=["<s>"])
    file = save_tokenizer(trained, tmp_path / "made")
    folder, alone = load_any_tokenizer(tmp_path / "made"), load_any_tokenizer(file)
    assert isinstance(folder, PreTrainedTokenizerBase)
    assert isinstance(alone, Tokenizer)
    ids = trained.encode(TEXTS[0]).ids
    assert folder.encode(TEXTS[0], add_special_tokens=False) == alone.encode(TEXTS[0]).ids == ids


@pytest.mark.parametrize(
    ("special", "roles"),
    [
        (["<s>", "</s>"], {"bos_token": "<s>", "eos_token": "</s>"}),
        (["<|endoftext|>"], {"eos_token": "<|endoftext|>"}),
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], {"pad_token": "[PAD]", "unk_token": "[UNK]"}),
        (["<pad>", "<eos>", "<bos>"], {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}),
        (["<stop>"], {"eos_token": "<stop>"}),
        (["<one>", "<two>"], {}),
        ([], {}),
    ],
)
def test_a_saved_tokenizer_knows_the_roles_that_its_special_tokens_name(tmp_path, special, roles):
    file = save_tokenizer(train_superbpe(TEXTS, 280, special_tokens=special), tmp_path / "made")
    for loaded in (load_any_tokenizer(tmp_path / "made"), load_fast_tokenizer(file)):
        known = {role: getattr(loaded, role) for role in ROLES if getattr(loaded, role) is not None}
        assert roles.items() <= known.items()
        assert roles or not known
        assert len(loaded) <= 280


def test_a_boundless_tokenizer_loads_from_its_folder_and_from_any_file(tmp_path):
    trained = train_boundless_bpe(TEXTS, 270)
    file = save_tokenizer(trained, tmp_path / "made")
    trained.save(tmp_path / "other.json")
    for source in (tmp_path / "made", file, tmp_path / "other.json", str(file)):
        assert load_any_tokenizer(source) == trained
    assert isinstance(load_any_tokenizer(file), BoundlessBPE)


def test_lines_are_read_anew_each_time(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo \n", encoding="utf-8")
    lines = TextLines((tmp_path / "a.txt",))
    assert [*lines] == [*lines] == ["one", "", "two "]
    assert [*TextLines((tmp_path / "a.txt",), whole_files=True)] == ["one\n\ntwo \n"]


def test_a_folder_stands_for_its_text_files(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "sub/a.txt", "c.md"):
        (tmp_path / name).write_text("x")
    assert text_files([tmp_path]) == (tmp_path / "b.txt", tmp_path / "sub/a.txt")
    assert text_files([tmp_path / "c.md"]) == (tmp_path / "c.md",)


def broken(folder, content):
    (folder / "broken.json").write_bytes(content)
    return folder / "broken.json"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda folder: load_any_tokenizer(broken(folder, b"{}")), "is not a tokenizer file"),
        (lambda folder: load_any_tokenizer(broken(folder, b"\x00")), "is not a tokenizer file"),
        (lambda folder: load_any_tokenizer(folder), "has no tokenizer"),
        (lambda folder: TextLines((folder / "no.txt",)), "there is no text file"),
        (lambda folder: TextLines(()), "there is no text file at all"),
        (lambda folder: [*TextLines((broken(folder, b"\xff\xfe"),))], "is not UTF-8"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call(tmp_path)
