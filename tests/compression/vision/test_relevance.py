import warnings

import pytest
import torch

from tests.tiny.vlms import FAMILIES, IMAGE, make_inputs, make_model
from tokenry.compression.vision.relevance import rank_correlation, relevance_correlation, warn_if_against
from tokenry.compression.vision.visual_tokens import prune_visual_tokens
from tokenry.core.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:the projector's sensitivity goes against relevance")


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def test_there_is_one_correlation_per_image(family):
    model = make_model(family)
    correlations = relevance_correlation(model, make_inputs(model, family))
    assert len(correlations) == 3
    assert all(-1 <= value <= 1 for value in correlations)


def test_relevance_is_the_effect_of_a_token_to_first_order(family):
    """Measured by hand: the log-probability of the likeliest next token, with one embedding a little longer and shorter."""
    model = make_model(family).double()
    inputs = make_inputs(model, family, images_per_row=(1,), dtype=torch.float64)
    with prune_visual_tokens(model, ratio=1.0, method="zoo") as pruning, torch.no_grad():
        short = pruning._shorten(inputs, "right").inputs
        arguments = {
            name: value for name, value in short.items() if name in ("attention_mask", "position_ids")
        }

        def said(embeddings):
            return model(inputs_embeds=embeddings, **arguments).logits[0, -1].log_softmax(-1).amax()

        embeddings, effects = short["inputs_embeds"], []
        for column in (inputs["input_ids"][0] == IMAGE).nonzero()[:, 0].tolist():
            larger, smaller = embeddings.clone(), embeddings.clone()
            larger[0, column] *= 1.01
            smaller[0, column] *= 0.99
            effects.append(said(larger) - said(smaller))
    expected = rank_correlation(pruning.last.images[0].sensitivity, torch.stack(effects).abs())
    assert relevance_correlation(model, inputs)[0] == pytest.approx(expected, abs=1e-6)


def test_labels_say_what_is_to_be_explained():
    model = make_model("llava")
    inputs = make_inputs(model, "llava")
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, -100)
    assert relevance_correlation(model, inputs) != relevance_correlation(model, {**inputs, "labels": labels})


def test_the_model_is_left_as_it_was(family):
    model = make_model(family)
    inputs = make_inputs(model, family)
    relevance_correlation(model, inputs)
    assert all(weight.grad is None for weight in model.parameters())
    assert not model._forward_pre_hooks


def test_a_pruned_model_is_asked_about_all_its_tokens():
    model = make_model("llava")
    inputs = make_inputs(model, "llava")
    expected = relevance_correlation(model, inputs)
    with prune_visual_tokens(model, keep=2) as pruning:
        assert relevance_correlation(model, inputs) == expected
        assert pruning.last is None


def test_padding_does_not_change_the_answer():
    model = make_model("llava")
    inputs = make_inputs(model, "llava", images_per_row=(2, 1))
    alone = make_inputs(model, "llava", images_per_row=(2,))
    alone["input_ids"] = inputs["input_ids"][:1]
    alone["attention_mask"] = inputs["attention_mask"][:1]
    alone["pixel_values"] = inputs["pixel_values"][:2]
    together = relevance_correlation(model, inputs)
    assert together[:2] == pytest.approx(relevance_correlation(model, alone), abs=0.02)


def test_halves_are_asked_too():
    model = make_model("llava", torch.bfloat16)
    correlations = relevance_correlation(model, make_inputs(model, "llava", dtype=torch.bfloat16))
    assert all(-1 <= value <= 1 for value in correlations)


def test_a_negative_mean_is_warned_of():
    with pytest.warns(UserWarning, match=r"goes against relevance.*-0.20 over 2\).*use method='divprune'"):
        warn_if_against((-0.6, 0.2, float("nan")))


def test_nothing_is_said_when_they_agree_or_nothing_is_known():
    with warnings.catch_warnings(record=True) as said:
        for correlations in ((-0.2, 0.6), (float("nan"),), ()):
            warn_if_against(correlations)
    assert not said


def test_newline_tokens_do_not_count_and_what_is_constant_has_no_rank():
    sensitivity = torch.tensor([1.0, 2.0, float("nan"), 3.0])
    assert rank_correlation(sensitivity, torch.tensor([4.0, 5.0, -9.0, 6.0])) == pytest.approx(1)
    assert rank_correlation(sensitivity, torch.tensor([6.0, 5.0, 0.0, 4.0])) == pytest.approx(-1)
    constant = rank_correlation(sensitivity, torch.ones(4))
    assert constant != constant


def test_images_are_needed():
    model = make_model("llava")
    with pytest.raises(UserError, match="relevance can only be compared on images"):
        relevance_correlation(model, {"input_ids": torch.tensor([[4, 5]])})
