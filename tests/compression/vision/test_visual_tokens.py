import copy
import warnings
from contextlib import contextmanager

import pytest
import torch
import transformers
from packaging.version import Version
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import DynamicCache

from tests.tiny.vlms import (
    FAMILIES,
    IMAGE,
    PAD,
    make_inputs,
    make_model,
    needs_token_types,
)
from tokenry.compression.vision import vlm_prompt
from tokenry.compression.vision.diversity import farthest_point_select, sensitivity_diverse_select
from tokenry.compression.vision.image_features import encode_images, supported_model
from tokenry.compression.vision.visual_tokens import prune_visual_tokens
from tokenry.compression.vision.zoo_prune import mlp_sensitivity
from tokenry.core.errors import UserError

POSITIONS_LAST = Version(transformers.__version__) >= Version("5.2")
METHODS = ("divprune", "zoo", "zoo-sampled", "sensitivity", "random")
NEW = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def models():
    """One model of each family; whoever prunes it restores it."""
    return {family: make_model(family) for family in FAMILIES}


@pytest.fixture
def model(models, family):
    return models[family]


def skip_if_positions_are_lost(family, keep_positions=False):
    """What is refused by `test_where_positions_are_lost_...`."""
    if not POSITIONS_LAST and (keep_positions or family.startswith("qwen")):
        pytest.skip("transformers 5.1 forgets positions while it generates")


class ByHand:
    """What each row of a pruned prompt must be: text embeddings with the kept features, without any padding."""

    def __init__(self, model, family, inputs, images, keep_positions):
        self.model = model
        with torch.no_grad():
            features = encode_images(*supported_model(model), inputs, with_rows=False).images
            if family.startswith("qwen"):
                named = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
                positions, _ = model.model.get_rope_index(
                    **{name: inputs[name] for name in named if name in inputs}
                )
            else:
                positions = (inputs["attention_mask"].cumsum(1) - 1)[None]
        pairs = iter(zip(features, images, strict=True))
        self.rows = []
        for row, mask in enumerate(inputs["attention_mask"].bool()):
            ids, columns, embeddings = inputs["input_ids"][row], [], []
            column = 0
            while column < len(ids):
                if not mask[column]:
                    column += 1
                elif ids[column] != IMAGE:
                    columns.append(column)
                    embeddings.append(model.get_input_embeddings()(ids[column]))
                    column += 1
                else:
                    image, pruned = next(pairs)
                    columns += [column + index for index in pruned.kept.tolist()]
                    embeddings += list(image.features[pruned.kept])
                    column += len(image.features)
            where = positions[:, row, columns] if keep_positions else torch.arange(len(columns))[None]
            self.rows.append((torch.stack(embeddings)[None], where[:, None], columns))

    @torch.no_grad()
    def logits(self, row, more=()):
        """Logits of one row, with some generated tokens after it."""
        embeddings, positions, _ = self.rows[row]
        for token in more:
            embeddings = torch.cat((embeddings, self.model.get_input_embeddings()(token)[None, None]), dim=1)
            positions = torch.cat((positions, positions[..., -1:] + 1), dim=-1)
        positions = positions if len(positions) == 3 else positions[0]
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
        return self.model(inputs_embeds=embeddings, position_ids=positions, attention_mask=mask).logits[0]

    def generate(self, row, number):
        tokens = []
        for _ in range(number):
            tokens.append(self.logits(row, tokens)[-1].argmax())
        return torch.stack(tokens)


def forward(model, inputs, **arguments):
    with torch.no_grad():
        return model(**inputs, **arguments)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_keeping_everything_is_the_unpruned_model_bit_for_bit(family, side, dtype, method):
    model = make_model(family, dtype)
    inputs = make_inputs(model, family, side=side, dtype=dtype)
    expected = forward(model, inputs).logits
    with prune_visual_tokens(model, ratio=1.0, method=method):
        assert torch.equal(forward(model, inputs).logits, expected)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("method", METHODS)
def test_a_pruned_forward_is_the_prompt_without_the_dropped_placeholders(model, family, side, method):
    inputs = make_inputs(model, family, images_per_row=(2, 0, 1), side=side)
    with prune_visual_tokens(model, ratio=0.4, method=method) as pruning:
        logits = forward(model, inputs).logits
    by_hand = ByHand(model, family, inputs, pruning.last.images, keep_positions=family.startswith("qwen"))
    for row in range(3):
        columns = by_hand.rows[row][2]
        real = pruning.last.columns[row] >= 0
        assert pruning.last.columns[row][real].tolist() == columns
        torch.testing.assert_close(logits[row][real], by_hand.logits(row), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_positions_are_those_of_the_unpruned_prompt(family, dtype):
    skip_if_positions_are_lost(family, keep_positions=True)
    model = make_model(family, dtype)
    inputs = make_inputs(model, family, dtype=dtype)
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 5e-2, "atol": 2e-2}
    with prune_visual_tokens(model, ratio=0.4, keep_positions=True) as pruning:
        logits = forward(model, inputs).logits
        generated = model.generate(**inputs, **NEW)
    by_hand = ByHand(model, family, inputs, pruning.last.images, keep_positions=True)
    for row in range(2):
        real = pruning.last.columns[row] >= 0
        torch.testing.assert_close(logits[row][real], by_hand.logits(row), **close)
        if dtype == torch.float32:
            assert torch.equal(generated[row, -5:], by_hand.generate(row, 5))


@contextmanager
def watched_positions(model):
    """The positions of every call of the language model: (3 or 1, batch, seq)."""
    seen = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(
            kwargs["position_ids"].view(-1, *kwargs["position_ids"].shape[-2:])[-3:]
        ),
        with_kwargs=True,
    )
    try:
        yield seen
    finally:
        hook.remove()


def test_every_token_has_the_position_that_it_has_without_pruning(model, family):
    skip_if_positions_are_lost(family, keep_positions=True)
    inputs = make_inputs(model, family)
    with watched_positions(model) as unpruned:
        model.generate(**inputs, **NEW)
    with (
        watched_positions(model) as pruned,
        prune_visual_tokens(model, ratio=0.4, keep_positions=True) as pruning,
    ):
        model.generate(**inputs, **NEW)
    columns = pruning.last.columns
    for row in range(2):
        kept = columns[row] >= 0
        assert torch.equal(pruned[0][:, row, kept], unpruned[0][:, row, columns[row, kept]])
    for one, other in zip(pruned[1:], unpruned[1:], strict=True):
        assert torch.equal(one, other)


def test_where_positions_are_lost_while_generating_it_is_said(models, monkeypatch):
    monkeypatch.setattr(vlm_prompt.transformers, "__version__", "5.1.0")
    for family, keep_positions in (("qwen2-vl", None), ("llava", True)):
        model = models[family]
        with (
            prune_visual_tokens(model, keep=2, keep_positions=keep_positions),
            pytest.raises(
                UserError, match=r"transformers 5\.1\.0 forgets the positions.*install transformers 5\.2"
            ),
        ):
            model.generate(**make_inputs(model, family), **NEW)
    with prune_visual_tokens(models["llava"], keep=2):
        models["llava"].generate(**make_inputs(models["llava"], "llava"), **NEW)


def test_decoding_by_hand_goes_on_with_the_positions_of_the_grid(models):
    for family in ("qwen2-vl", "qwen2.5-vl"):
        model, inputs = models[family], make_inputs(models[family], family, images_per_row=(2,))
        with prune_visual_tokens(model, ratio=0.4), watched_positions(model) as positions:
            output = forward(model, inputs, use_cache=True)
            forward(model, {"input_ids": torch.tensor([[5]])}, past_key_values=output.past_key_values)
        assert (positions[1] == positions[0].max() + 1).all(), family


def test_positions_make_a_difference(models):
    model, inputs = models["llava"], make_inputs(models["llava"], "llava")
    logits = {}
    for keep_positions in (False, True):
        with prune_visual_tokens(model, ratio=0.4, keep_positions=keep_positions):
            logits[keep_positions] = forward(model, inputs).logits
    assert not torch.allclose(logits[False], logits[True], atol=1e-4)


def test_positions_with_gaps_are_not_packed_samples(models):
    """Without a cache and without a mask, transformers takes positions with gaps for several samples in a row."""
    model, inputs = models["llava"], make_inputs(models["llava"], "llava", images_per_row=(2,))
    del inputs["attention_mask"]
    with prune_visual_tokens(model, ratio=0.4, keep_positions=True):
        with_cache = forward(model, inputs, use_cache=True).logits
        without = forward(model, inputs, use_cache=False).logits
    torch.testing.assert_close(with_cache, without)


@pytest.mark.parametrize("method", METHODS)
def test_generation_is_the_prompt_followed_by_what_the_short_prompt_says(model, family, method):
    skip_if_positions_are_lost(family)
    inputs = make_inputs(model, family)
    with prune_visual_tokens(model, ratio=0.4, method=method) as pruning:
        generated = model.generate(**inputs, **NEW)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(generated[:, :length], inputs["input_ids"])
    by_hand = ByHand(model, family, inputs, pruning.last.images, keep_positions=family.startswith("qwen"))
    for row in range(2):
        assert torch.equal(generated[row, length:], by_hand.generate(row, 5))


def test_generation_with_everything_kept_is_the_unpruned_generation(model, family):
    skip_if_positions_are_lost(family)
    inputs = make_inputs(model, family)
    expected = model.generate(**inputs, **NEW)
    with prune_visual_tokens(model, ratio=1.0):
        assert torch.equal(model.generate(**inputs, **NEW), expected)


@pytest.mark.parametrize("arguments", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_beams_search_from_the_short_prompt(model, family, arguments):
    skip_if_positions_are_lost(family)
    # One image per row: older transformers mix up the images of a row when they repeat it for its beams.
    inputs = make_inputs(model, family, images_per_row=(1, 1))
    expected = model.generate(**inputs, **NEW, **arguments)
    with prune_visual_tokens(model, ratio=1.0):
        assert torch.equal(model.generate(**inputs, **NEW, **arguments), expected)
    with prune_visual_tokens(model, ratio=0.4):
        found = model.generate(**inputs, **NEW, **arguments)
    assert found.shape == expected.shape


def test_generation_as_a_dictionary_holds_the_whole_sequences(model, family):
    skip_if_positions_are_lost(family)
    inputs = make_inputs(model, family)
    with prune_visual_tokens(model, ratio=0.4):
        plain = model.generate(**inputs, **NEW)
        output = model.generate(**inputs, **NEW, return_dict_in_generate=True, output_scores=True)
    assert torch.equal(output.sequences, plain)
    assert len(output.scores) == 5


def test_generation_takes_the_prompt_as_its_first_argument(models):
    model, inputs = models["llava"], make_inputs(models["llava"], "llava")
    with prune_visual_tokens(model, ratio=0.4):
        expected = model.generate(**inputs, **NEW)
        input_ids = inputs.pop("input_ids")
        assert torch.equal(model.generate(input_ids, **inputs, **NEW), expected)


def test_a_maximal_length_counts_the_prompt_that_was_given(models):
    model, inputs = models["llava"], make_inputs(models["llava"], "llava")
    length = inputs["input_ids"].shape[1]
    with prune_visual_tokens(model, ratio=0.4):
        sequences = model.generate(**inputs, max_length=length + 3, min_length=length + 3, do_sample=False)
        assert sequences.shape[1] == length + 3
        config = copy.deepcopy(model.generation_config)
        config.max_length = config.min_length = length + 4
        assert model.generate(**inputs, generation_config=config).shape[1] == length + 4


def test_prefill_and_cache_are_as_short_as_the_prompt(model, family):
    skip_if_positions_are_lost(family)
    inputs = make_inputs(model, family)
    lengths = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda _, __, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    with prune_visual_tokens(model, ratio=0.4) as pruning:
        model.generate(**inputs, **NEW)
        cache = forward(model, inputs, use_cache=True).past_key_values
    hook.remove()
    short = pruning.last.columns.shape[1]
    dropped = [image.tokens - len(image.kept) for image in pruning.last.images]
    assert short == inputs["input_ids"].shape[1] - sum(dropped[:2])
    assert lengths == [short, 1, 1, 1, 1, short]
    assert cache.get_seq_length() == short


def test_decoding_by_hand_goes_on_from_the_short_prompt(model, family):
    skip_if_positions_are_lost(family)
    inputs = make_inputs(model, family, images_per_row=(2,))
    with prune_visual_tokens(model, ratio=0.4):
        expected = model.generate(**inputs, **NEW)[:, -5:]
        output, found = forward(model, inputs, use_cache=True), []
        for _ in range(5):
            found.append(output.logits[:, -1:].argmax(-1))
            output = forward(model, {"input_ids": found[-1]}, past_key_values=output.past_key_values)
    assert torch.equal(torch.cat(found, dim=1), expected)


def test_decoding_padded_rows_by_hand_goes_on_from_the_mask_of_the_handle(models):
    model, inputs = models["llava"], make_inputs(models["llava"], "llava")
    with prune_visual_tokens(model, ratio=0.4) as pruning:
        expected = model.generate(**inputs, **NEW)[:, -5:]
        output, found = forward(model, inputs, use_cache=True), []
        mask = pruning.last.attention_mask
        for _ in range(5):
            found.append(output.logits[:, -1:].argmax(-1))
            mask = torch.cat((mask, torch.ones(2, 1, dtype=torch.long)), dim=1)
            step = {"input_ids": found[-1], "attention_mask": mask}
            output = forward(model, step, past_key_values=output.past_key_values)
    assert torch.equal(torch.cat(found, dim=1), expected)


def test_the_handle_tells_what_was_kept(model, family):
    inputs = make_inputs(model, family)
    with prune_visual_tokens(model, ratio=0.4, method="zoo") as pruning:
        assert pruning.last is None
        forward(model, inputs)
    encoded = encode_images(*supported_model(model), inputs, with_rows=True)
    first, activation, second = supported_model(model)[1].layers(model.model)
    sensitivity = mlp_sensitivity(
        encoded.entering, first.weight, first.bias, second.weight, "closed_form", activation=activation
    )
    assert len(pruning.last.images) == 3
    for image, found in zip(encoded.images, pruning.last.images, strict=True):
        real = image.rows >= 0
        torch.testing.assert_close(found.sensitivity[real], sensitivity[image.rows[real]])
        assert found.tokens == len(image.features)
        assert found.kept.tolist() == sorted(set(found.kept.tolist()))
        assert 0 <= found.coverage <= 2


def test_images_of_one_size_and_of_many_are_chosen_from_alike(models):
    model = models["qwen2-vl"]
    inputs = make_inputs(model, "qwen2-vl")  # the first and the third image have 6 tokens, the second 8
    for method in ("divprune", "zoo"):
        with prune_visual_tokens(model, keep=3, method=method) as pruning:
            forward(model, inputs)
        encoded = encode_images(*supported_model(model), inputs, with_rows=True)
        for image, found in zip(encoded.images, pruning.last.images, strict=True):
            expected = (
                farthest_point_select(image.features, 3)
                if method == "divprune"
                else sensitivity_diverse_select(image.features, found.sensitivity, 3)
            )
            assert torch.equal(found.kept, expected.sort().values)


def test_every_frame_keeps_as_many_and_every_newline_is_kept(models):
    model = models["llava-next"]
    inputs = make_inputs(model, "llava-next")
    for budget, per_frame in (({"ratio": 0.25}, 4), ({"keep": 15}, None)):
        with prune_visual_tokens(model, method="zoo", **budget) as pruning:
            forward(model, inputs)
        for image in pruning.last.images:
            frames = image.frames.unique().tolist()
            k = per_frame or 15 // (len(frames) - 1)
            counts = {frame: int((image.frames[image.kept] == frame).sum()) for frame in frames}
            newlines = int((image.frames == -9999).sum())
            assert counts == {-9999: newlines, **dict.fromkeys(range(len(frames) - 1), k)}


def test_an_image_with_fewer_tokens_than_the_budget_keeps_them_all(models):
    model = models["qwen2-vl"]
    with prune_visual_tokens(model, keep=7) as pruning:
        forward(model, make_inputs(model, "qwen2-vl"))
    assert [len(image.kept) for image in pruning.last.images] == [6, 7, 6]


def test_the_most_sensitive_tokens_are_the_control_without_diversity(models):
    model = models["llava"]
    with prune_visual_tokens(model, keep=4, method="sensitivity") as pruning:
        forward(model, make_inputs(model, "llava"))
    for image in pruning.last.images:
        dropped = torch.ones(16, dtype=torch.bool)
        dropped[image.kept] = False
        assert image.sensitivity[image.kept].min() >= image.sensitivity[dropped].max()


def test_a_seed_repeats_random_choices_which_differ_from_forward_to_forward(models):
    model, inputs = models["llava"], make_inputs(models["llava"], "llava")
    kept = []
    for seed in (0, 0, 1):
        with prune_visual_tokens(model, keep=4, method="random", seed=seed) as pruning:
            for _ in range(2):
                forward(model, inputs)
                kept.append(torch.cat([image.kept for image in pruning.last.images]).tolist())
    assert kept[0] == kept[2]
    assert kept[1] == kept[3]
    assert kept[0] != kept[1]
    assert kept[0] != kept[4]


def test_labels_are_shortened_and_the_loss_is_that_of_the_kept_text(models):
    for family, model in models.items():
        inputs = make_inputs(model, family, images_per_row=(1, 2), side="right")
        text = (inputs["attention_mask"] == 1) & (inputs["input_ids"] != IMAGE)
        labels = inputs["input_ids"].masked_fill(~text, -100)
        with prune_visual_tokens(model, ratio=0.4) as pruning:
            output = forward(model, inputs, labels=labels)
        short = labels.gather(1, pruning.last.columns.clamp(min=0)).masked_fill(
            pruning.last.columns < 0, -100
        )
        expected = nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), short[:, 1:].flatten())
        torch.testing.assert_close(output.loss, expected)


def test_the_vision_encoder_can_be_trained_through_it(family):
    model = make_model(family).train()
    inputs = make_inputs(model, family, side="right")
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, -100)
    with prune_visual_tokens(model, ratio=0.4, method="zoo"):
        model(**inputs, labels=labels).loss.backward()
    projector = supported_model(model)[1].projector(model.model)
    assert all(weight.grad.abs().sum() > 0 for weight in projector.parameters())


def test_removing_restores_the_model_exactly(model, family):
    inputs = make_inputs(model, family)
    before, inner = set(vars(model)), set(vars(model.model))
    expected, generated = forward(model, inputs).logits, model.generate(**inputs, **NEW)
    pruning = prune_visual_tokens(model, keep=2, method="zoo")
    assert forward(model, inputs).logits.shape != expected.shape
    pruning.remove()
    pruning.remove()
    assert set(vars(model)) == before
    assert set(vars(model.model)) == inner
    assert not model._forward_pre_hooks
    assert torch.equal(forward(model, inputs).logits, expected)
    assert torch.equal(model.generate(**inputs, **NEW), generated)


def test_a_pruning_says_what_is_on_which_model(models):
    model = models["llava"]
    inputs = make_inputs(model, "llava", images_per_row=(2, 1))
    with prune_visual_tokens(model, keep=2, method="zoo") as pruning:
        assert repr(pruning) == "<VisualTokenPruning: zoo, keep=2 on LlavaForConditionalGeneration>"
        forward(model, inputs)
        tokens = sum(image.tokens for image in pruning.last.images)
        last = f"{tokens} to 6 tokens in 3 images"
        assert repr(pruning) == f"<VisualTokenPruning: zoo, keep=2 on LlavaForConditionalGeneration, {last}>"
    assert repr(pruning) == "<VisualTokenPruning: zoo, keep=2 removed from LlavaForConditionalGeneration>"


def test_an_error_inside_the_context_restores_the_model(models):
    model = models["llava"]
    with pytest.raises(ZeroDivisionError), prune_visual_tokens(model, keep=2):
        1 / 0  # noqa: B018
    assert not model._forward_pre_hooks
    assert "generate" not in vars(model)


def test_text_passes_untouched(models):
    for family, model in models.items():
        text = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
        expected, generated = forward(model, text).logits, model.generate(**text, **NEW)
        with prune_visual_tokens(model, keep=2) as pruning:
            assert torch.equal(forward(model, text).logits, expected), family
            assert torch.equal(model.generate(**text, **NEW), generated), family
            assert pruning.last is None


def test_a_deep_copy_is_pruned_by_a_copy(models):
    model, inputs = models["llava"], make_inputs(models["llava"], "llava")
    with prune_visual_tokens(model, keep=2) as pruning:
        expected = forward(model, inputs).logits
        pruning.last = None
        copied = copy.deepcopy(model)
        assert torch.equal(forward(copied, inputs).logits, expected)
        assert copied.generate(**inputs, **NEW).shape == (2, inputs["input_ids"].shape[1] + 5)
        assert pruning.last is None


def test_what_is_saved_is_the_model(models, tmp_path):
    model, inputs = models["llava"], make_inputs(models["llava"], "llava")
    expected = forward(model, inputs).logits
    with prune_visual_tokens(model, keep=2):
        model.save_pretrained(tmp_path)
    assert torch.equal(forward(type(model).from_pretrained(tmp_path), inputs).logits, expected)


def test_an_adapter_may_be_around_the_model():
    model = make_model("llava")
    inputs = make_inputs(model, "llava")
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=True)).eval()
    with prune_visual_tokens(adapted, keep=2) as pruning:
        logits = forward(adapted, inputs).logits
        assert adapted.generate(**inputs, **NEW).shape == (2, inputs["input_ids"].shape[1] + 5)
    assert logits.shape[1] == pruning.last.columns.shape[1] < inputs["input_ids"].shape[1]


def test_arguments_may_be_given_by_place(models):
    model, inputs = models["llava"], make_inputs(models["llava"], "llava")
    with prune_visual_tokens(model, keep=2), torch.no_grad():
        by_name = model(**inputs).logits
        by_place = model(inputs["input_ids"], inputs["pixel_values"], inputs["attention_mask"]).logits
    assert torch.equal(by_place, by_name)


def test_a_prompt_without_a_mask_gets_one_where_rows_come_to_differ(models):
    model = models["qwen2-vl"]
    inputs = make_inputs(model, "qwen2-vl", images_per_row=(1, 1))
    row = inputs["input_ids"][1]
    inputs["input_ids"][0, : len(row)] = torch.cat(
        (inputs["input_ids"][0][inputs["input_ids"][0] != PAD], torch.tensor([3, 4]))
    )
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int()
    del inputs["attention_mask"]
    with prune_visual_tokens(model, keep=2) as pruning:
        forward(model, inputs)
    assert pruning.last.attention_mask.tolist() == (pruning.last.columns >= 0).long().tolist()
    assert not pruning.last.attention_mask.all()


def test_no_warning_is_given(model, family):
    skip_if_positions_are_lost(family)
    with warnings.catch_warnings(record=True) as said, prune_visual_tokens(model, ratio=0.4):
        warnings.simplefilter("always")
        forward(model, make_inputs(model, family))
        model.generate(**make_inputs(model, family), **NEW)
    assert not [str(warning.message) for warning in said if warning.category is UserWarning]


def test_identical_and_blank_images_are_pruned(models):
    model = models["llava"]
    inputs = make_inputs(model, "llava")
    inputs["pixel_values"] = torch.zeros_like(inputs["pixel_values"])
    for method in METHODS:
        with prune_visual_tokens(model, keep=3, method=method) as pruning:
            forward(model, inputs)
        assert [len(image.kept) for image in pruning.last.images] == [3, 3, 3]


@pytest.mark.parametrize("ratio", [0.0, -1.0, 1.5])
def test_a_ratio_is_a_fraction(models, ratio):
    with pytest.raises(UserError, match=rf"ratio must be in \(0, 1\], got {ratio}"):
        prune_visual_tokens(models["llava"], ratio=ratio)


@pytest.mark.parametrize("keep", [0, -3])
def test_at_least_one_token_is_kept(models, keep):
    with pytest.raises(UserError, match=f"keep must be at least 1 visual token, got {keep}"):
        prune_visual_tokens(models["llava"], keep=keep)


@pytest.mark.parametrize("budget", [{}, {"ratio": 0.5, "keep": 3}])
def test_there_is_one_budget(models, budget):
    with pytest.raises(UserError, match=r"give either ratio .* or keep"):
        prune_visual_tokens(models["llava"], **budget)


def test_a_ratio_that_keeps_nothing_of_an_image_is_refused_and_restores_nothing(models):
    with (
        prune_visual_tokens(models["llava"], ratio=0.01),
        pytest.raises(UserError, match=r"ratio 0\.01 keeps none of 16 visual tokens"),
    ):
        forward(models["llava"], make_inputs(models["llava"], "llava"))


def test_methods_are_known_by_name(models):
    with pytest.raises(
        UserError, match="method must be one of divprune, zoo, zoo-sampled, sensitivity, random"
    ):
        prune_visual_tokens(models["llava"], keep=2, method="fastv")


def test_a_model_is_pruned_once(models):
    with prune_visual_tokens(models["llava"], keep=2):
        with pytest.raises(
            UserError, match=r"LlavaForConditionalGeneration is pruned already: call \.remove"
        ):
            prune_visual_tokens(models["llava"], keep=2)
        assert len(models["llava"]._forward_pre_hooks) == 1


def test_positions_on_a_grid_cannot_be_numbered_afresh(models):
    with pytest.raises(UserError, match=r"not possible with Qwen2VLForConditionalGeneration.*M-RoPE"):
        prune_visual_tokens(models["qwen2-vl"], keep=2, keep_positions=False)


def test_other_models_are_refused_by_name():
    with pytest.raises(UserError, match="Linear is not supported: visual tokens can be pruned in Llava"):
        prune_visual_tokens(nn.Linear(2, 2), keep=2)


def test_features_that_are_not_finite_are_refused(models):
    model = models["llava"]
    inputs = make_inputs(model, "llava")
    inputs["pixel_values"][0, 0, 0, 0] = float("nan")
    with prune_visual_tokens(model, keep=2), pytest.raises(UserError, match="features must be finite"):
        forward(model, inputs)


def test_placeholders_must_be_those_of_the_images(models):
    model = models["llava"]
    inputs = make_inputs(model, "llava")
    inputs["pixel_values"] = inputs["pixel_values"][:2]
    with prune_visual_tokens(model, keep=2), pytest.raises(UserError, match="48 image placeholders"):
        forward(model, inputs)


def test_a_prompt_must_come_as_ids(models):
    model = models["llava"]
    inputs = make_inputs(model, "llava")
    inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
    with (
        prune_visual_tokens(model, keep=2),
        pytest.raises(UserError, match="by their placeholders in input_ids"),
    ):
        forward(model, inputs)


def test_images_must_come_as_pixels(models):
    model = models["llava"]
    inputs = make_inputs(model, "llava")
    del inputs["pixel_values"]
    with prune_visual_tokens(model, keep=2), pytest.raises(UserError, match="pass pixel_values"):
        forward(model, inputs, mm_encoder_outputs={"image": object()})


def test_a_conversation_begins_its_own_cache(models):
    model = models["llava"]
    inputs = make_inputs(model, "llava")
    with prune_visual_tokens(model, keep=2):
        cache = forward(model, inputs, past_key_values=DynamicCache(), use_cache=True).past_key_values
        with pytest.raises(UserError, match=r"holds 11 tokens already.*without past_key_values"):
            model.generate(**inputs, past_key_values=cache, **NEW)
        del inputs["pixel_values"]
        with pytest.raises(UserError, match="fewer tokens than it has placeholders"):
            model.generate(**inputs, past_key_values=cache, **NEW)


def test_given_positions_keep_their_meaning(models):
    model = models["llava"]
    inputs = make_inputs(model, "llava")
    inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with (
        prune_visual_tokens(model, keep=2),
        pytest.raises(UserError, match=r"numbers positions afresh.*keep_positions=True"),
    ):
        forward(model, inputs)
    with prune_visual_tokens(model, keep=2, keep_positions=True):
        given = forward(model, inputs).logits
        del inputs["attention_mask"]
        with pytest.raises(UserError, match="without an attention_mask look like packed samples"):
            forward(model, inputs)
        del inputs["position_ids"]
    assert given.shape[1] == 11


def test_the_grid_needs_the_types_of_the_tokens(models):
    model = models["qwen2-vl"]
    if not needs_token_types(model):
        pytest.skip("this transformers finds images by their start tokens")
    inputs = make_inputs(model, "qwen2-vl")
    del inputs["mm_token_type_ids"]
    with prune_visual_tokens(model, keep=2), pytest.raises(UserError, match="mm_token_type_ids are missing"):
        forward(model, inputs)
