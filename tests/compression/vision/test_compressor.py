"""A compressor inside tiny LLaVA and LLaVA-NeXT models with random weights: what it carries, learns, and leaves behind."""

import copy
import dataclasses

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)

from tokenry.compression.vision.compressor import (
    attach_compressor,
    load_compressor,
    question_tokens,
    save_compressor,
)
from tokenry.compression.vision.quecc import CompressorConfig, QueCC, TokenPackerCompressor
from tokenry.core.errors import UserError

IMAGE, PAD = 60, 0
PATCHES = 16
LAYERS = (1, 2)
CONFIG = CompressorConfig(
    hidden_size=16, text_hidden_size=24, grid_size=4, kernel_size=2, num_levels=2, num_attention_heads=2
)
ONE_TOKEN = dataclasses.replace(CONFIG, kernel_size=4)
VISION = CLIPVisionConfig(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=8,
    patch_size=2,
)
TEXT = LlamaConfig(
    vocab_size=64, hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=256, pad_token_id=PAD, bos_token_id=1, eos_token_id=None, initializer_range=0.2,
)  # fmt: skip


def llava():
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=VISION, text_config=TEXT, image_token_id=IMAGE, image_seq_length=PATCHES)
    ).eval()


def llava_next():
    torch.manual_seed(0)
    return LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            vision_config=VISION,
            text_config=TEXT,
            image_token_id=IMAGE,
            image_grid_pinpoints=[[16, 8], [8, 16]],
        )
    ).eval()


def compressor(kind=QueCC, config=CONFIG):
    torch.manual_seed(1)
    return kind(config)


def batch(*rows, side="left", images=None):
    """Rows of ids, `"image"` for an image; padded, with random pixels."""
    spelled = [
        [t for part in row for t in ([IMAGE] * PATCHES if part == "image" else [part])] for row in rows
    ]
    width = max(map(len, spelled))
    ids, mask = [], []
    for row in spelled:
        padding = [PAD] * (width - len(row))
        ids.append(padding + row if side == "left" else row + padding)
        ones = [1] * len(row)
        mask.append(padding + ones if side == "left" else ones + padding)
    count = sum(part == "image" for row in rows for part in row) if images is None else images
    pixels = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "pixel_values": pixels}


TWO_ROWS = ([1, "image", 7, 8, 9], [1, 5, "image", 6, "image", 11, 12])


@pytest.mark.parametrize("kind", [QueCC, TokenPackerCompressor])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_model_carries_the_compressed_tokens_of_every_image(kind, side):
    model = llava()
    with attach_compressor(model, compressor(kind), feature_layers=LAYERS):
        out = model(**batch(*TWO_ROWS, side=side))
    assert out.logits.shape[:2] == (2, 1 + 1 + 4 + 1 + 4 + 2)
    assert out.image_hidden_states.numel() == 3 * 4 * 24


def test_the_projector_reads_what_the_compressor_makes_of_the_tower_and_the_question():
    model, ours = llava(), compressor()
    inputs = batch([1, "image", 7, 8, 9])
    with attach_compressor(model, ours, feature_layers=LAYERS):
        got = model(**inputs).image_hidden_states
    tower = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
    states = [each[:, 1:] for each in tower.hidden_states]
    question = torch.tensor([[7, 8, 9]])
    text = model.model.language_model(input_ids=question).last_hidden_state[:, -1:]
    by_hand = ours(states[-2], torch.cat([states[1], states[2]], -1), text)
    torch.testing.assert_close(got, model.model.multi_modal_projector(by_hand).reshape(got.shape))


@pytest.mark.parametrize("encoder", ["last_hidden_state", "mean_embedding"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_neighbours_do_not_change_what_a_row_says(encoder, side):
    model = llava()
    together = batch(*TWO_ROWS, side=side)
    alone = batch(TWO_ROWS[0])
    alone["pixel_values"] = together["pixel_values"][:1]
    with attach_compressor(model, compressor(), encoder, feature_layers=LAYERS):
        expected = model(**alone).logits[0]
        row = model(**together).logits[0]
    got = row[-len(expected) :] if side == "left" else row[: len(expected)]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoder", ["last_hidden_state", "mean_embedding"])
@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_the_question_does_not_change_its_embedding(encoder, padding, side):
    handle = attach_compressor(llava(), compressor(), encoder, feature_layers=LAYERS)
    ids, ones, zeros = torch.tensor([[7, 8, 9]]), torch.ones(1, 3).long(), torch.zeros(1, padding).long()
    padded = torch.cat([zeros, ids] if side == "left" else [ids, zeros], 1)
    mask = torch.cat([zeros, ones] if side == "left" else [ones, zeros], 1)
    torch.testing.assert_close(handle.encode_question(padded, mask), handle.encode_question(ids))


def test_the_mean_of_the_embeddings_is_their_mean():
    model = llava()
    handle = attach_compressor(model, compressor(), "mean_embedding", feature_layers=LAYERS)
    expected = model.get_input_embeddings()(torch.tensor([7, 9])).mean(0)
    torch.testing.assert_close(handle.encode_question(torch.tensor([[7, 9]]))[0, 0], expected)


def test_each_image_of_a_row_is_asked_that_rows_question():
    model = llava()
    inputs = batch([1, "image", "image", 7], [1, "image", "image", 9])
    inputs["pixel_values"] = inputs["pixel_values"][:1].repeat(4, 1, 1, 1)
    with attach_compressor(model, compressor(), feature_layers=LAYERS):
        first, second, third, fourth = model(**inputs).image_hidden_states.reshape(4, -1)
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(third, fourth)
    assert not torch.allclose(first, third, atol=1e-4)


def test_rows_without_an_image_ask_nothing_and_are_left_alone():
    model = llava()
    with attach_compressor(model, compressor(), feature_layers=LAYERS):
        out = model(**batch([1, 5, 6], [1, "image", 7]))
    assert out.logits.shape[:2] == (2, 6)


def test_a_question_can_be_given_beside_the_prompt():
    model = llava()
    with attach_compressor(model, compressor(), feature_layers=LAYERS):
        inputs = batch([1, "image", 7, 8])
        same = model(
            **inputs, question_ids=torch.tensor([[PAD, 7, 8]]), question_mask=torch.tensor([[0, 1, 1]])
        )
        other = model(**inputs, question_ids=torch.tensor([[9]]))
        found = model(**inputs)
    torch.testing.assert_close(same.logits, found.logits)
    assert not torch.allclose(other.logits, found.logits)


@pytest.mark.parametrize(("labels", "end_ids", "expected"), [
    (None, (), [4, 5, 6, 7]),
    ([-100] * 6 + [9, 9], (), [4, 5]),
    (None, (21, 22), [4]),
    ([-100] * 6 + [9, 9], (23,), [4, 5]),
])  # fmt: skip
def test_the_question_is_the_text_between_the_last_image_and_the_answer(labels, end_ids, expected):
    ids = torch.tensor([[1, IMAGE, 2, IMAGE, 20, 21, 22, 23]])
    found = question_tokens(ids, None, labels and torch.tensor([labels]), IMAGE, end_ids)
    assert found[0].nonzero().flatten().tolist() == expected


@pytest.mark.parametrize("kind", [QueCC, TokenPackerCompressor])
def test_training_reaches_the_compressor_and_not_the_question_pass(kind):
    model, ours = llava().train(), compressor(kind)
    model.model.language_model.requires_grad_(False)
    inputs = batch(*TWO_ROWS, side="right")
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, -100)
    labels[:, :-1] = -100
    labels[0, 19] = 9
    with attach_compressor(model, ours, feature_layers=LAYERS):
        assert {id(each) for each in ours.parameters()} <= {id(each) for each in model.parameters()}
        optimizer = torch.optim.AdamW(ours.parameters(), lr=0.01)
        losses = []
        for _ in range(8):
            loss = model(**inputs, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            assert [name for name, each in ours.named_parameters() if each.grad is None] == []
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


def test_gradient_checkpointing_gives_the_same_gradients():
    found = []
    for checkpointed in (False, True):
        model, ours = llava().train(), compressor()
        if checkpointed:
            model.gradient_checkpointing_enable()
        with attach_compressor(model, ours, feature_layers=LAYERS):
            model(**batch(*TWO_ROWS)).logits.square().mean().backward()
        found.append(torch.cat([each.grad.flatten() for each in ours.parameters()]))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("make", [llava, llava_next])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_generation_returns_the_prompt_as_it_came_and_what_follows(make, options):
    model = make()
    inputs = prompt_of(model)
    copies = options.get("num_return_sequences", 1)
    with attach_compressor(model, compressor(), feature_layers=LAYERS) as handle:
        generated = model.generate(**inputs, max_new_tokens=4, do_sample=False, **options)
        short = handle.short_prompt(inputs, "left")
        if not options:
            step_by_step = short
            for _ in range(4):
                logits = model(**step_by_step).logits[:, -1]
                step_by_step = {
                    **step_by_step,
                    "input_ids": torch.cat([step_by_step["input_ids"], logits.argmax(-1, keepdim=True)], 1),
                    "attention_mask": torch.cat(
                        [step_by_step["attention_mask"], torch.ones(len(logits), 1).long()], 1
                    ),
                    **question_of(inputs, handle),
                }
            assert torch.equal(generated[:, -4:], step_by_step["input_ids"][:, -4:])
    prompt = inputs["input_ids"].repeat_interleave(copies, 0)
    assert generated.shape == (len(prompt), prompt.shape[1] + 4)
    assert torch.equal(generated[:, :-4], prompt)


def prompt_of(model):
    """Two rows with an image each, of different shapes in LLaVA-NeXT."""
    inputs = batch([1, "image", 7, 8, 9], [1, 5, "image", 6, 11, 12, 13])
    if "image_grid_pinpoints" not in model.config.to_dict():
        return inputs
    return anyres_batch([1, "image", 7, 8, 9], [1, 5, "image", 6, 11, 12, 13])


def anyres_batch(*rows):
    """Images of 16 x 8 and 8 x 16: two tiles of 16 tokens and the whole; 4 or 8 newlines."""
    lengths, number = (16 + 32 + 8, 16 + 32 + 4), 0
    spelled = []
    for row in rows:
        ids = []
        for part in row:
            if part == "image":
                ids += [IMAGE] * lengths[number % 2]
                number += 1
            else:
                ids.append(part)
        spelled.append(ids)
    width = max(map(len, spelled))
    return {
        "input_ids": torch.tensor([[PAD] * (width - len(row)) + row for row in spelled]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in spelled]),
        "pixel_values": torch.randn(number, 3, 3, 8, 8, generator=torch.Generator().manual_seed(3)),
        "image_sizes": torch.tensor([[16, 8], [8, 16]] * number)[:number],
    }


def question_of(inputs, handle):
    """Keep the question of the first step: what was generated is no part of it."""
    mask = question_tokens(inputs["input_ids"], inputs["attention_mask"], None, IMAGE)
    return {"question_ids": inputs["input_ids"], "question_mask": mask}


def test_dictionaries_and_positional_prompts_are_generated_from_too():
    model, inputs = llava(), batch([1, "image", 7])
    with attach_compressor(model, compressor(), feature_layers=LAYERS):
        plain = model.generate(**inputs, max_new_tokens=2, do_sample=False)
        ids = inputs.pop("input_ids")
        rich = model.generate(ids, **inputs, max_new_tokens=2, do_sample=False, return_dict_in_generate=True)
        positional = model(ids, **inputs).logits
    assert torch.equal(plain, rich.sequences)
    assert positional.shape[1] == 6


def test_limits_of_the_length_count_the_prompt_as_it_came():
    model, inputs = llava(), batch([1, "image", 7])
    with attach_compressor(model, compressor(), feature_layers=LAYERS):
        assert model.generate(**inputs, max_length=18 + 5).shape == (1, 18 + 5)


def test_a_deep_copy_of_the_model_has_a_compressor_of_its_own():
    model, inputs = llava(), batch([1, "image", 7])
    handle = attach_compressor(model, compressor(), feature_layers=LAYERS)
    twin, copied = copy.deepcopy((model, handle))
    expected = model(**inputs).logits
    handle.remove()
    torch.nn.init.zeros_(handle.compressor.clip_attn.out_proj.weight)
    assert torch.equal(twin(**inputs).logits, expected)
    assert twin.generate(**inputs, max_new_tokens=2).shape == (1, 20)
    copied.remove()
    assert torch.equal(twin(**inputs).logits, model(**inputs).logits)


def test_an_adapted_model_is_compressed_inside_its_wrapper():
    inputs = batch([1, "image", 7, 8])
    adapted = get_peft_model(
        llava(), LoraConfig(target_modules=["q_proj"], exclude_modules=".*vision_tower.*")
    )
    with attach_compressor(adapted, compressor(), feature_layers=LAYERS):
        assert adapted(**inputs).logits.shape[1] == 1 + 4 + 2
        assert adapted.generate(**inputs, max_new_tokens=2).shape == (1, 21)


def test_tiles_of_any_resolution_are_compressed_one_by_one():
    model, inputs = llava_next(), anyres_batch([1, "image", 7], [1, "image", "image", 7, 9])
    model(**inputs)  # the prompt is the one that the model asks for
    with attach_compressor(model, compressor(config=ONE_TOKEN), feature_layers=LAYERS):
        out = model(**inputs)
    assert out.logits.shape[1] == 1 + 2 * 3 + 2
    assert out.image_hidden_states.shape == (3 * 3, 24)


def test_text_alone_goes_through_untouched():
    model, ids = llava(), torch.tensor([[1, 5, 6]])
    expected = model(input_ids=ids).logits
    with attach_compressor(model, compressor(), feature_layers=LAYERS):
        assert torch.equal(model(input_ids=ids).logits, expected)
        assert model.generate(input_ids=ids, max_new_tokens=2).shape == (1, 5)


@pytest.mark.parametrize("make", [llava, llava_next])
def test_a_removed_compressor_leaves_the_model_as_it_was(make):
    model = make()
    inputs, names = prompt_of(model), set(model.state_dict())
    before, attributes = model(**inputs).logits, set(vars(model)) | set(vars(model.model))
    handle = attach_compressor(model, compressor(), feature_layers=LAYERS)
    model(**inputs)
    handle.remove()
    handle.remove()
    assert torch.equal(model(**inputs).logits, before)
    assert set(model.state_dict()) == names
    assert set(vars(model)) | set(vars(model.model)) == attributes


def test_an_attached_compressor_says_what_is_on_which_model():
    handle = attach_compressor(llava(), compressor(), feature_layers=LAYERS)
    assert repr(handle) == (
        "<AttachedCompressor: QueCC on LlavaForConditionalGeneration, 16 to 4 tokens per image or tile, "
        f"keys and values of layers {', '.join(map(str, LAYERS))}>"
    )
    handle.remove()
    assert repr(handle) == "<AttachedCompressor: QueCC removed from LlavaForConditionalGeneration>"


def test_a_compressor_in_bfloat16_serves_a_model_in_float32_and_the_other_way_round():
    inputs = batch(*TWO_ROWS)
    for model, ours in ((llava(), compressor().bfloat16()), (llava().bfloat16(), compressor())):
        with attach_compressor(model, ours, feature_layers=LAYERS):
            assert torch.isfinite(model(**inputs).logits).all()


@pytest.mark.parametrize("kind", [QueCC, TokenPackerCompressor])
def test_a_saved_compressor_comes_back_alone(kind, tmp_path):
    ours = compressor(kind, dataclasses.replace(CONFIG, stride=2)).bfloat16()
    save_compressor(ours, tmp_path / "compressor.safetensors")
    back = load_compressor(tmp_path / "compressor.safetensors")
    assert type(back) is kind
    assert back.config == ours.config
    for name, value in ours.state_dict().items():
        assert torch.equal(back.state_dict()[name], value)


def test_a_file_that_is_no_compressor_is_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_text("nothing")
    with pytest.raises(UserError, match="holds no compressor"):
        load_compressor(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        load_compressor(tmp_path / "broken.safetensors")
    with pytest.raises(UserError, match="does not exist"):
        load_compressor(tmp_path / "missing.safetensors")


@pytest.mark.parametrize(("change", "words"), [
    ({"hidden_size": 32}, "hidden_size must be 16, the vision tower's width, got 32"),
    ({"text_hidden_size": 32}, "text_hidden_size must be 24, the language model's width, got 32"),
    ({"grid_size": 8}, "grid_size must be 4, the vision tower's grid, got 8"),
    ({"num_levels": 3}, "num_levels must be 2, the number of feature_layers, got 3"),
])  # fmt: skip
def test_a_compressor_for_another_model_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        attach_compressor(
            llava(), compressor(config=dataclasses.replace(CONFIG, **change)), feature_layers=LAYERS
        )


def test_a_layer_that_the_tower_does_not_have_is_refused():
    with pytest.raises(UserError, match="feature layer 4 does not exist: the tower has 4 hidden states"):
        attach_compressor(llava(), compressor(), feature_layers=(1, 4))


def test_a_model_without_a_tower_is_refused():
    with pytest.raises(UserError, match="LlamaForCausalLM has no vision tower"):
        attach_compressor(LlamaForCausalLM(TEXT), compressor(), feature_layers=LAYERS)


def test_a_second_compressor_is_refused():
    model = llava()
    attach_compressor(model, compressor(), feature_layers=LAYERS)
    with pytest.raises(UserError, match=r"has a compressor already: call remove\(\)"):
        attach_compressor(model, compressor(), feature_layers=LAYERS)


@pytest.mark.parametrize("way", ["forward", "generate"])
def test_a_prompt_without_a_question_is_refused(way):
    model = llava()
    with (
        attach_compressor(model, compressor(), feature_layers=LAYERS),
        pytest.raises(UserError, match="row 1 asks nothing: there is no text between its last image"),
    ):
        (model if way == "forward" else model.generate)(**batch([1, "image", 7], [1, 8, "image"]))


def test_a_prompt_with_another_number_of_placeholders_is_refused():
    model, inputs = llava(), batch([1, "image", 7], images=2)
    with (
        attach_compressor(model, compressor(), feature_layers=LAYERS),
        pytest.raises(
            UserError, match=r"16 image placeholders .* its 2 images need 32, or 8 if they are shortened"
        ),
    ):
        model(**inputs)


def test_embeddings_in_place_of_the_prompt_are_refused():
    model, inputs = llava(), batch([1, "image", 7])
    ids = inputs.pop("input_ids")
    with (
        attach_compressor(model, compressor(), feature_layers=LAYERS),
        pytest.raises(UserError, match="needs the prompt's input_ids, got none"),
    ):
        model(inputs_embeds=model.get_input_embeddings()(ids), **inputs)


def test_features_outside_a_forward_have_no_question():
    model, inputs = llava(), batch([1, "image", 7])
    with attach_compressor(model, compressor(), feature_layers=LAYERS):
        model(**inputs)
        with pytest.raises(UserError, match="needs the embedding of the question"):
            model.get_image_features(inputs["pixel_values"])
