import copy

import pytest
import torch
from torch import nn
from transformers.models.llava_next.modeling_llava_next import unpad_image

from tests import tiny
from tests.tiny.vlms import FAMILIES, make_inputs, make_model
from tokenry.compression.vision.diversity import NEWLINE
from tokenry.compression.vision.image_features import Sensitivity, encode_images, supported_model
from tokenry.compression.vision.zoo_prune import zeroth_order_sensitivity
from tokenry.core.errors import UserError


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_lead_from_every_token_to_what_entered_the_projector_for_it(family, dtype):
    model, architecture = supported_model(make_model(family, dtype))
    encoded = encode_images(model, architecture, make_inputs(model, family, dtype=dtype), with_rows=True)
    projector = architecture.projector(model.model)
    for image in encoded.images:
        real = image.rows >= 0
        again = projector(encoded.entering[image.rows[real]])
        torch.testing.assert_close(image.features[real], again, rtol=2e-2, atol=2e-3)


def test_watching_changes_no_feature(family):
    model, architecture = supported_model(make_model(family))
    inputs = make_inputs(model, family)
    plain, watched = (encode_images(model, architecture, inputs, with_rows) for with_rows in (False, True))
    for one, other in zip(plain.images, watched.images, strict=True):
        assert torch.equal(one.features, other.features)


def test_watching_leaves_no_trace(family):
    model, architecture = supported_model(make_model(family))
    before = copy.copy(vars(model.model))
    encode_images(model, architecture, make_inputs(model, family), with_rows=True)
    assert vars(model.model) == before
    assert not architecture.projector(model.model)._forward_hooks


def test_watching_leaves_no_trace_when_encoding_fails(family):
    model, architecture = supported_model(make_model(family))
    inputs = make_inputs(model, family)
    inputs["pixel_values"] = inputs["pixel_values"][..., :1]
    before = copy.copy(vars(model.model))
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        encode_images(model, architecture, inputs, with_rows=True)
    assert vars(model.model) == before
    assert not architecture.projector(model.model)._forward_hooks


def test_only_anyres_images_have_frames(family):
    model, architecture = supported_model(make_model(family))
    encoded = encode_images(model, architecture, make_inputs(model, family), with_rows=False)
    assert [image.frames is not None for image in encoded.images] == [family == "llava-next"] * 3


def test_frames_are_those_of_the_unpadded_grid():
    """The whole image comes first; then the rows of the grid of crops, each ended by a newline token."""
    model, architecture = supported_model(make_model("llava-next"))
    inputs = make_inputs(model, "llava-next", images_per_row=(1,))
    (image,) = encode_images(model, architecture, inputs, with_rows=False).images
    height, width = inputs["image_sizes"][0].tolist()
    assert (height, width) == (8, 13)
    crops = torch.arange(1, 3)[None, :, None, None].expand(
        1, 2, 4, 4
    )  # one row of two crops of 4 x 4 patches
    grid = unpad_image(crops.permute(0, 2, 1, 3).reshape(1, 4, 8), (height, width))[0]
    newline = torch.full((len(grid), 1), NEWLINE)
    expected = torch.cat((torch.zeros(16, dtype=torch.long), torch.cat((grid, newline), dim=1).flatten()))
    assert torch.equal(image.frames.labels, expected)
    assert image.frames.tokens == 16


def test_sensitivity_is_that_of_the_projector(family):
    model, architecture = supported_model(make_model(family))
    encoded = encode_images(model, architecture, make_inputs(model, family), with_rows=True)
    projector = architecture.projector(model.model)
    expected = zeroth_order_sensitivity(
        encoded.entering, projector, generator=torch.Generator().manual_seed(5)
    )
    found = Sensitivity(model, architecture, seed=5).of(encoded, "sampled")
    for image, sensitivity in zip(encoded.images, found, strict=True):
        real = image.rows >= 0
        torch.testing.assert_close(sensitivity[real], expected[image.rows[real]], rtol=1e-3, atol=1e-6)
        assert sensitivity[~real].isnan().all()


def test_new_weights_are_noticed():
    model, architecture = supported_model(make_model("llava"))
    encoded = encode_images(model, architecture, make_inputs(model, "llava"), with_rows=True)
    sensitivity = Sensitivity(model, architecture, seed=0)
    before = sensitivity.of(encoded, "closed_form")[0]
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.weight.mul_(2)
    torch.testing.assert_close(sensitivity.of(encoded, "closed_form")[0], 2 * before)


def test_a_projector_that_is_not_its_weights_is_refused():
    class Quantised(nn.Linear):
        pass

    model, architecture = supported_model(make_model("llava"))
    model.model.multi_modal_projector.linear_2 = Quantised(24, 24)
    encoded = encode_images(model, architecture, make_inputs(model, "llava"), with_rows=True)
    with pytest.raises(UserError, match=r"plain weights but it has a Quantised.*use method='divprune'"):
        Sensitivity(model, architecture, seed=0).of(encoded, "closed_form")


def test_other_models_are_refused_by_name():
    with pytest.raises(
        UserError,
        match="LlamaForCausalLM is not supported: visual tokens can be pruned in LlavaForConditionalGeneration, "
        "LlavaNextForConditionalGeneration, Qwen2VLForConditionalGeneration, Qwen2_5_VLForConditionalGeneration",
    ):
        supported_model(tiny.llama())


def test_a_wrapped_model_is_found():
    model = make_model("llava")
    assert supported_model(nn.Sequential(model))[0] is model
