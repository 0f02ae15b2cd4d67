"""One gate for models: what is no causal language model, reads other tokens, or has no room is refused before any work."""

import json
import re
import warnings

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from tests.tiny.chats import QUICK, sums, write_model, write_rows
from tests.tiny.models import llama as tiny_llama
from tests.tiny.tokenizers import chatml_tokenizer
from tests.tiny.tokenizers import word_tokenizer as tiny_tokenizer
from tests.tiny.training import sft_config, token_rows
from tokenry.cli import app
from tokenry.core.chat.conversations import encode_rows
from tokenry.core.errors import UserError
from tokenry.core.tensors.losses import backbone, output_head, weighted_cross_entropy
from tokenry.core.text.bits_per_byte import text_loss
from tokenry.decoding import ByteLM
from tokenry.evaluation import generate_answers, held_out_nll
from tokenry.evaluation.arithmetic import evaluate_addition
from tokenry.evaluation.charbench import build_charbench, evaluate_charbench
from tokenry.finetuning import Rho1, SmallLoss, SSToken, TokenCleaning, TokenWeighingTrainer, diagnose
from tokenry.finetuning.refusals import refuse_split_head
from tokenry.models import (
    load_model,
    require_causal_lm,
    require_readable,
    require_reference,
    require_same_tokenizer,
)
from tokenry.tokenization import transplant_tokenizer
from tokenry.verbs import score
from tokenry.verbs._hardware import Hardware
from tokenry.verbs.evaluate import held_out

VOCABULARY = 64
POSITIONS = 24
SIZE = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": POSITIONS, "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
DECODER = SIZE | {"is_decoder": True}
GROUPED = SIZE | {"num_key_value_heads": 2, "head_dim": 8}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": POSITIONS,
    "bos_token_id": 1,
}
GPT2 |= {"eos_token_id": 2, "initializer_range": 0.3}
BART = {
    "vocab_size": VOCABULARY, "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48,
    "max_position_embeddings": POSITIONS, "init_std": 0.3,
}  # fmt: skip
XLNET = {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}
XLM = {
    "n_words": VOCABULARY,
    "emb_dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "max_position_embeddings": POSITIONS,
}
EXPERTS = GROUPED | {
    "num_local_experts": 4,
    "num_experts": 4,
    "moe_intermediate_size": 16,
    "num_experts_per_tok": 2,
}

# Kind, settings, and the positions that there are (None: they go on).
CAUSAL = {
    "llama": ("llama", GROUPED, None),
    "mixtral": ("mixtral", EXPERTS, None),
    "qwen3 experts": ("qwen3_moe", EXPERTS, None),
    "gemma2, soft-capped": ("gemma2", GROUPED | {"final_logit_softcapping": 2.0}, None),
    "cohere, scaled": ("cohere", GROUPED | {"logit_scale": 0.1}, None),
    "granite, divided": ("granite", GROUPED | {"logits_scaling": 7.0}, None),
    "mpt": ("mpt", {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": POSITIONS}, POSITIONS),
    "falcon": ("falcon", {key: SIZE[key] for key in SIZE if key != "intermediate_size"}, None),
    "bloom": ("bloom", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}, None),
    "gpt2": ("gpt2", GPT2, POSITIONS),
    "gpt-j, with a bias": ("gptj", GPT2 | {"rotary_dim": 4}, POSITIONS),
    "codegen": ("codegen", GPT2 | {"rotary_dim": 4}, POSITIONS),
    "gpt-neox": ("gpt_neox", SIZE, None),
    "ctrl": ("ctrl", GPT2 | {"dff": 48}, POSITIONS),
    "opt, projected": ("opt", {key: SIZE[key] for key in SIZE if key not in ("intermediate_size", "initializer_range")}
                       | {"ffn_dim": 48, "word_embed_proj_dim": 16}, POSITIONS),
    "bert": ("bert", DECODER, POSITIONS),
    "roberta, padding first": ("roberta", DECODER, POSITIONS - 1),
    "xlm-roberta": ("xlm-roberta", DECODER | {"pad_token_id": 1, "bos_token_id": 0}, POSITIONS - 2),
    "electra, projected": ("electra", DECODER | {"embedding_size": 16}, POSITIONS),
    "roformer": ("roformer", DECODER, POSITIONS),
    "rembert, wider": ("rembert", DECODER | {"input_embedding_size": 16, "output_embedding_size": 40}, POSITIONS),
    "modernbert decoder": ("modernbert-decoder", SIZE, None),
    "bart's decoder": ("bart", BART, POSITIONS),
    "mamba": ("mamba", {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, None),
    "rwkv": ("rwkv", {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "context_length": POSITIONS}, None),
    "recurrent gemma": ("recurrent_gemma", {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3,
                        "num_attention_heads": 4, "intermediate_size": 48, "logits_soft_cap": 2.0, "lru_width": 32}, None),
    "xlm, causal": ("xlm", XLM | {"causal": True}, POSITIONS),
}  # fmt: skip

# Models that see what comes later, each in the way that its config says.
BIDIRECTIONAL = {
    "llama": ("llama", GROUPED | {"is_causal": False}),
    "gemma3": ("gemma3_text", GROUPED | {"use_bidirectional_attention": True}),
    "xlnet": ("xlnet", XLNET),
    "xlm": ("xlm", XLM),
    "bert": ("bert", SIZE),
    "roberta": ("roberta", SIZE),
    "roformer": ("roformer", SIZE),
    "electra": ("electra", SIZE),
}


@pytest.fixture(autouse=True)
def _quiet():
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def make(kind, settings, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).to(dtype).eval()


def bidirectional(**options):
    return make("roformer", SIZE | options)


def sees_later_tokens(model):
    one, other = torch.tensor([[30, 31, 32]]), torch.tensor([[30, 31, 33]])
    with torch.no_grad():
        return not torch.equal(model(input_ids=one).logits[0, 0], model(input_ids=other).logits[0, 0])


def own_nll(model, rows):
    """Mean NLL of the labelled tokens from the model's own logits, a sample at a time."""
    losses = []
    for row in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].float()
        for place, label in enumerate(row["labels"]):
            if place and label != -100:
                losses.append(-float(logits[place - 1].log_softmax(-1)[label]))
    return sum(losses) / len(losses)


# What a model says is what is measured.


@pytest.mark.parametrize("name", CAUSAL)
def test_the_loss_is_that_of_the_models_own_logits(name):
    kind, settings, _ = CAUSAL[name]
    model, rows = make(kind, settings), token_rows(4)
    assert held_out_nll(model, rows).nll_per_token.value == pytest.approx(own_nll(model, rows), abs=2e-5)


@pytest.mark.parametrize("name", ["roformer", "rembert, wider", "electra, projected", "recurrent gemma"])
def test_gradients_of_a_head_behind_further_layers_are_those_of_its_logits(name):
    model = make(*CAUSAL[name][:2]).double()
    require_causal_lm(model)
    ids = torch.tensor([[5, 9, 12, 30, 7]])
    weights = torch.tensor([[0.0, 0.5, 0.0, 1.0, 2.0]])
    nll = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    (nll * weights[0, 1:]).sum().backward()
    expected = {place: value.grad for place, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    hidden = backbone(model)(input_ids=ids).last_hidden_state
    loss, _ = weighted_cross_entropy(hidden, ids, weights, output_head(model), chunk_elements=2 * VOCABULARY)
    loss.backward()
    found = {place: value.grad for place, value in model.named_parameters() if value.grad is not None}
    assert found.keys() == expected.keys()
    for place, gradient in expected.items():
        torch.testing.assert_close(found[place], gradient, atol=1e-5, rtol=1e-4)


def test_a_head_behind_further_layers_is_trained_on_the_loss_of_its_logits(tmp_path):
    model = make("roformer", DECODER | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    rows = token_rows(6)
    before = own_nll(model, rows)
    # All rows in one step, from whose tokens all are learned in the first epoch.
    args = sft_config(tmp_path, per_device_train_batch_size=6, num_train_epochs=2, learning_rate=0.05)
    trainer = trained(model, tmp_path, SmallLoss(share=0.5, warmup_epochs=1.0), rows, args=args)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(before, abs=1e-4)
    assert own_nll(model.eval(), rows) < before


def test_under_fsdp_a_head_behind_further_layers_is_refused():
    model = make(*CAUSAL["roformer"][:2])
    require_causal_lm(model)
    refuse_split_head(model, "MULTI_GPU")
    refuse_split_head(tiny_llama(), "FSDP")
    with pytest.raises(UserError, match="RoFormerForCausalLM has further layers before its output head"):
        refuse_split_head(model, "FSDP")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "name", ["llama", "mixtral", "gemma2, soft-capped", "roformer", "mamba", "cohere, scaled"]
)
def test_a_causal_model_is_let_through_in_half_precision(name, dtype):
    model = make(*CAUSAL[name][:2], dtype=dtype)
    require_causal_lm(model)
    assert model.dtype is dtype


@pytest.mark.parametrize(
    "adapter",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [3, 4]},
    ],
    ids=["on the embeddings", "on the head", "whole ends", "some tokens"],
)
def test_a_wrapped_model_is_measured_with_its_adapter(adapter):
    model = get_peft_model(tiny_llama(), LoraConfig(r=2, init_lora_weights=False, **adapter)).eval()
    rows = token_rows(3)
    assert held_out_nll(model, rows).nll_per_token.value == pytest.approx(own_nll(model, rows), abs=2e-5)


def test_looking_at_a_model_leaves_it_as_it_was():
    model = tiny_llama(attention_dropout=0.5).train()
    model.model.layers[0].eval()
    modes, weights = [part.training for part in model.modules()], [p.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    require_causal_lm(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), weights, strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_a_model_without_its_weights_is_looked_at_from_outside_only():
    with torch.device("meta"):
        require_causal_lm(tiny_llama())
        with pytest.raises(UserError, match="is an encoder-decoder"):
            require_causal_lm(transformers.T5ForConditionalGeneration(_t5()))


# What is no causal language model.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_a_model_that_sees_later_tokens_is_refused(name, dtype):
    model = make(*BIDIRECTIONAL[name], dtype=dtype)
    if not sees_later_tokens(model):
        pytest.skip("this version of transformers does not know the setting")
    with pytest.raises(
        UserError, match="is not causal: what it says about a token changes with the tokens after it"
    ):
        require_causal_lm(model)


def _t5():
    return transformers.T5Config(
        vocab_size=VOCABULARY, d_model=32, d_ff=48, d_kv=8, num_layers=1, num_heads=2
    )


def _prophetnet():
    return transformers.ProphetNetConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_decoder_layers=1, num_decoder_attention_heads=4,
        decoder_ffn_dim=48, max_position_embeddings=POSITIONS,
    )  # fmt: skip


def _prompt_tuned(config):
    return get_peft_model(tiny_llama(), config)


def _saved_as(architecture):
    model = tiny_llama()
    model.config.architectures = [architecture]
    return model


def _damaged():
    model = tiny_llama()
    model.lm_head.weight.data[7] = float("nan")
    return model


def _speechless():
    model = tiny_llama()
    model.forward = lambda **_: (_ for _ in ()).throw(ValueError("this model needs pixel_values\nand more"))
    return model


NO_CAUSAL_LM = {
    "a reward model": (
        lambda: transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**GROUPED)),
        "LlamaForSequenceClassification has no output head",
    ),
    "a tagger": (
        lambda: transformers.LlamaForTokenClassification(transformers.LlamaConfig(**GROUPED)),
        "LlamaForTokenClassification has no output head",
    ),
    "a model without a head": (lambda: tiny_llama().model, "LlamaModel has no output head"),
    "a layer": (lambda: torch.nn.Linear(2, 2), "Linear has no output head"),
    "weights of a classifier": (
        lambda: _saved_as("LlamaForSequenceClassification"),
        r"head of a classifier or a reward model \(LlamaForSequenceClassification\)",
    ),
    "weights of a reward model": (
        lambda: _saved_as("Qwen2ForRewardModel"),
        r"head of a classifier or a reward model \(Qwen2ForRewardModel\)",
    ),
    "weights of a reader": (
        lambda: _saved_as("LlamaForQuestionAnswering"),
        "says nothing about the next token: give the causal language model",
    ),
    "an encoder-decoder": (
        lambda: transformers.T5ForConditionalGeneration(_t5()),
        r"is an encoder-decoder \(T5ForConditionalGeneration\)",
    ),
    "a masked language model": (
        lambda: transformers.BertForMaskedLM(transformers.BertConfig(**SIZE)),
        r"\(BertForMaskedLM\) is not causal",
    ),
    "several tokens at once": (
        lambda: transformers.ProphetNetForCausalLM(_prophetnet()),
        "ProphetNetForCausalLM computes its logits in a way that tokenry does not know",
    ),
    "prompt tuning": (
        lambda: _prompt_tuned(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)),
        "virtual tokens of prompt tuning before the text",
    ),
    "prefix tuning": (
        lambda: _prompt_tuned(PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)),
        "virtual tokens of prompt tuning before the text",
    ),
    "damaged weights": (_damaged, "are not finite on a few tokens: its weights are damaged"),
    "a model that wants more than text": (
        _speechless,
        r"cannot read a short text as a causal language model \(this model needs pixel_values\)",
    ),
}


@pytest.mark.parametrize("what", NO_CAUSAL_LM)
def test_what_is_no_causal_language_model_is_refused(what):
    build, words = NO_CAUSAL_LM[what]
    with pytest.raises(UserError, match=words):
        require_causal_lm(build())


def test_an_error_calls_the_model_by_the_name_it_is_given():
    with pytest.raises(UserError, match=r"^the reference X \(RoFormerForCausalLM\) is not causal"):
        require_causal_lm(bidirectional(), "the reference X")


@pytest.mark.parametrize("tied", [True, False])
def test_the_folder_of_a_reward_model_is_refused_even_where_its_head_would_fit(tied, tmp_path):
    config = transformers.LlamaConfig(**GROUPED, tie_word_embeddings=tied)
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="saved with the head of a classifier or a reward model"):
        load_model(tmp_path)


def test_a_reward_model_that_does_not_say_so_is_known_by_its_weights(tmp_path):
    config = transformers.LlamaConfig(**GROUPED, tie_word_embeddings=True)
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    config.architectures = None
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"a reward model \(score.weight\)"):
        load_model(tmp_path)


# What a model can read.


@pytest.mark.parametrize("name", CAUSAL)
def test_positions_are_refused_exactly_where_the_model_has_none(name):
    kind, settings, limit = CAUSAL[name]
    model = make(kind, settings)
    if limit is None:
        require_readable(model, [5], [10 * POSITIONS])
        model(input_ids=torch.full((1, 2 * POSITIONS), 5))
        return
    require_readable(model, [5], [limit])
    model(input_ids=torch.full((1, limit), 5))
    with pytest.raises(UserError, match=f"takes {limit + 1} positions and .* has {limit}: cut the samples"):
        require_readable(model, [5], [3, limit + 1])
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, limit + 1), 5))


@pytest.mark.parametrize("of", [list, np.array, torch.tensor], ids=["list", "array", "tensor"])
@pytest.mark.parametrize("wrong", [VOCABULARY, 10_000, -1, -100])
def test_an_id_without_a_row_is_refused(of, wrong):
    with pytest.raises(
        UserError, match=f"the prompts: token id {wrong} is not among the 64 rows of the embeddings"
    ):
        require_readable(tiny_llama(), of([5, wrong, 7]), [3], "the prompts")


def test_rows_are_counted_in_the_embeddings_not_in_the_config():
    model = tiny_llama()
    model.config.vocab_size = 1000
    with pytest.raises(UserError, match="token id 64 is not among the 64 rows"):
        require_readable(model, [64], [1])
    model.resize_token_embeddings(80)
    require_readable(model, [64, 79], [2])
    require_readable(model, [], [])


@pytest.mark.parametrize(
    "adapter",
    [
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ],
)
def test_rows_under_an_adapter_are_counted(adapter):
    model = get_peft_model(tiny_llama(), LoraConfig(r=2, **adapter))
    require_readable(model, [63], [1])
    with pytest.raises(UserError, match="token id 64 is not among the 64 rows"):
        require_readable(model, [64], [1])


# The same tokenizer.

WORDS = ["<pad>", "</s>", "<unk>", "yes", "no", "perhaps"]


def words(order=WORDS, added=(), normalizer=None, splits=None):
    model = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(order)}, unk_token="<unk>")
    )
    model.pre_tokenizer = splits or pre_tokenizers.Whitespace()
    if normalizer is not None:
        model.normalizer = normalizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="</s>", unk_token="<unk>")
    tokenizer.add_tokens(list(added))
    return tokenizer


def chats(*added):
    tokenizer = chatml_tokenizer()
    tokenizer.add_tokens(list(added))
    return tokenizer


def pairs(merges):
    vocabulary = {token: number for number, token in enumerate(["a", "b", "c", "ab", "bc", "abc"])}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, merges)))


def unigrams(score):
    pieces = [("<unk>", 0.0), ("a", -1.0), ("b", -2.0), ("ab", score)]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram(pieces, 0, False)))


class Letters(transformers.PreTrainedTokenizer):
    """A tokenizer that cannot be read from inside."""

    def __init__(self, lower=False, **options):
        self.lower = lower
        super().__init__(**options)

    @property
    def vocab_size(self):
        return 128

    def get_vocab(self):
        return {chr(number): number for number in range(128)} | self.added_tokens_encoder

    def _tokenize(self, text, **_):
        return list(text.lower() if self.lower else text)

    def _convert_token_to_id(self, token):
        return min(ord(token), 127)

    def _convert_id_to_token(self, index):
        return chr(index)


OTHER_TOKENIZERS = {
    "another order": (words(), words([*WORDS[:3], "no", "yes", "perhaps"]), "the token 'yes' has id 4 there and 3 here"),
    "another word": (words(), words([*WORDS[:5], "maybe"]), "it lacks the token 'perhaps'"),
    "another language": (words(), words([*WORDS[:3], "ja", "nein", "vielleicht"]), r"it lacks 3 tokens \('yes', …\)"),
    "an added token here": (words(added=["<call>"]), words(), "it lacks the token '<call>'"),
    "an added token there": (words(), words(added=["<call>"]), "it has the token '<call>' more"),
    "other added tokens": (words(added=["<a>"]), words(added=["<b>"]), "it lacks the token '<a>'"),
    "added in another order": (
        words(added=["<a>", "<b>"]), words(added=["<b>", "<a>"]), "the token '<a>' has id 7 there and 6 here"
    ),
    "added otherwise": (
        chats("<a>"), chats(AddedToken("<a>", lstrip=True)), "it cuts 'a <a> b<a>c' into other tokens",
    ),
    "a normaliser": (words(), words(normalizer=normalizers.Lowercase()), "it cuts .* into other tokens"),
    "another normaliser": (
        words(normalizer=normalizers.NFC()), words(normalizer=normalizers.NFKC()), "it cuts .* into other tokens"
    ),
    "other words": (words(), words(splits=pre_tokenizers.WhitespaceSplit()), "it cuts .* into other tokens"),
    "other merges": (
        pairs([("a", "b"), ("b", "c"), ("ab", "c")]), pairs([("b", "c"), ("a", "b"), ("a", "bc")]),
        "it has the same tokens and cuts words into others of them",
    ),
    "other scores": (unigrams(-2.0), unigrams(-9.0), "it has the same tokens and cuts words into others of them"),
    "letters in lower case": (Letters(), Letters(lower=True), "it cuts .The quick brown Fox"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHER_TOKENIZERS)
def test_a_model_of_another_tokenizer_is_refused_by_what_differs(what):
    ours, theirs, difference = OTHER_TOKENIZERS[what]
    with pytest.raises(UserError, match=f"the reference has another tokenizer: {difference}"):
        require_same_tokenizer(ours, theirs, "the reference")


def test_templates_roles_and_what_is_put_around_a_text_may_differ():
    ours, theirs = chatml_tokenizer(), chatml_tokenizer()
    theirs.chat_template = "{{ messages }}"
    theirs.padding_side, theirs.model_max_length, theirs.pad_token = "left", 17, theirs.eos_token
    require_same_tokenizer(ours, theirs)
    theirs.add_tokens(["<call>"])
    with pytest.raises(UserError, match="it has the token '<call>' more"):
        require_same_tokenizer(ours, theirs)


@pytest.mark.parametrize("make_one", [words, chatml_tokenizer, tiny_tokenizer, Letters])
def test_a_tokenizer_is_that_which_was_saved(make_one, tmp_path):
    again = make_one()
    if make_one is not Letters:
        again.save_pretrained(tmp_path)
        again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    require_same_tokenizer(make_one(), again)
    again.add_tokens(["<call>"])
    with pytest.raises(UserError, match="it has the token '<call>' more"):
        require_same_tokenizer(make_one(), again)


def saved(folder, tokenizer, model=None):
    """A model and its tokenizer, on disk."""
    (model or tiny_llama()).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def swapped():
    """The tiny tokenizer with two words in each other's place."""
    backend = tiny_tokenizer().backend_tokenizer
    vocabulary = backend.get_vocab()
    vocabulary["w1"], vocabulary["w2"] = vocabulary["w2"], vocabulary["w1"]
    model = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    )


def test_a_reference_is_known_by_the_tokenizer_in_its_folder(tmp_path):
    same = load_model(saved(tmp_path / "same", tiny_tokenizer()))
    other = load_model(saved(tmp_path / "other", swapped()))
    require_reference(same, tiny_tokenizer())
    with pytest.raises(UserError, match="the reference model has another tokenizer: the token 'w1' has id"):
        require_reference(other, tiny_tokenizer())
    other.resize_token_embeddings(80)  # trained with another tokenizer since
    require_reference(other, tiny_tokenizer())
    require_reference(tiny_llama(), tiny_tokenizer())  # no folder


# Every door has the gate.


def trained(model, tmp_path, weighing=None, rows=None, **options):
    return TokenWeighingTrainer(
        model,
        args=options.pop("args", sft_config(tmp_path)),
        train_dataset=rows or token_rows(6),
        processing_class=options.pop("processing_class", tiny_tokenizer()),
        weighing=weighing or SmallLoss(share=0.5, warmup_epochs=0.0),
        **options,
    )


def _byte_model():
    return ByteLM(bidirectional(vocab_size=len(chatml_tokenizer())), chatml_tokenizer())


def _addition():
    model = bidirectional(vocab_size=len(chatml_tokenizer()))
    return evaluate_addition(model, chatml_tokenizer(), [(1, 1, 1)], per_signature=1, shots=1)


def _charbench():
    model = bidirectional(vocab_size=len(chatml_tokenizer()))
    return evaluate_charbench(
        model, chatml_tokenizer(), build_charbench(["word", "term", "four", "last"], 4, 0, [4])
    )


def _transplant():
    model = bidirectional(vocab_size=len(chatml_tokenizer()))
    return transplant_tokenizer(model, chatml_tokenizer(), chatml_tokenizer(), "mean")


def _diagnosis(tmp_path):
    rows = token_rows(6)
    classes = [[place % 2 for place, _ in enumerate(ids)] for ids in rows["input_ids"]]
    arguments = {"args": sft_config(tmp_path), "processing_class": tiny_tokenizer()}
    arguments |= {"model": tiny_llama(), "train_dataset": rows.add_column("token_class", classes)}
    return diagnose(
        arguments | {"reference_model": bidirectional()}, {"rho": Rho1(share=0.5)}, ["clean", "noise"]
    )


def _text_loss():
    return text_loss(bidirectional(), tiny_tokenizer(), ["w1 w2 w3"])


DOORS = {
    "training": lambda tmp_path: trained(bidirectional(), tmp_path),
    "reference_model": lambda tmp_path: trained(
        tiny_llama(), tmp_path, Rho1(share=0.5), reference_model=bidirectional()
    ),
    "base_model": lambda tmp_path: trained(
        tiny_llama(),
        tmp_path,
        TokenCleaning(share=0.5),
        reference_model=tiny_llama(1),
        base_model=bidirectional(),
    ),
    "diagnose": _diagnosis,
    "held-out": lambda _: held_out_nll(bidirectional(), token_rows(3)),
    "texts": lambda _: _text_loss(),
    "bytes": lambda _: _byte_model(),
    "answers": lambda _: generate_answers(
        bidirectional(), tiny_tokenizer(), [[{"role": "user", "content": "w1"}]]
    ),
    "additions": lambda _: _addition(),
    "charbench": lambda _: _charbench(),
    "transplant": lambda _: _transplant(),
}


@pytest.mark.parametrize("door", DOORS)
def test_no_door_lets_a_model_in_that_sees_later_tokens(door, tmp_path):
    with pytest.raises(UserError, match="is not causal: what it says about a token changes"):
        DOORS[door](tmp_path)


@pytest.mark.parametrize("door", ["history", "reference"])
def test_a_checkpoint_that_is_named_goes_through_the_gate(door, tmp_path):
    folder = saved(tmp_path / "other", tiny_tokenizer(), bidirectional())
    weighing = SSToken(share=0.5, history=folder) if door == "history" else Rho1(share=0.5, reference=folder)
    with pytest.raises(UserError, match=f"the model of {door}_nll .* is not causal"):
        trained(tiny_llama(), tmp_path, weighing)


@pytest.mark.parametrize("door", ["history", "reference", "reference_model"])
def test_a_second_model_of_another_tokenizer_is_refused(door, tmp_path):
    folder = saved(tmp_path / "other", swapped())
    weighing = SSToken(share=0.5, history=folder) if door == "history" else Rho1(share=0.5)
    given = {"reference_model": load_model(folder)} if door == "reference_model" else {}
    weighing = Rho1(share=0.5, reference=folder) if door == "reference" else weighing
    with pytest.raises(UserError, match="has another tokenizer: the token 'w1' has id"):
        trained(tiny_llama(), tmp_path, weighing, **given)


def rows_of(*ids):
    return Dataset.from_list([{"input_ids": list(each), "labels": list(each)} for each in ids])


UNREADABLE = {
    "in the prompt": Dataset.from_list([{"input_ids": [5, 70, 8], "labels": [-100, -100, 8]}] * 3),
    "once in many": rows_of(*[[5, 6, 7]] * 5, [5, 64, 7]),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_an_unknown_id_is_refused_before_training(what, tmp_path):
    rows = UNREADABLE[what].map(lambda row: {"labels": [-100, -100, row["labels"][2]]})
    with pytest.raises(UserError, match=r"the training data: token id (70|64) is not among the 64 rows"):
        trained(tiny_llama(), tmp_path, rows=rows)
    with pytest.raises(UserError, match=r"the evaluation data: token id (70|64) is not among the 64 rows"):
        trained(tiny_llama(), tmp_path, eval_dataset=rows)
    with pytest.raises(
        UserError, match=r"the evaluation data other: token id (70|64) is not among the 64 rows"
    ):
        trained(tiny_llama(), tmp_path, eval_dataset={"some": token_rows(3), "other": rows})
    with pytest.raises(UserError, match=r"the held-out data: token id (70|64) is not among the 64 rows"):
        held_out_nll(tiny_llama(), rows)


def test_an_unknown_id_is_refused_for_the_reference_too(tmp_path):
    larger = tiny_llama(vocab_size=80)
    rows = rows_of([5, 70, 8, 9], [5, 6, 70, 9])
    with pytest.raises(
        UserError,
        match=r"token id 70 is not among the 64 rows of the embeddings of the model of reference_nll",
    ):
        trained(larger, tmp_path, Rho1(share=0.5), rows=rows, reference_model=tiny_llama())


def learned_positions(positions=POSITIONS):
    return make("gpt2", GPT2 | {"n_positions": positions})


@pytest.mark.parametrize("packing", [False, True])
def test_samples_longer_than_the_positions_are_refused_and_packed_rows_are_not(packing, tmp_path):
    args = sft_config(tmp_path, max_length=200, packing=packing)
    short, long = rows_of(*[[5, 6, 7, 8, 9, 10]] * 12), rows_of(*[[5] * (POSITIONS + 1)] * 3)
    trained(learned_positions(), tmp_path, rows=short, args=args).train()
    with pytest.raises(UserError, match=rf"takes {POSITIONS + 1} positions and .* has {POSITIONS}"):
        trained(learned_positions(), tmp_path, rows=long, args=args)


def test_rows_padded_beyond_the_positions_are_refused(tmp_path):
    args = sft_config(tmp_path, pad_to_multiple_of=16, max_length=None)
    with pytest.raises(UserError, match=f"takes 32 positions and .* has {POSITIONS}"):
        trained(learned_positions(), tmp_path, rows=rows_of([5] * 20, [5] * 9), args=args)


def test_a_reference_with_fewer_positions_is_refused(tmp_path):
    with pytest.raises(UserError, match="a sample takes 12 positions and the model of reference_nll has 8"):
        trained(
            tiny_llama(),
            tmp_path,
            Rho1(share=0.5),
            rows=rows_of([5] * 12, [6] * 9),
            reference_model=learned_positions(8),
        )


def test_an_answer_must_have_room_after_its_prompt():
    prompts = [[{"role": "user", "content": "w1"}]]
    model = make("gpt2", GPT2)
    generate_answers(model, tiny_tokenizer(), prompts, max_new_tokens=POSITIONS - 4)
    with pytest.raises(UserError, match=f"with answers of up to {POSITIONS} tokens: a sample takes"):
        generate_answers(model, tiny_tokenizer(), prompts, max_new_tokens=POSITIONS)


def test_windows_of_a_text_must_fit_the_positions():
    text = "w1 w2 w3 w4 w5 w6 w7 w8 " * 8
    with pytest.raises(UserError, match=r"the texts: a sample takes 65 positions and .* has 24"):
        text_loss(learned_positions(), tiny_tokenizer(), [text])
    text_loss(learned_positions(), tiny_tokenizer(), [text], max_length=POSITIONS)


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_no_model_of_bytes():
    with pytest.raises(UserError, match=r"the tokenizer: token id .* is not among the 64 rows"):
        ByteLM(tiny_llama(), chatml_tokenizer())


# The command line.


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    write_model(folder / "model")
    tokenizer = chatml_tokenizer()
    size = SIZE | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 256,
        "pad_token_id": tokenizer.pad_token_id,
    }
    kinds = {"roformer": ("roformer", size | {"is_decoder": True}), "encoder": ("bert", size)}
    kinds["narrow"] = ("gpt2", GPT2 | {"vocab_size": len(tokenizer), "n_positions": 64})
    kinds["short"] = ("gpt2", GPT2 | {"vocab_size": len(tokenizer), "n_positions": 16})
    for name, (kind, settings) in kinds.items():
        make(kind, settings).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    write_model(folder / "other")
    tokenizer.add_tokens(["<call>"])
    tokenizer.save_pretrained(folder / "other")
    write_rows(folder / "rows.jsonl", sums(4))
    return folder


def nothing(*_):
    return None


def scored(text, signals, model, reference=None):
    plan = score.Plan(text, signals=",".join(signals), model=model, reference=reference)
    return score.run(plan, nothing).data["examples"]


def evaluate(model, data, **options):
    plan = held_out.Plan(model, data, hardware=Hardware(dtype="float32"), **options)
    return held_out.run(plan, nothing).data


def test_evaluate_says_what_the_models_own_logits_say(desk):
    found = evaluate(str(desk / "roformer"), str(desk / "rows.jsonl"), answers=0)
    rows = encode_rows(sums(4), chatml_tokenizer(), 256)
    assert found["measures"][0]["value"] == pytest.approx(
        own_nll(load_model(desk / "roformer").eval(), rows), abs=1e-5
    )


def test_score_says_what_the_models_own_logits_say(desk):
    model, text = load_model(desk / "roformer").eval(), "What is the answer?"
    (example,) = scored(text, ["nll"], str(desk / "roformer"))
    ids = chatml_tokenizer()(text)["input_ids"]
    found = [token["signals"]["nll"] for token in example["tokens"][1:]]
    assert sum(found) / len(found) == pytest.approx(
        own_nll(model, [{"input_ids": ids, "labels": ids}]), abs=1e-5
    )


def test_a_reference_is_scored_beside_the_model(desk):
    names = ["nll", "reference_nll", "excess_nll"]
    (example,) = scored("What is the answer?", names, str(desk / "model"), reference=str(desk / "roformer"))
    (alone,) = scored("What is the answer?", ["nll"], str(desk / "roformer"))
    for token, by_reference in zip(example["tokens"][1:], alone["tokens"][1:], strict=True):
        assert token["signals"]["reference_nll"] == pytest.approx(by_reference["signals"]["nll"])
        assert token["signals"]["excess_nll"] == pytest.approx(
            token["signals"]["nll"] - token["signals"]["reference_nll"], abs=1e-5
        )


BY_NAME = {
    "score an encoder": (
        lambda at: scored("What is it?", ["nll"], at("encoder")), "encoder .* is not causal"
    ),
    "score by an encoder": (
        lambda at: scored("What is it?", ["excess_nll"], at("model"), reference=at("encoder")),
        "encoder .* is not causal",
    ),
    "a reference of another tokenizer": (
        lambda at: scored("What is it?", ["excess_nll"], at("model"), reference=at("other")),
        "the reference .*other has another tokenizer: it has the token '<call>' more",
    ),
    "a text too long": (
        lambda at: scored("What is the answer? " * 20, ["nll"], at("short")),
        r"the text: a sample takes \d+ positions and .*short has 16",
    ),
    "a text too long for the reference": (
        lambda at: scored("What is the answer? " * 20, ["excess_nll"], at("model"), reference=at("short")),
        r"the text: a sample takes \d+ positions and .*short has 16",
    ),
    "an excess over nothing": (
        lambda at: scored("What is it?", ["excess_nll"], at("model")),
        "excess_nll needs a second model: name it with --reference",
    ),
    "a reference for nothing": (
        lambda at: scored("What is it?", ["nll"], at("model"), reference=at("model")),
        "is not used: ask for reference_nll or excess_nll among the signals",
    ),
    "evaluate an encoder": (
        lambda at: evaluate(at("encoder"), at("rows.jsonl")), "is not causal"
    ),
    "evaluate what is too long": (
        lambda at: evaluate(at("short"), at("rows.jsonl")), r"takes \d+ positions and .*short has 16"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BY_NAME)
def test_what_is_named_goes_through_the_gate(what, desk):
    run, words_of_it = BY_NAME[what]
    with pytest.raises(UserError, match=words_of_it):
        run(lambda name: str(desk / name))


COMMANDS = {
    "tune an encoder": (lambda at: ["tune", at("encoder"), at("rows.jsonl"), *QUICK], "encoder .* is not causal"),
    "tune what is too short": (
        lambda at: ["tune", at("short"), at("rows.jsonl"), *QUICK], r"the training data: a sample takes \d+ positions"
    ),
    "tune without room for an answer": (
        lambda at: ["tune", at("narrow"), at("rows.jsonl"), *QUICK], "the prompts, with answers of up to 48 tokens: a sample takes"
    ),
    "tune by another tokenizer": (
        lambda at: ["tune", at("model"), at("rows.jsonl"), *QUICK, "--weighing", "rho1", "--reference", at("other")],
        "the reference .*other has another tokenizer: it has the token '<call>' more",
    ),
    "tune by an encoder": (
        lambda at: ["tune", at("model"), at("rows.jsonl"), *QUICK, "--weighing", "rho1", "--reference", at("encoder")],
        "encoder .* is not causal",
    ),
    "tune by what is too short": (
        lambda at: ["tune", at("model"), at("rows.jsonl"), *QUICK, "--weighing", "rho1", "--reference", at("short")],
        r"takes \d+ positions and .*short has 16",
    ),
    "score by another tokenizer": (
        lambda at: ["score", "What is it?", "--model", at("model"), "--reference", at("other")], "has another tokenizer"
    ),
    "evaluate an encoder": (lambda at: ["evaluate", at("encoder"), at("rows.jsonl")], "is not causal"),
}  # fmt: skip


@pytest.mark.parametrize("what", COMMANDS)
def test_a_command_says_so_in_one_sentence_with_exit_code_2(what, desk, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENRY_CACHE", str(tmp_path / "cache"))
    arguments, words_of_it = COMMANDS[what]
    command = arguments(lambda name: str(desk / name))
    output = [] if command[0] == "evaluate" else ["--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*command, *output])
    assert result.exit_code == 2, result.output
    assert re.search(words_of_it, result.stderr.splitlines()[-1])
    assert "Traceback" not in result.stderr


def test_score_with_a_reference_shows_the_excess(desk, tmp_path):
    command = [
        "score",
        "What is the answer?",
        "--model",
        str(desk / "model"),
        "--reference",
        str(desk / "roformer"),
    ]
    result = CliRunner().invoke(app, [*command, "--output", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    (example,) = json.loads(result.stdout)
    assert set(example["tokens"][1]["signals"]) == {"nll", "entropy", "excess_nll"}
