"""The layers of an encoder in another's hand: what is found, what is refused, and that a layer in two halves is the layer."""

import copy

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    BertConfig,
    BertLMHeadModel,
    BertModel,
    CLIPVisionConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    ResNetConfig,
    SiglipTextConfig,
    SiglipTextModel,
    UMT5Config,
    UMT5EncoderModel,
    ViTConfig,
    ViTModel,
)

from tests.tiny.encoders import (
    FAMILIES,
    LANGUAGE,
    LAYERS,
    SPECIAL,
    VISION,
    inputs,
    texts,
    tiny,
    tiny_clip,
    tiny_clip_text,
    tokens_of,
    unchecked,
)
from tokenry.core.errors import UserError
from tokenry.core.tensors.attention import attention_mass
from tokenry.core.tensors.patching import Patch, find_encoder, key_mask, run_call

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


class Plain:
    """An owner that runs the layer as it is, and remembers what it saw."""

    def __init__(self):
        self.calls = []
        self.masks = []

    def begin(self):
        return len(self.calls)

    def __call__(self, layer, hidden_states):
        def tap(call):
            self.calls.append((layer.state, call))
            return run_call(call)

        self.masks.append(layer.attention_mask)
        return layer.feed_forward(layer.attend(hidden_states, tap))


def patched(model):
    encoder = find_encoder(model)
    owners = [Plain() for _ in encoder.layers]
    return Patch(encoder, owners), owners


# --- found ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layers_of_every_family_are_found_in_order(family):
    model = tiny(family)
    encoder = find_encoder(model)
    assert len(encoder.layers) == len(encoder.attention) == LAYERS
    assert [id(layer) for layer in encoder.layers] == [
        id(module) for module in model.modules() if type(module) is type(encoder.layers[0])
    ]
    assert encoder.special_tokens == SPECIAL.get(family, 1)
    assert encoder.modality == ("image" if family in VISION else "text")


def test_of_two_towers_the_vision_tower_is_found():
    model = tiny_clip()
    encoder = find_encoder(model)
    text = set(model.text_model.modules())
    assert encoder.modality == "image"
    assert not text & set(encoder.layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_two_halves_make_the_layer(family):
    model, given = tiny(family), inputs(family)
    with torch.no_grad():
        before = model(**given, output_hidden_states=True).hidden_states
        _, owners = patched(model)
        after = model(**given, output_hidden_states=True).hidden_states
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(after, before, strict=True))
    assert [len(owner.calls) for owner in owners] == [1] * LAYERS


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tap_gets_queries_and_keys_of_its_own_layer(family):
    model = tiny(family)
    encoder = find_encoder(model)
    _, owners = patched(model)
    with torch.no_grad():
        model(**inputs(family))
    for part, owner in zip(encoder.attention, owners, strict=True):
        call = owner.calls[0][1]
        assert any(call.module is module for module in part.modules())
        assert call.query.shape == call.key.shape == (2, 4, tokens_of(family), 8)


def test_an_owner_may_answer_the_attention_call_itself():
    model = tiny("vit")

    class Nothing(Plain):
        def __call__(self, layer, hidden_states):
            silent = layer.attend(
                hidden_states, lambda call: (torch.zeros_like(call.query.transpose(1, 2)), None)
            )
            return layer.feed_forward(silent)

    encoder = find_encoder(model)
    bias = encoder.attention[0].o_proj.bias
    Patch(encoder, [Nothing() for _ in encoder.layers])
    hidden_states = torch.randn(1, 17, 32)
    with torch.no_grad():
        out = encoder.layers[0](hidden_states)
        middle = hidden_states + bias
        layer = encoder.layers[0]
        torch.testing.assert_close(out, middle + layer.mlp(layer.layernorm_after(middle)))


@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
def test_a_layer_that_is_run_again_knows_what_it_knew(reentrant):
    """`begin` is asked once per call of the layer, also when gradient checkpointing runs the call again."""
    model = tiny("vit").train()
    _, owners = patched(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    loss = sum(model(**inputs("vit", seed=seed)).last_hidden_state.sum() for seed in (1, 2))
    loss.backward()
    assert [state for state, _ in owners[0].calls] in ([0, 1, 1, 0], [0, 1, 0, 1])


# --- given back ----------------------------------------------------------------------------------------------------------------------


def test_a_patched_layer_looks_like_the_original_to_who_asks_its_name():
    model = tiny("vit")
    layer_class = type(find_encoder(model).layers[0])
    patch, _ = patched(model)
    layer = find_encoder(model).layers[0]
    assert type(layer) is not layer_class
    assert isinstance(layer, layer_class)
    assert (type(layer).__name__, type(layer).__module__) == (layer_class.__name__, layer_class.__module__)
    assert len({type(layer) for layer in find_encoder(model).layers}) == 1
    patch.remove()
    assert type(layer) is layer_class


def test_no_trace_is_left_on_the_attention_module_after_an_error():
    model = tiny("vit")
    encoder = find_encoder(model)

    class Broken(Plain):
        def __call__(self, layer, hidden_states):
            return layer.attend(hidden_states, lambda call: 1 / 0)

    attributes = [set(vars(module)) for module in model.modules()]
    patch = Patch(encoder, [Broken() for _ in encoder.layers])
    with pytest.raises(ZeroDivisionError):
        model(**inputs("vit"))
    patch.remove()
    assert [set(vars(module)) for module in model.modules()] == attributes


def test_the_state_dict_of_a_patched_model_has_the_same_keys():
    model = tiny("dinov2")
    before = list(model.state_dict())
    patched(model)
    assert list(model.state_dict()) == before


def test_a_copy_of_a_patched_model_has_owners_of_its_own():
    model = tiny("vit")
    _, owners = patched(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin(**inputs("vit"))
    assert [len(owner.calls) for owner in owners] == [0] * LAYERS


def test_removing_one_patch_leaves_another_model_with_the_same_kind_of_layers_alone():
    one, other = tiny("vit"), tiny("vit", seed=1)
    patch, _ = patched(one)
    _, owners = patched(other)
    patch.remove()
    with torch.no_grad():
        other(**inputs("vit"))
    assert [len(owner.calls) for owner in owners] == [1] * LAYERS


def test_recorded_hidden_states_leave_nothing_behind_that_bypasses_a_patch():
    """Some versions of transformers leave the class's forward on the layer where they recorded something."""
    model = tiny("bert")
    layer = find_encoder(model).layers[0]
    layer.forward = layer.forward
    with torch.no_grad():
        before = model(**inputs("bert")).last_hidden_state
        patch, owners = patched(model)
        model(**inputs("bert"), output_hidden_states=True)
        assert [len(owner.calls) for owner in owners] == [1] * LAYERS
        layer.forward = layer.forward
        patch.remove()
        assert torch.equal(model(**inputs("bert")).last_hidden_state, before)


def test_layers_that_others_have_wrapped_are_refused():
    model = tiny("bert")
    layer = find_encoder(model).layers[0]
    original = layer.forward
    layer.forward = lambda *arguments, **options: original(*arguments, **options)
    with pytest.raises(UserError, match=r"layers of BertModel are wrapped already.*on one device"):
        patched(model)


# --- refused -------------------------------------------------------------------------------------------------------------------------


def refused(model, *words):
    with pytest.raises(UserError) as error:
        find_encoder(model)
    for word in words:
        assert word in str(error.value)


def test_decoders_are_refused():
    refused(GPT2Model(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=50)), "GPT2Model cannot be split")
    llama = LlamaForCausalLM(LlamaConfig(**SMALL, vocab_size=50))
    refused(
        llama, "the layers of LlamaForCausalLM cannot be split", "ViTLayer", "BertLayer", "CLIPEncoderLayer"
    )


def test_a_bert_that_writes_is_refused():
    refused(
        BertLMHeadModel(BertConfig(**SMALL, vocab_size=50, is_decoder=True)), "BertLMHeadModel is a decoder"
    )


def test_an_encoder_decoder_is_refused():
    config = BertConfig(**SMALL, vocab_size=50)
    both = EncoderDecoderConfig.from_encoder_decoder_configs(config, config)
    refused(EncoderDecoderModel(config=both), "EncoderDecoderModel is a decoder")


def test_causal_text_towers_are_refused():
    refused(tiny_clip_text(), "CLIPTextModel is a decoder or a causal text tower", "give an encoder")
    siglip = SiglipTextModel(SiglipTextConfig(**SMALL, vocab_size=50, max_position_embeddings=16))
    refused(siglip, "SiglipTextModel")


def test_unknown_layers_are_refused_with_the_supported_ones_named():
    umt5 = UMT5EncoderModel(UMT5Config(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=50))
    refused(umt5, "the layers of UMT5EncoderModel cannot be split", "Dinov2Layer", "SiglipEncoderLayer")
    resnet = AutoModel.from_config(ResNetConfig(hidden_sizes=[8, 8], depths=[1, 1], embedding_size=8))
    refused(resnet, "the layers of ResNetModel cannot be split")


def test_a_layer_with_a_forward_of_its_own_is_unknown():
    model = tiny("vit")

    class Mine(type(find_encoder(model).layers[0])):
        def forward(self, hidden_states, *arguments, **options):
            return hidden_states

    for layer in find_encoder(model).layers:
        layer.__class__ = Mine
    refused(model, "the layers of ViTModel cannot be split")


def test_a_model_that_writes_about_images_is_sent_to_where_its_tokens_are_pruned():
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**SMALL, image_size=32, patch_size=8).to_dict(),
        text_config=LlamaConfig(**SMALL, vocab_size=50).to_dict(),
    )
    model = LlavaForConditionalGeneration(config)
    refused(
        model, "LlavaForConditionalGeneration writes text about images", "prune_visual_tokens(model, ...)"
    )
    find_encoder(model.model.vision_tower)


def test_layers_of_an_older_transformers_are_refused_with_the_version_to_install():
    model = unchecked("vit")
    layer_class = next(type(module) for module in model.modules() if type(module).__name__ == "ViTLayer")
    older = type("ViTLayer", (layer_class,), {"forward": lambda self, hidden_states, **kwargs: hidden_states})
    older.__module__ = layer_class.__module__
    for module in model.modules():
        if type(module) is layer_class:
            module.__class__ = older
    refused(model, "the ViTLayer of this transformers version", "install a newer transformers (5.9 for ViT")


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flex_attention"])
def test_kernels_without_a_bias_per_key_are_refused(kernel):
    model = tiny("vit")
    model.config._attn_implementation_internal = kernel
    with pytest.raises(UserError, match=rf"attention with {kernel}.*set_attn_implementation\(\"sdpa\"\)"):
        patched(model)
    assert not any(type(layer).__name__.startswith("_") for layer in find_encoder(model).layers)


def test_a_model_is_patched_once():
    model = tiny("vit")
    patched(model)
    with pytest.raises(UserError, match=r"ViTModel is patched already: call remove\(\) on its handle first"):
        patched(model)


def test_models_that_share_a_config_are_not_patched_at_once():
    """The name of the attention function stands in the config: removing one patch would silence the other."""
    config = ViTConfig(**SMALL, image_size=32, patch_size=8)
    one, other = ViTModel(config), ViTModel(config)
    tiny("vit")  # skips where the layers have another form
    patch, _ = patched(one)
    with pytest.raises(UserError, match=r"shares its config with a patched model.*copy\.deepcopy"):
        patched(other)
    patch.remove()
    patched(other)


def test_a_key_value_cache_and_states_of_another_encoder_are_refused():
    model = tiny("bert")
    patched(model)
    layer = find_encoder(model).layers[0]
    hidden_states = torch.randn(1, 4, 32)
    with pytest.raises(
        UserError, match=r"neither a key-value cache nor states of another encoder: call remove\(\)"
    ):
        layer(hidden_states, None, hidden_states)
    with pytest.raises(UserError, match="neither a key-value cache"):
        layer(hidden_states, None, past_key_values=object())
    with pytest.raises(UserError, match="neither a key-value cache"):
        model(input_ids=texts(), encoder_hidden_states=hidden_states)


@pytest.mark.parametrize("family", LANGUAGE)
def test_a_decoder_config_of_any_text_family_is_refused(family):
    if family == "distilbert":
        pytest.skip("has no decoder")
    refused(unchecked(family, is_decoder=True), "is a decoder")


# --- the key mask --------------------------------------------------------------------------------------------------------------------


def test_key_mask_reads_boolean_and_additive_masks():
    seen = torch.tensor([[True, True, False], [True, True, True]])
    boolean = seen[:, None, None, :].expand(2, 1, 3, 3)
    additive = torch.zeros(2, 1, 3, 3).masked_fill(~boolean, torch.finfo(torch.float32).min)
    assert key_mask(None) is None
    assert torch.equal(key_mask(boolean), seen)
    assert torch.equal(key_mask(additive), seen)
    assert torch.equal(key_mask(additive.bfloat16()), seen)
    assert torch.equal(key_mask(additive.masked_fill(~boolean, -torch.inf)), seen)


# --- together with taps --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_mass_reads_a_patched_bert(attention):
    model, given = BertModel(BertConfig(**SMALL, vocab_size=60)).eval(), inputs("bert")
    model.set_attn_implementation(attention)
    columns = torch.zeros(2, 1, 12, dtype=torch.bool)
    columns[:, :, :3] = True

    def read():
        with attention_mass(model, 1, columns) as mass, torch.no_grad():
            model(**given)
        return mass.by_layer[1]

    plain = read()
    patch, _ = patched(model)
    assert torch.equal(read(), plain)
    patch.remove()
    assert torch.equal(read(), plain)


def test_a_patched_model_moves_and_casts_like_any_module():
    model = tiny("vit")
    patched(model)
    assert next(model.double().parameters()).dtype == torch.float64
    assert isinstance(model.layers if hasattr(model, "layers") else model.encoder.layer, nn.ModuleList)
