"""An adapter merged into its base model is one plain folder, for anything that loads models."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.models.test_adapters import ADAPTERS, ROWS, write_adapter
from tests.tiny.tokenizers import word_tokenizer as tiny_tokenizer
from tokenry.core.errors import UserError
from tokenry.models import save_merged


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_the_merged_folder_says_what_the_adapter_said(name, tied, tmp_path):
    adapter, expected = write_adapter(tmp_path, ADAPTERS[name], ROWS, tied)
    tiny_tokenizer().save_pretrained(adapter)
    save_merged(adapter, tmp_path / "merged")
    assert not list((tmp_path / "merged").glob("adapter*"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        logits = model(torch.arange(ROWS)[None]).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template == tiny_tokenizer().chat_template


def test_the_weights_are_saved_in_the_dtype_asked_for(tmp_path):
    adapter, _ = write_adapter(tmp_path, {"target_modules": ["q_proj"]}, ROWS, tied=False)
    tiny_tokenizer().save_pretrained(adapter)
    save_merged(adapter, tmp_path / "merged", dtype="bfloat16")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert model.dtype == torch.bfloat16


def test_what_is_no_adapter_and_a_folder_that_exists_are_refused(tmp_path):
    adapter, _ = write_adapter(tmp_path, {"target_modules": ["q_proj"]}, ROWS, tied=False)
    with pytest.raises(UserError, match=r"base is not an adapter .*: there is nothing to merge"):
        save_merged(tmp_path / "base", tmp_path / "merged")
    with pytest.raises(UserError, match="exists already: name a new folder"):
        save_merged(adapter, tmp_path / "base")
    assert not (tmp_path / "merged").exists()
