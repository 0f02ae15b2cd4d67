"""The tap on a model's attention, and the mass it reads, against the probabilities of eager attention."""

import inspect
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, BartConfig, BartForConditionalGeneration, BloomConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.golden import golden
from tokenry.core.errors import UserError
from tokenry.core.tensors.attention import (
    _mass_on_columns,
    answer_attention,
    attention_layers,
    attention_mass,
    attention_weights,
    prompt_attention,
    prompt_attention_mass,
    resolve_layers,
    sink_aware_prompt_attention,
    tap_attention,
)

GOLDEN = golden("01-sstoken")
SEQ = 13
TOKENS = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attention_dropout": 0.3,
}
FAMILIES = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 16},
    "gemma2": GROUPED | {"head_dim": 16, "attn_logit_softcapping": 2.0, "sliding_window": 4},
    "gemma3_text": GROUPED | {"head_dim": 16, "sliding_window": 4},
    "mistral": GROUPED | {"sliding_window": 4},
    "phi3": GROUPED | {"sliding_window": 4},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "attn_pdrop": 0.3},
    "gpt_neox": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "attention_dropout": 0.3,
    },
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
        "attention_dropout": 0.3,
    },
}
IMPLEMENTATIONS = [
    (family, kernel)
    for family in FAMILIES
    for kernel in ("sdpa", "eager")
    if (family, kernel) != ("gemma2", "sdpa")
]


def _model(family: str = "llama", implementation: str = "sdpa", **options) -> nn.Module:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**TOKENS, **(FAMILIES[family] | options))
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()
    for parameter in model.parameters():  # larger weights: attention that is far from uniform
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.2)
    return model


def _ids(batch: int = 2, seq: int = SEQ) -> torch.Tensor:
    return torch.randint(3, 40, (batch, seq), generator=torch.Generator().manual_seed(1))


def _columns(batch: int = 2, sets: int = 3, seq: int = SEQ) -> torch.Tensor:
    return torch.rand(batch, sets, seq, generator=torch.Generator().manual_seed(2)) < 0.4


def _packed() -> dict[str, torch.Tensor]:
    """One row of two segments: 6 tokens and the rest."""
    positions = torch.cat([torch.arange(6), torch.arange(SEQ - 6)])[None]
    return {"input_ids": _ids(batch=1), "position_ids": positions}


def _read(model: nn.Module, columns: torch.Tensor, layers="deep", **inputs) -> dict[int, torch.Tensor]:
    with attention_mass(model, layers, columns) as mass:
        model(use_cache=False, **inputs)
    return mass.by_layer


def _expected(model: nn.Module, columns: torch.Tensor, **inputs) -> list[torch.Tensor]:
    eager = deepcopy(model).eval()
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = eager(use_cache=False, output_attentions=True, **inputs).attentions
    return [layer.float() @ columns.float().mT.unsqueeze(1) for layer in attentions]


def _interface_state() -> tuple:
    return (
        dict(vars(ALL_ATTENTION_FUNCTIONS)),
        dict(ALL_ATTENTION_FUNCTIONS),
        ALL_ATTENTION_FUNCTIONS.get_interface,
    )


@pytest.fixture(autouse=True)
def _interface_is_left_as_it_was():
    before = _interface_state()
    yield
    assert _interface_state() == before


# --- the mass equals the sum of eager probabilities ---------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize(("family", "implementation"), IMPLEMENTATIONS)
def test_mass_is_the_sum_of_the_attention_probabilities(family, implementation, padding):
    model, ids, columns = _model(family, implementation), _ids(), _columns()
    inputs = {"input_ids": ids}
    real = torch.ones_like(ids, dtype=torch.bool)
    if padding != "none":
        real[1, 9:] = False
        real = real if padding == "right" else real.flip(1)
        inputs = {"input_ids": ids.masked_fill(~real, 0), "attention_mask": real.long()}
    expected = _expected(model, columns, **inputs)
    by_layer = _read(model, columns, layers=range(3), **inputs)
    assert list(by_layer) == [0, 1, 2]
    for layer, mass in by_layer.items():
        assert mass.dtype == torch.float32
        assert mass.shape == (2, 4, SEQ, 3)
        assert mass.isfinite().all()
        rows = real[:, None, :, None].expand_as(mass)
        torch.testing.assert_close(mass[rows], expected[layer][rows], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("family", "implementation"), IMPLEMENTATIONS)
def test_packed_rows_are_read_as_the_model_attends_to_them(family, implementation):
    model, packed, columns = _model(family, implementation), _packed(), _columns(batch=1)
    expected = _expected(model, columns, **packed)
    torch.testing.assert_close(_read(model, columns, layers=-1, **packed)[2], expected[2], atol=1e-6, rtol=0)


# OPT is missing: transformers 5.23 gives its mask no position_ids, so the model itself attends across the segments.
@pytest.mark.parametrize(("family", "implementation"), [case for case in IMPLEMENTATIONS if case[0] != "opt"])
def test_packed_rows_read_as_their_segments_alone(family, implementation):
    model, columns = _model(family, implementation), _columns(batch=1)
    packed, ids = _read(model, columns, **_packed()), _packed()["input_ids"]
    for segment in (slice(0, 6), slice(6, SEQ)):
        alone = _read(model, columns[..., segment], input_ids=ids[:, segment])
        for layer, mass in alone.items():
            torch.testing.assert_close(packed[layer][:, :, segment], mass, atol=1e-6, rtol=0)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt"])
def test_attention_dropout_does_not_matter_for_the_mass(family, implementation):
    off = (
        {"resid_pdrop": 0.0, "embd_pdrop": 0.0}
        if family == "gpt2"
        else {"hidden_dropout": 0.0, "dropout": 0.0}
    )
    model = _model(family, implementation, **off)
    eager = getattr(inspect.getmodule(type(model)), "eager_attention_forward", None)
    if implementation == "eager" and eager and "module.attn_dropout" in inspect.getsource(eager):
        pytest.skip(
            "this transformers drops out inside the attention module, which a reader cannot switch off"
        )
    expected = _read(model, _columns(), layers=0, input_ids=_ids())
    found = _read(model.train(), _columns(), layers=0, input_ids=_ids())
    torch.testing.assert_close(found, expected)


def test_without_padding_the_mass_is_causal():
    future = torch.ones(1, 1, SEQ, dtype=torch.bool).triu(0)
    future[..., :7] = False
    mass = _read(_model(), future, input_ids=_ids(batch=1))[2]
    assert (mass[:, :, :7] == 0).all()
    assert (mass[:, :, 7:] > 0).all()


def test_bfloat16_model_gives_a_float32_mass_near_that_of_float32():
    model = _model()
    expected = _read(model, _columns(), layers=0, input_ids=_ids())[0]
    mass = _read(model.bfloat16(), _columns(), layers=0, input_ids=_ids())[0]
    assert mass.dtype == torch.float32
    torch.testing.assert_close(mass, expected, atol=1e-2, rtol=0)
    assert not torch.equal(mass, mass.bfloat16().float())


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_under_autocast_the_mass_is_computed_in_float32(implementation):
    model, ids, columns = (
        _model(implementation=implementation),
        _ids(),
        torch.ones(2, 1, SEQ, dtype=torch.bool),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mass = _read(model, columns, input_ids=ids)[2]
    torch.testing.assert_close(mass, torch.ones_like(mass), atol=1e-6, rtol=0)


def test_float64_model_is_not_rounded_before_the_softmax():
    model, columns = _model("gpt2").double(), _columns()
    expected = _expected(model, columns, input_ids=_ids())[2]
    torch.testing.assert_close(_read(model, columns, input_ids=_ids())[2], expected, atol=1e-7, rtol=1e-6)


def test_a_flash_kernel_is_called_as_the_model_calls_it(monkeypatch):
    calls = []

    def kernel(module, query, key, value, attention_mask, cu_seq_lens_q, **kwargs):
        calls.append(
            (
                query.dtype,
                key.shape[1],
                value.dtype,
                torch.is_autocast_enabled("cpu"),
                cu_seq_lens_q,
                kwargs["dropout"],
            )
        )
        return sdpa_attention_forward(module, query, key, value, None, **kwargs)

    monkeypatch.setitem(AttentionInterface._global_mapping, "some_flash", kernel)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "some_flash", lambda *_, **__: None)
    model = _model().train()
    expected = _read(model, _columns(), layers=0, input_ids=_ids())
    model.config._attn_implementation = "some_flash"  # the setter of the model wants the real library
    with torch.autocast("cpu", dtype=torch.bfloat16):
        by_layer = _read(model.bfloat16(), _columns(), layers=0, input_ids=_ids(), cu_seq_lens_q=13)
    assert calls[:2] == [
        (torch.bfloat16, 2, torch.bfloat16, True, 13, 0.3),
        (torch.bfloat16, 2, torch.bfloat16, True, 13, 0.0),
    ]
    assert by_layer[0].dtype == torch.float32
    torch.testing.assert_close(by_layer, expected, atol=2e-2, rtol=0)


# --- wrapped models, training -------------------------------------------------------------------------------------------


class _Wrapper(nn.Module):
    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, **inputs):
        return self.module(**inputs)


@pytest.mark.parametrize(
    "wrap", [_Wrapper, lambda model: get_peft_model(model, LoraConfig(target_modules=["q_proj"]))]
)
def test_wrapped_models_read_like_plain_ones(wrap):
    model = _model()
    expected = _read(model, _columns(), input_ids=_ids())
    torch.testing.assert_close(_read(wrap(model), _columns(), input_ids=_ids()), expected)


def test_compiled_layers_read_the_same_and_are_not_compiled_anew_for_each_reading():
    model, compilations = _model(num_hidden_layers=2), []
    expected = _read(model, _columns(), input_ids=_ids())

    def backend(graph, _):
        compilations.append(graph)
        return graph.forward

    torch._dynamo.reset()
    for layer in model.model.layers:
        layer.compile(backend=backend)
    after = []
    for _ in range(3):
        torch.testing.assert_close(_read(model, _columns(), input_ids=_ids()), expected)
        after.append(len(compilations))
    torch._dynamo.reset()
    assert after[0] > 0
    assert after[1:] == after[:1] * 2


def _gradients(model: nn.Module, tapped: bool) -> tuple[dict[str, torch.Tensor], int]:
    reads = 0

    def count(call):
        nonlocal reads
        reads += 1

    torch.manual_seed(3)
    model.zero_grad()
    ids = _ids()
    if tapped:
        layer = attention_layers(model)[1]
        with tap_attention({layer: count}), attention_mass(model, "deep", _columns()):
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    else:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}, reads


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradient_checkpointing_reads_once_and_changes_no_gradient(family, reentrant):
    model = _model(family).train()
    expected, _ = _gradients(model, tapped=False)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    gradients, reads = _gradients(model, tapped=True)
    assert reads == 1
    torch.testing.assert_close(gradients, expected)


def test_a_tap_closed_before_backward_changes_no_gradient_under_checkpointing():
    model = _model().train()
    expected, _ = _gradients(model, tapped=False)
    model.gradient_checkpointing_enable()
    torch.manual_seed(3)
    model.zero_grad()
    with attention_mass(model, "deep", _columns()):
        loss = model(input_ids=_ids(), labels=_ids(), use_cache=False).loss
    loss.backward()
    torch.testing.assert_close({name: p.grad for name, p in model.named_parameters()}, expected)


def test_the_mass_holds_no_graph_and_the_logits_are_untouched():
    model = _model()
    untapped = model(_ids(), use_cache=False).logits
    with attention_mass(model, "deep", _columns()) as mass:
        tapped = model(_ids(), use_cache=False).logits
    assert torch.equal(tapped, untapped)
    assert not mass.by_layer[2].requires_grad


def test_a_second_forward_replaces_what_the_first_one_left():
    model, columns = _model(), _columns()
    with attention_mass(model, 0, columns) as mass:
        model(_ids(), use_cache=False)
        model(_ids().flip(1), use_cache=False)
    torch.testing.assert_close(mass.by_layer, _read(model, columns, layers=0, input_ids=_ids().flip(1)))


# --- no seq x seq matrix ------------------------------------------------------------------------------------------------


class _Sizes(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        self.made += [tuple(leaf.shape) for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
        return output


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reading_makes_no_tensor_of_sequence_by_sequence(monkeypatch, dtype, padded):
    seq = 53  # larger than every other dimension
    model, own, reading = _model().to(dtype), _Sizes(), _Sizes()

    def watched(call, columns):
        with own:
            call.function(call.module, call.query, call.key, call.value, call.attention_mask, **call.kwargs)
        with reading:
            return _mass_on_columns(call, columns)

    monkeypatch.setattr("tokenry.core.tensors.attention._mass_on_columns", watched)
    mask = torch.ones(2, seq, dtype=torch.long)
    mask[1, 40:] = 0 if padded else 1
    _read(model, _columns(seq=seq), input_ids=_ids(seq=seq), attention_mask=mask)

    def square(sizes):
        return {shape for shape in sizes.made if sum(size >= seq for size in shape) > 1}

    # With padding sdpa turns the model's bool mask into a float one at every call, (batch, 1, seq, seq): the model's own.
    assert square(own) == ({(2, 1, seq, seq)} if padded else set())
    assert square(reading) == square(own)
    assert any(seq in shape for shape in reading.made)


# --- the tap itself -----------------------------------------------------------------------------------------------------


def test_the_reader_sees_the_call_and_can_repeat_it():
    model, seen = _model(), []

    def repeat(call):
        again = call.function(
            call.module, call.query, call.key, call.value, call.attention_mask, **call.kwargs
        )[0]
        seen.append((call.query.shape, call.key.shape, again.shape, torch.is_grad_enabled()))

    with tap_attention({attention_layers(model)[0]: repeat}):
        model(_ids(), use_cache=False)
    assert seen == [((2, 4, SEQ, 8), (2, 2, SEQ, 8), (2, SEQ, 4, 8), False)]


def test_the_interface_is_restored_after_an_exception():
    model, before = _model(), _interface_state()

    def fail(call):
        raise RuntimeError("reader")

    with pytest.raises(RuntimeError, match="reader"), tap_attention({attention_layers(model)[0]: fail}):
        model(_ids(), use_cache=False)
    assert _interface_state() == before


def test_nested_taps_on_several_models_each_read_their_own_and_close_in_any_order():
    first, second, seen = _model(), _model("gpt2", "eager"), []

    @contextmanager
    def tap(name, model):
        with tap_attention({attention_layers(model)[0]: lambda call: seen.append(name)}):
            yield

    def run():
        first(_ids(), use_cache=False)
        second(_ids(), use_cache=False)

    a, b, c = tap("a", first), tap("b", second), tap("c", first)
    for opened in (a, b, c):
        opened.__enter__()
    run()
    a.__exit__(None, None, None)
    run()
    c.__exit__(None, None, None)
    run()
    b.__exit__(None, None, None)
    run()
    assert seen == ["a", "c", "b", "c", "b", "b"]


@pytest.mark.parametrize(("family", "implementation"), IMPLEMENTATIONS)
def test_all_weights_are_those_of_the_eager_model(family, implementation):
    model, ids, found = _model(family, implementation), _ids(), []
    eager = deepcopy(model).eval()
    eager.set_attn_implementation("eager")
    expected = eager(ids, use_cache=False, output_attentions=True).attentions
    with tap_attention(
        {layer: lambda call: found.append(attention_weights(call)) for layer in attention_layers(model)}
    ):
        model(ids, use_cache=False)
    for weights, layer in zip(found, expected, strict=True):
        torch.testing.assert_close(weights, layer.detach(), atol=1e-6, rtol=0)


def test_an_answer_stands_in_the_place_of_attention_and_has_gradients():
    model = _model()
    layers, embedded = attention_layers(model), model.get_input_embeddings()(_ids()).detach().requires_grad_()

    def constant_weights(call):
        queries, keys = call.query.detach(), call.key.detach()
        return call.function(call.module, queries, keys, call.value, call.attention_mask, **call.kwargs)

    plain = model(inputs_embeds=embedded, use_cache=False).logits
    seen = []
    with answer_attention(dict.fromkeys(layers, constant_weights)), tap_attention({layers[0]: seen.append}):
        answered = model(inputs_embeds=embedded, use_cache=False).logits
    assert len(seen) == 1
    torch.testing.assert_close(answered, plain)
    one, other = (
        torch.autograd.grad(logits.sum(), embedded, retain_graph=True)[0] for logits in (plain, answered)
    )
    assert not torch.allclose(one, other)


def test_the_innermost_answer_counts_and_the_outer_one_comes_back():
    model = _model()
    layer = attention_layers(model)[0]

    def scaled(factor):
        def answer(call):
            output, weights = call.function(
                call.module, call.query, call.key, call.value, call.attention_mask, **call.kwargs
            )
            return output * factor, weights

        return {layer: answer}

    def logits():
        return model(_ids(), use_cache=False).logits

    plain = logits()
    with answer_attention(scaled(0)):
        outer = logits()
        with answer_attention(scaled(1)):
            assert torch.equal(logits(), plain)
        assert torch.equal(logits(), outer)
    assert not torch.equal(outer, plain)
    assert torch.equal(logits(), plain)


def test_a_function_of_the_interface_that_was_replaced_by_someone_else_is_put_back():
    model, lookup = _model(), ALL_ATTENTION_FUNCTIONS.get_interface

    def foreign(attn_implementation, default):
        return lookup(attn_implementation, default)

    ALL_ATTENTION_FUNCTIONS.get_interface = foreign
    try:
        with attention_mass(model, 0, _columns()):
            model(_ids(), use_cache=False)
        assert ALL_ATTENTION_FUNCTIONS.get_interface is foreign
    finally:
        del ALL_ATTENTION_FUNCTIONS.get_interface


def test_a_module_that_does_not_use_the_interface_is_refused():
    with (
        pytest.raises(UserError, match="Linear does not call the transformers attention interface"),
        tap_attention({nn.Linear(2, 2): print}),
    ):
        pass


# --- which layers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", list(FAMILIES))
def test_attention_layers_are_found_in_order(family):
    assert [layer.layer_idx for layer in attention_layers(_model(family, "eager"))] == [0, 1, 2]


def test_an_attention_class_that_inherits_its_forward_is_found():
    model = _model()
    for layer in model.model.layers:
        layer.self_attn.__class__ = type("Renamed", (type(layer.self_attn),), {})
    assert len(attention_layers(model)) == 3


def test_unknown_attention_is_refused_before_any_work():
    model = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=40, hidden_size=32, n_layer=1, n_head=4))
    with pytest.raises(
        UserError, match="BloomForCausalLM computes attention outside the transformers attention interface"
    ):
        attention_layers(model)


def test_encoder_decoders_are_refused():
    size = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = BartConfig(vocab_size=40, d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, **size)
    with pytest.raises(UserError, match="decoder-only"):
        attention_layers(BartForConditionalGeneration(config))


def test_attention_that_passes_by_the_interface_is_reported_when_nothing_was_read():
    model = _model("gpt2", "eager", reorder_and_upcast_attn=True)
    with pytest.raises(UserError, match=r"The attention of GPT2LMHeadModel was not read in layers \[2\]"):
        _read(model, _columns(), layers=-1, input_ids=_ids())


def test_an_exception_of_the_forward_is_not_hidden_by_the_missing_reading():
    with pytest.raises(ZeroDivisionError), attention_mass(_model(), -1, _columns()):
        raise ZeroDivisionError


def test_columns_of_another_length_are_refused():
    with pytest.raises(
        UserError, match=r"columns are for \(batch, seq\) = \(2, 5\), but the model attends over \(2, 13\)"
    ):
        _read(_model(), _columns(seq=5), input_ids=_ids())


def test_more_sets_than_a_head_has_dimensions_are_refused():
    with pytest.raises(UserError, match="at most 8 sets of columns"):
        _read(_model(), _columns(sets=9), input_ids=_ids())


@pytest.mark.parametrize(
    ("layers", "total", "expected"),
    [
        (-1, 4, (3,)),
        (0, 4, (0,)),
        ([0, -1], 4, (0, 3)),
        ([3, -1], 4, (3,)),
        ("deep", 1, (0,)),
        ("deep", 4, (2, 3)),
        ("deep", 30, tuple(range(20, 30))),
    ],
)
def test_layers_are_resolved_to_numbers(layers, total, expected):
    assert resolve_layers(layers, total) == expected


@pytest.mark.parametrize("layers", [4, -5, [0, 4]])
def test_a_layer_out_of_range_names_the_range(layers):
    with pytest.raises(
        UserError, match=r"out of range: the model has 4 attention layers, so choose from -4 to 3"
    ):
        resolve_layers(layers, 4)


@pytest.mark.parametrize("layers", ["middle", [], ()])
def test_a_choice_of_layers_without_meaning_is_refused(layers):
    with pytest.raises(UserError, match='layers must be a layer number, several of them, or "deep"'):
        resolve_layers(layers, 4)


# --- the mass from queries and keys, and the signals --------------------------------------------------------------------


def _golden(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / "dev-attnmass-qk.npz") as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays}
    return {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_mass_from_queries_and_keys_equals_the_golden_numbers(dtype, tolerance):
    golden = _golden(dtype)
    mass = prompt_attention_mass(golden["q"], golden["k"], golden["prompt_mask"], golden["attention_mask"])
    assert mass.dtype == dtype
    torch.testing.assert_close(mass, golden["attn_mass"], rtol=tolerance, atol=0, equal_nan=True)


def test_mass_from_queries_and_keys_stays_within_its_segment():
    golden = _golden(torch.float64)
    q, k, prompt = golden["q"][:1], golden["k"][:1], golden["prompt_mask"][:1]
    rows = torch.ones_like(prompt)
    segments = torch.tensor([[0] * 6 + [1] * 8])
    packed = prompt_attention_mass(q, k, prompt, segment_ids=segments, query_mask=rows)
    for part in (slice(0, 6), slice(6, 14)):
        alone = prompt_attention_mass(q[:, :, part], k[:, :, part], prompt[:, part], query_mask=rows[:, part])
        torch.testing.assert_close(packed[:, part], alone, rtol=1e-12, atol=1e-12)


def test_mass_from_queries_and_keys_does_not_see_which_side_is_padded():
    golden = _golden(torch.float64)
    right = prompt_attention_mass(golden["q"], golden["k"], golden["prompt_mask"], golden["attention_mask"])
    real = golden["attention_mask"].sum(dim=1)
    q, k = (
        torch.stack([x.roll(14 - n, dims=1) for x, n in zip(golden[name], real, strict=True)])
        for name in "qk"
    )
    prompt, mask = (
        torch.stack([x.roll(int(14 - n)) for x, n in zip(golden[name], real, strict=True)])
        for name in ("prompt_mask", "attention_mask")
    )
    left = prompt_attention_mass(q, k, prompt, mask)
    expected = torch.stack([x.roll(int(14 - n)) for x, n in zip(right, real, strict=True)])
    torch.testing.assert_close(left, expected, rtol=1e-12, atol=0, equal_nan=True)


def test_half_precision_queries_and_keys_give_a_float32_mass():
    golden = _golden(torch.bfloat16)
    assert prompt_attention_mass(golden["q"], golden["k"], golden["prompt_mask"]).dtype == torch.float32


def test_scale_multiplies_the_dot_products():
    golden = _golden(torch.float64)
    q, k, prompt = golden["q"], golden["k"], golden["prompt_mask"]
    torch.testing.assert_close(
        prompt_attention_mass(q, k, prompt, scale=0.7),
        prompt_attention_mass(q * 0.7 * 8**0.5, k, prompt),
        equal_nan=True,
    )


def test_the_tap_agrees_with_the_mass_from_queries_and_keys():
    model, calls, prompt = _model(), [], torch.zeros(2, SEQ, dtype=torch.bool)
    prompt[:, :5] = True
    with tap_attention({attention_layers(model)[2]: calls.append}):
        by_layer = _read(model, prompt[:, None], layers=2, input_ids=_ids())
    expected = prompt_attention_mass(calls[0].query, calls[0].key, prompt)
    torch.testing.assert_close(prompt_attention(by_layer, ~prompt), expected, equal_nan=True)


def test_prompt_attention_is_the_mean_over_heads_and_layers_and_nan_outside_the_queries():
    by_layer = {4: torch.tensor([[[[0.2], [0.4]], [[0.4], [0.8]]]]), 5: torch.full((1, 2, 2, 1), 0.1)}
    score = prompt_attention(by_layer, torch.tensor([[False, True]]))
    torch.testing.assert_close(score, torch.tensor([[torch.nan, 0.35]]), equal_nan=True)


def test_sink_aware_attention_renormalises_each_head_without_the_sink():
    # (content, sink) of two heads: 0.1 / (1 - 0.8) = 0.5 and 0.3 / (1 - 0) = 0.3
    by_layer = {0: torch.tensor([[[[0.1, 0.8]], [[0.3, 0.0]]]])}
    score = sink_aware_prompt_attention(by_layer, torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(score, torch.tensor([[0.4]]))


def test_a_head_that_gives_everything_to_the_sink_scores_zero():
    by_layer = {0: torch.tensor([[[[0.0, 1.0]]], [[[0.0, 1.0000001]]]])}
    score = sink_aware_prompt_attention(by_layer, torch.ones(2, 1, dtype=torch.bool))
    assert score.tolist() == [[0.0], [0.0]]


def test_rounding_near_a_full_sink_never_gives_more_than_one():
    by_layer = {0: torch.tensor([[[[4e-6, 1.0]]]])}
    assert sink_aware_prompt_attention(by_layer, torch.ones(1, 1, dtype=torch.bool)).tolist() == [[1.0]]
