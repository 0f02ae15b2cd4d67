"""Sliding windows and BudgetLongformer: reference numbers, equality with transformers and with full attention, what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers import BartConfig, BartModel, LEDConfig, LEDModel, LongformerConfig, LongformerModel

from tests import tiny
from tests.golden import golden_arrays, golden_json
from tests.tiny.pretraining import VOCABULARY, mask_tokenizer, pretrainer, text_rows
from tokenry.core.errors import UserError
from tokenry.pretraining import (
    SlidingWindow,
    attach_decoder,
    longformer_config,
    longformer_rtd,
    rtd_labels,
    split_documents,
    summarise,
)
from tokenry.pretraining.longformer import extend_positions
from tokenry.pretraining.masking import discriminator_losses, mean_of
from tokenry.pretraining.sliding_window import global_places, sliding_window_attention, sliding_window_mask

SLUG, FILE = "13-budget-longformer", "dev-longformer-rtd.npz"


@pytest.fixture(scope="module")
def arrays():
    return golden_arrays(SLUG, FILE)


@pytest.fixture(scope="module")
def model(arrays):
    rows, width = arrays["W|embeddings.word_embeddings.weight"].shape
    config = LongformerConfig(
        vocab_size=rows,
        hidden_size=width,
        num_hidden_layers=len(arrays["windows"]),
        num_attention_heads=int(arrays["heads"]),
        intermediate_size=2 * width,
        attention_window=arrays["windows"].tolist(),
        max_position_embeddings=len(arrays["W|embeddings.position_embeddings.weight"]),
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
    )
    made = LongformerModel(config, add_pooling_layer=False)
    made.load_state_dict(
        {key[2:]: value for key, value in arrays.items() if key.startswith("W|")}, strict=False
    )
    return made.double().eval()


@pytest.mark.parametrize("variant", ["local", "cls_global", "two_global"])
def test_hidden_states_are_those_of_the_reference(arrays, model, variant):
    ids, mask, seen = arrays["input_ids"], arrays["attention_mask"], arrays[f"global|{variant}"]
    with SlidingWindow(model):
        hidden = model(ids, attention_mask=mask, global_attention_mask=seen).last_hidden_state
    torch.testing.assert_close(hidden * mask[..., None], arrays[f"out|{variant}"], atol=2e-6, rtol=0)
    allowed = sliding_window_mask(ids.shape[1], int(arrays["windows"][0]), mask, seen)
    assert torch.equal(allowed, arrays[f"allowed_layer0|{variant}"])


def test_replaced_tokens_are_detected_as_in_the_reference(arrays, model):
    ids, mask = arrays["input_ids"], arrays["attention_mask"]
    labels = rtd_labels(ids, arrays["corrupted_ids"], arrays["selected"])
    assert torch.equal(labels, arrays["rtd_labels"])
    with SlidingWindow(model):
        hidden = model(
            arrays["corrupted_ids"], attention_mask=mask, global_attention_mask=arrays["global|cls_global"]
        ).last_hidden_state
    logits = gelu(hidden @ arrays["head_W1"].T + arrays["head_b1"]) @ arrays["head_w2"] + arrays["head_b2"]
    torch.testing.assert_close(logits * mask, arrays["disc_logits"], atol=5e-6, rtol=0)
    loss = mean_of(discriminator_losses(logits, labels, mask).sum(), mask.sum())
    torch.testing.assert_close(loss.double(), arrays["disc_loss"], atol=5e-6, rtol=0)


def test_positions_are_extended_as_in_the_reference(arrays):
    table, longer = arrays["W|embeddings.position_embeddings.weight"], arrays["pos_extended"]
    assert torch.equal(extend_positions(table, len(longer)), longer)


def test_documents_are_split_as_in_the_reference():
    expected = golden_json(SLUG, "dev-blocks.json")
    found = split_documents(expected["documents"], expected["max_length"], expected["bos"], expected["eos"])
    assert found == expected["blocks"]


def test_parameter_counts_are_those_of_the_paper():
    for size, millions in (("small", 29.28), ("base", 158.6)):
        with torch.device("meta"):
            made = LongformerModel(longformer_config(size), add_pooling_layer=False)
        assert made.num_parameters() / 1e6 == pytest.approx(millions, abs=0.05)


def test_generators_have_the_share_of_the_paper():
    sizes = {"num_hidden_layers": 1, "positions": 40, "window": 4}
    for size, width in (("small", 256 // 4), ("base", 768 // 3)):
        pair = longformer_rtd(size, mask_tokenizer(), **sizes)
        assert pair.generator.config.hidden_size == width
        assert pair.generator.config.vocab_size == VOCABULARY
    pair = longformer_rtd("small", mask_tokenizer(), generator_share=0.5, hidden_size=16, **sizes)
    assert pair.generator.config.hidden_size == 8
    seen = torch.zeros_like(text_rows()["input_ids"])
    seen[:, 0] = 1
    assert pair.step({**text_rows(), "global_attention_mask": seen}, 0).loss.isfinite()


@settings(max_examples=12)
@given(st.integers(1, 70), st.sampled_from([2, 4, 34, 80, 300]), st.integers(0, 1000), st.booleans())
def test_every_pair_that_may_interact_does_and_no_other(length, window, seed, with_global):
    draw = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 2, 2, length, 4, generator=draw, dtype=torch.float64)
    mask = torch.rand(2, length, generator=draw) < 0.8
    is_global = (torch.rand(2, length, generator=draw) < 0.2) & with_global
    found = sliding_window_attention(q, k, v, window, global_places(is_global), mask.long())
    places = torch.arange(length)
    allowed = ((places[:, None] - places).abs() <= window // 2) | is_global[:, None, :]
    allowed = (allowed & mask[:, None, :])[:, None] | torch.eye(length, dtype=torch.bool)
    expected = scaled_dot_product_attention(q, k, v, attn_mask=allowed).masked_fill(
        ~mask[:, None, :, None], 0
    )
    torch.testing.assert_close(found, expected)


def test_a_window_of_twice_the_length_is_full_attention():
    q, k, v = torch.randn(3, 1, 2, 9, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sliding_window_attention(q, k, v, 18), scaled_dot_product_attention(q, k, v))


def led_model():
    torch.manual_seed(0)
    sizes = {
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
    }
    widths = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "attention_window": [4, 4]}
    return LEDModel(LEDConfig(vocab_size=40, max_encoder_position_embeddings=40, **sizes, **widths)).eval()


@pytest.mark.parametrize("kind", ["longformer", "led"])
@pytest.mark.parametrize("with_global", [False, True])
def test_outputs_and_gradients_are_those_of_transformers(kind, with_global):
    made = pretrainer("longformer").discriminator if kind == "longformer" else led_model()
    rows = text_rows((14, 9, 5, 2))
    seen = torch.zeros_like(rows["input_ids"])
    seen[:, 0], seen[0, 7], seen[3, 9] = (
        int(with_global),
        int(with_global),
        int(with_global),
    )  # the last one is padding

    def learn():
        made.zero_grad()
        states = made(**rows, global_attention_mask=seen).last_hidden_state
        (states * rows["attention_mask"][..., None]).square().sum().backward()
        return states, {name: p.grad for name, p in made.named_parameters() if p.grad is not None}

    plain, gradients = learn()
    handle = SlidingWindow(made)
    fast, found = learn()
    real = rows["attention_mask"].bool() if kind == "longformer" else slice(None)
    torch.testing.assert_close(fast[real], plain[real], atol=1e-5, rtol=1e-4)
    for name, gradient in found.items():
        torch.testing.assert_close(
            gradient, gradients[name], atol=2e-4, rtol=1e-3, msg=lambda words, n=name: f"{n}: {words}"
        )
    assert "sliding windows in 2 layers" in repr(handle)
    handle.remove()
    assert torch.equal(learn()[0], plain)


def test_attention_weights_are_those_of_transformers():
    made = pretrainer("longformer").discriminator
    with SlidingWindow(made):
        assert made(**text_rows(), output_attentions=True).attentions is not None


def test_a_row_of_padding_alone_gives_numbers():
    made = pretrainer("longformer").discriminator
    ids = torch.tensor([[0, 0, 0, 0], [2, 7, 8, 3]])
    with SlidingWindow(made):
        states = made(
            ids, attention_mask=(ids > 0).long(), global_attention_mask=torch.ones_like(ids)
        ).last_hidden_state
    assert states.isfinite().all()


# --- bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: longformer_config(window=7), "window must be even and at least 2, got 7"),
        (lambda: longformer_config(window=0), "window must be even and at least 2, got 0"),
        (lambda: longformer_config(window=[4, 4]), "window must be one number or 12, one for each layer, got 2"),
        (lambda: longformer_config("large"), "size must be one of small, base, got 'large'"),
        (lambda: sliding_window_attention(*torch.zeros(3, 1, 1, 4, 2), 3), "window must be even and at least 2, got 3"),
        (lambda: sliding_window_mask(4, 2, torch.ones(1, 4).long(), torch.ones(1, 3).long()), r"global mask has shape \(1, 3\)"),
        (lambda: sliding_window_mask(4, 2, None, torch.ones(1, 3).long()), r"global mask has shape \(1, 3\) and the attention mask \(1, 4\)"),
        (lambda: extend_positions(torch.zeros(9, 2), 8), "new_length must be at least the 9 rows that the table has, got 8"),
        (lambda: extend_positions(torch.zeros(9, 2), 12, 9), r"reserved must be in \[0, 9\), got 9"),
        (lambda: split_documents([[5]], 2, 0, 2), "max_length must be at least 3, got 2"),
        (lambda: SlidingWindow(tiny.llama()), "LlamaForCausalLM has no sliding-window attention"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(UserError, match=words):
        call()


# --- a decoder on top ----------------------------------------------------------------------------------------------------


def long_encoder(**options):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    config = longformer_config("small", VOCABULARY, window=4, positions=40, **{**sizes, **options})
    made = LongformerModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made


def test_the_encoder_of_a_summariser_says_what_the_longformer_says():
    encoder = long_encoder()
    model = attach_decoder(encoder, layers=1)
    ids = text_rows((14, 9))["input_ids"]
    mask = (ids > 0).long()
    ids = ids.masked_fill(mask == 0, 1)
    seen = torch.zeros_like(ids)
    seen[:, 0] = 1
    given = {"attention_mask": mask, "global_attention_mask": seen}
    expected = encoder(ids, **given).last_hidden_state
    found = model.led.encoder(input_ids=ids, **given).last_hidden_state
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-4)
    with SlidingWindow(model):
        fast = model.led.encoder(input_ids=ids, **given).last_hidden_state
    torch.testing.assert_close(fast[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-4)
    assert model.lm_head.weight is model.led.encoder.embed_tokens.weight
    assert model.config.decoder_layers == 1


def bart(**options):
    sizes = {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 3,
        "encoder_ffn_dim": 8,
        "decoder_ffn_dim": 24,
    }
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    return BartModel(
        BartConfig(**{"vocab_size": 50, "max_position_embeddings": 20, **sizes, **heads, **options})
    )


def test_the_decoder_of_a_bart_is_copied():
    theirs = bart()
    made = attach_decoder(long_encoder(), layers=2, max_summary=20, init=theirs)
    decoder = made.led.decoder
    hidden, ids = torch.randn(1, 6, 16), torch.tensor([[2, 7, 8]])
    theirs.decoder.layers = torch.nn.ModuleList([theirs.decoder.layers[0], theirs.decoder.layers[2]])
    theirs.decoder.embed_tokens = decoder.embed_tokens
    given = {"input_ids": ids, "encoder_hidden_states": hidden}
    expected = theirs.eval().decoder(**given).last_hidden_state
    torch.testing.assert_close(decoder.eval()(**given).last_hidden_state, expected)
    assert decoder.embed_tokens.weight is made.led.encoder.embed_tokens.weight


def test_texts_are_summarised_by_beam_search():
    model, tokenizer = attach_decoder(long_encoder(), layers=1), mask_tokenizer()
    texts = ["w7 w8 w9", "w10 " * 60, "w11"]
    found = summarise(model, tokenizer, texts, max_new_tokens=5, num_beams=2, batch_size=2)
    assert len(found) == 3
    assert all(set(text.split()) <= set(tokenizer.get_vocab()) for text in found)
    assert found == summarise(model, tokenizer, texts, max_new_tokens=5, num_beams=2, batch_size=3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: attach_decoder(tiny.bert()), "a decoder is attached to a Longformer, whose layers are those of LED, got BertModel"),
        (lambda: attach_decoder(long_encoder(), layers=0), "layers must be at least 1, got 0"),
        (lambda: attach_decoder(long_encoder(hidden_act="relu")), "is run with gelu, and this Longformer has relu"),
        (lambda: attach_decoder(long_encoder(), init="bart"), "init must be 'random' or a BART, whose decoder is copied, got 'bart'"),
        (lambda: attach_decoder(long_encoder(), init=tiny.bert()), "whose decoder is copied, got 'BertModel'"),
        (lambda: attach_decoder(long_encoder(), 3, 20, init=bart(d_model=8)), "the decoder needs width 16, and that of init has 8"),
        (lambda: attach_decoder(long_encoder(), 3, 20, init=bart(activation_function="relu")), "activation_function gelu, and that of init has relu"),
        (lambda: attach_decoder(long_encoder(), 4, 20, init=bart()), "layers is 4, and the decoder of init has 3"),
        (lambda: attach_decoder(long_encoder(), 3, 21, init=bart()), "max_summary is 21, and the decoder of init has 20"),
        (lambda: summarise(attach_decoder(long_encoder()), mask_tokenizer(), ["w7"], num_beams=0), "num_beams must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_a_decoder_that_cannot_be_is_refused(call, words):
    with pytest.raises(UserError, match=words):
        call()
