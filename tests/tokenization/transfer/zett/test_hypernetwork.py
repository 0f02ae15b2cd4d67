"""The hypernetwork against the reference numbers, against its padded form, and its options one by one."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.tokenization.transfer.zett.golden import arrays
from tokenry.core.errors import UserError
from tokenry.tokenization.transfer.zett.encoder import by_length
from tokenry.tokenization.transfer.zett.hypernetwork import (
    EmbeddingHyperNetwork,
    HyperNetworkConfig,
    PredictedEmbeddings,
    own_forms,
)

PAD = 1


def golden_network(golden):
    vocabulary, _, length, width, hidden, inner, heads, layers, untied, rescale, bias, extra, single, _ = (
        golden["config"].tolist()
    )
    config = HyperNetworkConfig(
        vocabulary=vocabulary,
        embedding_size=width,
        pad_id=PAD,
        tied=not untied,
        max_length=length,
        hidden_size=hidden,
        intermediate_size=inner,
        layers=layers,
        heads=heads,
        fallback_rows=extra,
        rescale=bool(rescale),
        single_head=bool(single),
        predict_bias=bool(bias),
    )
    network = EmbeddingHyperNetwork(config).double()
    network.load_weights(
        {name.removeprefix("w::"): each for name, each in golden.items() if name.startswith("w::")}
    )
    return network


def network(seed=0, **changed):
    settings = {
        "vocabulary": 20,
        "embedding_size": 8,
        "pad_id": PAD,
        "max_length": 4,
        "layers": 2,
        "heads": 2,
        "fallback_rows": 2,
        **changed,
    }
    torch.manual_seed(seed)
    made = EmbeddingHyperNetwork(HyperNetworkConfig(**settings)).double()
    for each in made.parameters():
        nn.init.normal_(each, std=0.4)
    return made


def source(config, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(config.vocabulary, config.source_size, generator=generator, dtype=torch.float64)


def forms(*rows, length=4):
    made = torch.full((len(rows), length), PAD)
    for number, row in enumerate(rows):
        made[number, : len(row)] = torch.tensor(row)
    return made


def padded(made, surface_forms, embeddings, language=None):
    """Every position of every token, padding included, as the released code computes it."""
    ids = surface_forms.clamp(max=made.config.vocabulary - 1)
    rows = made.in_scaler(embeddings[ids])
    beyond = surface_forms >= made.config.vocabulary
    rows[beyond] = made.fallback_embeddings.weight[surface_forms[beyond] - made.config.vocabulary]
    parts, mask = made.model.embeddings, surface_forms != made.config.pad_id
    hidden = made.input_projection(rows)
    hidden = hidden + parts.token_type_embeddings.weight + parts.position_embeddings.weight
    if language is not None:
        told = made.lang_embeddings.weight[language].expand(len(hidden), 1, -1)
        hidden = torch.cat([hidden, told], 1)
        mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=torch.bool)], 1)
    hidden = parts.LayerNorm(hidden)
    for layer in made.model.encoder.layer:
        hidden = layer(hidden, mask, hidden.shape[1])
    return made._heads(hidden[:, 0])


def close(found, expected):
    for one, other in zip(found, expected, strict=True):
        if one is None:
            assert other is None
        else:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["hypernet0", "hypernet1"])
def test_predictions_are_the_reference(name):
    golden = arrays(name)
    with torch.no_grad():
        found = golden_network(golden)(golden["surface_forms"], golden["source_embeddings"])
    close(found, PredictedEmbeddings(golden["pred_in"], golden.get("pred_out"), golden["pred_bias"]))


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.integers(0, 21).filter(lambda n: n != PAD), max_size=4), min_size=1, max_size=12
    ),
    language=st.sampled_from([None, 0, 2]),
    tied=st.booleans(),
)
def test_the_deduplicated_forward_is_the_padded_one(rows, language, tied):
    made = network(languages=0 if language is None else 3, tied=tied, predict_bias=True)
    surface_forms, embeddings = forms(*rows), source(made.config)
    with torch.no_grad():
        close(made(surface_forms, embeddings, language), padded(made, surface_forms, embeddings, language))


def test_the_gradients_of_both_forms_are_the_same():
    made = network()
    surface_forms, embeddings = forms([3], [4, 5], [3], [4, 5, 20, 7], [21]), source(made.config)
    gradients = []
    for forward in (made, lambda *given: padded(made, *given)):
        made.zero_grad()
        forward(surface_forms, embeddings).input.square().sum().backward()
        gradients.append({name: each.grad for name, each in made.named_parameters() if each.grad is not None})
    for name, each in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], each, rtol=1e-9, atol=1e-9)


def test_each_distinct_spelling_is_encoded_once_and_without_padding(monkeypatch):
    made, seen = network(), []
    forward = made.model.forward
    monkeypatch.setattr(
        made.model, "forward", lambda rows, *rest: (seen.append(tuple(rows.shape)), forward(rows, *rest))[1]
    )
    made(forms([3], [4, 5], [3], [4, 5], [6]), source(made.config))
    assert seen == [(2, 1, 8), (1, 2, 8)]


def test_tokens_are_grouped_by_their_last_piece():
    mask = torch.tensor([[1, 0, 0], [1, 0, 1], [1, 1, 0], [0, 0, 0], [1, 0, 0]]).bool()
    assert {length: rows.tolist() for length, rows in by_length(mask)} == {1: [0, 4], 2: [2], 3: [1, 3]}


def test_tokens_spelled_alike_keep_their_own_rows_in_order():
    made = network()
    found = made(forms([3], [4, 5], [3]), source(made.config)).input
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


def test_the_order_of_tokens_changes_nothing():
    made = network()
    surface_forms, embeddings = forms([3], [9, 8, 7], [4, 5], [2, 20]), source(made.config)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        made(surface_forms[order], embeddings).input, made(surface_forms, embeddings).input[order]
    )


def test_a_tied_model_gets_no_output_rows_and_zeros_for_its_bias():
    made = network()
    found = made(forms([3]), source(made.config))
    assert found.output is None
    assert torch.equal(found.bias, torch.zeros(1, dtype=torch.float64))


def test_a_single_head_predicts_both_sides_of_an_untied_model():
    made = network(tied=False, single_head=True)
    found = made(forms([3], [4, 5]), source(made.config))
    assert found.input.shape == found.output.shape == (2, 8)
    assert not hasattr(made, "output_projection_out")


def test_languages_change_what_is_predicted():
    made = network(languages=2)
    one, other = (made(forms([3, 4]), source(made.config), language).input for language in (0, 1))
    assert not torch.allclose(one, other)


def test_after_fitting_predictions_have_the_mean_and_std_of_the_source_rows():
    made = network(tied=False)
    embeddings = source(made.config) * 3 + 1
    made.fit_rescalers(embeddings)
    found = made(own_forms(torch.arange(20), made.config), embeddings)
    for rows, expected in ((found.input, embeddings[:, :8]), (found.output, embeddings[:, 8:])):
        torch.testing.assert_close(rows.mean(0), expected.mean(0))
        torch.testing.assert_close(
            rows.std(0, unbiased=False), expected.std(0, unbiased=False), rtol=1e-3, atol=0
        )
    scaled = made.in_scaler(embeddings)
    assert scaled.std(0, unbiased=False).allclose(torch.tensor(0.02).double(), rtol=1e-5)


def test_without_rescaling_nothing_is_fitted():
    made = network(rescale=False)
    before = {name: each.clone() for name, each in made.state_dict().items()}
    made.fit_rescalers(source(made.config))
    assert all(torch.equal(each, before[name]) for name, each in made.state_dict().items())


@pytest.mark.parametrize("tied", [True, False])
def test_the_residual_form_begins_at_the_mean_of_the_pieces(tied):
    config = HyperNetworkConfig(
        20, 8, PAD, tied=tied, max_length=4, heads=2, fallback_rows=1, residual=True, layers=1
    )
    made, embeddings = EmbeddingHyperNetwork(config).double(), source(config)
    made.fit_rescalers(embeddings)
    found = made(forms([3], [4, 5, 5], [6, 20], [20]), embeddings)
    mean = torch.stack(
        [embeddings[3], embeddings[[4, 5, 5]].mean(0), embeddings[6], embeddings.mean(0)]
    ).detach()
    torch.testing.assert_close(found.input, mean[:, :8])
    if not tied:
        torch.testing.assert_close(found.output, mean[:, 8:])


def test_the_residual_form_learns():
    config = HyperNetworkConfig(20, 8, PAD, max_length=4, heads=2, residual=True, layers=1)
    made, embeddings = EmbeddingHyperNetwork(config).double(), source(config)
    made.fit_rescalers(embeddings)
    made(forms([3, 4]), embeddings).input.sum().backward()
    assert made.output_projection[1].weight.grad.abs().sum() > 0


def test_rescalers_are_never_trained():
    assert not any(each.requires_grad for name, each in network().named_parameters() if "scaler" in name)


def test_a_saved_hypernetwork_loads_as_it_was(tmp_path):
    made = network(tied=False, languages=2, predict_bias=True).float()
    made.save(tmp_path / "net")
    loaded = EmbeddingHyperNetwork.load(tmp_path / "net")
    assert loaded.config == made.config
    embeddings = source(made.config).float()
    for one, other in zip(
        made(forms([3, 4]), embeddings, 1), loaded(forms([3, 4]), embeddings, 1), strict=True
    ):
        assert torch.equal(one, other)


def test_a_folder_without_a_hypernetwork_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no hypernetwork"):
        EmbeddingHyperNetwork.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="describes no hypernetwork"):
        EmbeddingHyperNetwork.load(tmp_path)


def test_weights_of_another_configuration_are_refused():
    weights = network().state_dict()
    with pytest.raises(UserError, match="lack bias_projection"):
        network(predict_bias=True).load_weights(weights)
    with pytest.raises(UserError, match="another configuration"):
        network(embedding_size=4).load_weights(weights)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"hidden_size": 10, "heads": 3}, "hidden_size must be divisible by heads, got 10 and 3"),
        ({"vocabulary": 0}, "the source vocabulary is empty"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"fallback_rows": -1}, "fallback_rows must be 0 or more, got -1"),
        ({"pad_id": 22}, "pad_id must be a token of the source vocabulary"),
        ({"hidden_size": -8}, "hidden_size must be at least 1"),
    ],
)
def test_a_bad_size_is_one_sentence(changed, words):
    with pytest.raises(UserError, match=words):
        network(**changed)


@pytest.mark.parametrize(
    ("rows", "changed", "words"),
    [
        (torch.zeros(0, 4).long(), {}, "the vocabulary is empty"),
        (forms([20]), {"fallback_rows": 0}, "20 source rows and 0 fallback embeddings: give fallback_rows="),
        (forms([22]), {}, "hold the id 22"),
        (forms([3], length=5), {}, "have 5 pieces, but this hypernetwork reads 1 to 4"),
        (torch.zeros(1, 0).long(), {}, "have 0 pieces"),
        (forms([3]), {"languages": 2}, "language must be one of 0 to 1, got None"),
    ],
)
def test_bad_surface_forms_are_one_sentence(rows, changed, words):
    made = network(**changed)
    with pytest.raises(UserError, match=words):
        made(rows, source(made.config))


def test_source_embeddings_of_another_width_are_refused():
    made = network(tied=False)
    with pytest.raises(UserError, match="20 rows of 16 are wanted"):
        made(forms([3]), source(dataclasses.replace(made.config, tied=True)))


def test_a_language_without_languages_is_refused():
    made = network()
    with pytest.raises(UserError, match="tells no languages apart, got language=0"):
        made(forms([3]), source(made.config), 0)


def test_the_default_sizes_are_the_papers():
    config = HyperNetworkConfig(vocabulary=10, embedding_size=768, pad_id=0)
    assert (config.hidden_size, config.intermediate_size, config.heads) == (768, 1536, 12)
    assert (config.layers, config.max_length) == (3, 7)
