"""The xAR network: published numbers, what may depend on what, every kind of partition, precision, and training by a stock Trainer."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments

from tests.fresh_process import run_ranks
from tests.generation.xar import two_ranks
from tests.generation.xar.released import released_config, released_model, released_weights
from tests.generation.xar.tiny_next_x import next_x, rows
from tests.golden import golden_arrays
from tokenry.core.errors import UserError
from tokenry.core.tensors.ema import WeightAverage
from tokenry.generation import NextXConfig, NextXModel, Partition, flow_path, load_released_next_x
from tokenry.generation.xar.next_x import _rotated
from tokenry.generation.xar.released_weights import with_released_weights

KINDS = ["cell:2", "patch", "subsample:2", "scale:1,2,4", "image"]
LABELS = torch.tensor([0, 4])


def test_noise_velocity_loss_and_gradients_are_the_reference():
    model, data = released_model()
    tokens = model.partitions[0].split(data["images"])
    times = 1 - data["times_entity_major"].double().T  # the authors count from data to noise
    noise = data["noise"].flatten(1, 2)
    noisy, velocity = flow_path(noise, tokens, times[:, model.partitions[0].entity_ids])
    torch.testing.assert_close(noisy, data["noised_tokens"], atol=1e-6, rtol=0)
    torch.testing.assert_close(-velocity, data["target_velocity"], atol=1e-6, rtol=0)
    found = model.train()(data["images"], data["labels"], times, noise)
    torch.testing.assert_close(-found.velocity, data["pred_velocity"], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.loss, data["loss"], atol=1e-4, rtol=0)
    found.loss.backward()
    torch.testing.assert_close(model.head.weight.grad, data["grad_pred_weight"], atol=1e-4, rtol=0)
    torch.testing.assert_close(model.input.weight.grad, data["grad_zproj_weight"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "entities"), [("out_full", None), ("out_cell2", [2]), ("out_cells12", [1, 2])]
)
def test_rotary_positions_are_the_reference(name, entities):
    data = golden_arrays("34-xar", "dev-rope.npz")
    head = int(data["head_dim"])
    model = NextXModel(NextXConfig(hidden_size=2 * head, num_attention_heads=2, num_encoder_layers=1, num_decoder_layers=0))  # fmt: skip
    rotation = model.layout(model.partitions[0], entities).rotation
    found = _rotated(data["q"][:, :, : len(rotation)], rotation)
    torch.testing.assert_close(found, data[name], atol=1e-5, rtol=0)
    if entities is None:
        expected = torch.complex(data["cos"], data["sin"])[:, ::2]  # the authors write each angle twice
        torch.testing.assert_close(rotation, expected, atol=1e-5, rtol=0)


def test_released_weights_are_read_from_a_file(tmp_path):
    expected, data = released_model()
    save_file(released_weights(data), tmp_path / "xar.safetensors")
    found = load_released_next_x(tmp_path / "xar.safetensors", released_config(data))
    assert all(
        torch.equal(weight, found.state_dict()[name]) for name, weight in expected.state_dict().items()
    )


@pytest.mark.parametrize(("size", "millions"), [("B", 172.6), ("L", 608.4), ("H", 1186.0)])
def test_the_sizes_of_the_paper_have_its_parameters(size, millions):
    with torch.device("meta"):
        model = NextXModel(NextXConfig.of_size(size))
    assert round(model.num_parameters() / 1e6, 1) == millions


@pytest.mark.parametrize("kind", KINDS)
def test_no_entity_sees_a_later_one(kind):
    model, partition = next_x([kind]), Partition.named(kind, 4, 4)
    tokens, times = torch.randn(2, partition.tokens, 3), torch.rand(2, partition.entities)
    mask, layout = partition.attention_mask(), model.layout(partition)
    before = model.velocity(tokens, times, LABELS, layout, mask)
    for entity in range(partition.entities):
        start, end = partition.starts[entity : entity + 2]
        tokens_changed, times_changed = tokens.clone(), times.clone()
        tokens_changed[:, start:end] += 1
        times_changed[:, entity] = 1 - times[:, entity]
        after = model.velocity(tokens_changed, times_changed, LABELS, layout, mask)
        assert torch.equal(before[:, :start], after[:, :start])
        assert not torch.allclose(before[:, start:end], after[:, start:end])
        assert end == partition.tokens or not torch.allclose(before[:, end:], after[:, end:])


def test_behind_a_clean_context_an_entity_sees_clean_ones_and_itself():
    model, partition = next_x(clean_context=True), Partition.named("cell:2", 4, 4)
    latents, noise, times = torch.randn(1, 3, 4, 4), torch.randn(1, 16, 3), torch.full((1, 4), 0.3)

    def velocity(latents, noise, times):
        return model(latents, torch.tensor([1]), times, noise, return_loss=False).velocity

    before, third = velocity(latents, noise, times), slice(8, 12)
    other = noise.clone()
    other[:, :8] += 1
    assert torch.equal(before[:, third], velocity(latents, other, times)[:, third]), (
        "noise of others is not seen"
    )
    later = times.clone()
    later[:, :2] = 0.9
    assert torch.equal(before[:, third], velocity(latents, noise, later)[:, third]), "nor is their time"
    changed = partition.merge(partition.split(latents) + torch.eye(16)[0][:, None])
    assert not torch.allclose(before[:, third], velocity(changed, noise, times)[:, third]), "clean ones are"
    with_cell = partition.merge(partition.split(latents) + torch.eye(16)[8][:, None])
    at_noise = torch.zeros(1, 4)
    clean_now = velocity(latents, noise, at_noise), velocity(with_cell, noise, at_noise)
    assert torch.equal(clean_now[0][:, third], clean_now[1][:, third]), (
        "the own entity only as noisy as it is"
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_partition_trains_and_gives_gradients(kind, batch):
    model = next_x([kind]).train()
    model(torch.randn(batch, 3, 4, 4), torch.zeros(batch, dtype=torch.long)).loss.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


def test_one_model_is_trained_on_several_partitions():
    model = next_x(KINDS).train()
    torch.manual_seed(0)
    drawn = {model._drawn_partition().name for _ in range(60)}
    assert drawn == set(KINDS)
    assert model.eval()._drawn_partition().name == KINDS[0], "and measured on the first"
    assert len(model.encoder_positions) == 16 + 1 + 4, (
        "scales have positions of their own, other partitions share them"
    )
    latents, labels = torch.randn(2, 3, 4, 4), LABELS
    for partition in model.partitions:
        assert model(latents, labels, partition=partition).loss.isfinite()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.15), (torch.float64, 1e-5)])
def test_low_precision_stays_close_and_is_added_up_in_float32(dtype, tolerance):
    model = next_x()
    torch.manual_seed(0)
    inputs = torch.randn(2, 3, 4, 4), LABELS, torch.rand(2, 4), torch.randn(2, 16, 3)
    expected = model(*inputs)
    found = model.to(dtype)(inputs[0].to(dtype), *inputs[1:])
    assert found.velocity.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.velocity.float(), expected.velocity, atol=tolerance, rtol=tolerance)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = next_x()(*inputs)
    torch.testing.assert_close(mixed.velocity.float(), expected.velocity, atol=0.15, rtol=0.15)


def test_classes_are_withheld_in_training_alone():
    model = next_x(label_dropout=1.0)
    inputs = torch.randn(2, 3, 4, 4), LABELS, torch.rand(2, 4), torch.randn(2, 16, 3)
    unknown = (inputs[0], torch.full((2,), 5), *inputs[2:])
    assert torch.equal(model.train()(*inputs).velocity, model(*unknown).velocity)
    assert not torch.allclose(model.eval()(*inputs).velocity, model(*unknown).velocity)


def test_times_are_cut_to_thousandths_unless_they_are_to_be_continuous():
    inputs = torch.randn(1, 3, 4, 4), torch.tensor([1])

    def velocity(model, t):
        return model.velocity(torch.ones(1, 16, 3), torch.full((1, 4), t), inputs[1], model.layout(model.partitions[0]))  # fmt: skip

    for continuous in (False, True):
        model = next_x(continuous_time=continuous)
        assert torch.allclose(velocity(model, 0.50049), velocity(model, 0.50011), atol=1e-7) is not continuous


def test_gradient_checkpointing_changes_nothing():
    inputs = torch.randn(2, 3, 4, 4), LABELS, torch.rand(2, 4), torch.randn(2, 16, 3)
    gradients = []
    for checkpointing in (False, True):
        model = next_x(label_dropout=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(*inputs).loss.backward()
        gradients.append([weight.grad for weight in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_a_saved_model_is_loaded_as_it_was(tmp_path):
    model = next_x(["cell:2", "scale:1,2,4"])
    model.save_pretrained(tmp_path)
    found = NextXModel.from_pretrained(tmp_path)
    assert [partition.name for partition in found.partitions] == ["cell:2", "scale:1,2,4"]
    inputs = torch.randn(2, 3, 4, 4), LABELS, torch.rand(2, 4), torch.randn(2, 16, 3)
    assert torch.equal(model(*inputs).velocity, found(*inputs).velocity)


def trained(folder, steps, average=None, resume=None, **options):
    arguments = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=2, learning_rate=1e-2, lr_scheduler_type="constant", save_steps=2,
        report_to=[], use_cpu=True, disable_tqdm=True, seed=0, **options,
    )  # fmt: skip
    callbacks = [] if average is None else [average]
    trainer = Trainer(
        next_x(dropout=0.1), arguments, train_dataset=rows(), eval_dataset=rows(), callbacks=callbacks
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_a_stock_trainer_trains_evaluates_averages_and_resumes(tmp_path):
    averages = WeightAverage(0.5), WeightAverage(0.5)
    whole = trained(tmp_path / "whole", 4, averages[0])
    assert whole.evaluate()["eval_loss"] > 0
    trained(tmp_path / "parts", 2, WeightAverage(0.5))
    resumed = trained(tmp_path / "parts", 4, averages[1], resume=True)
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(weight, resumed.model.state_dict()[name])
    torch.testing.assert_close(averages[0].averages, averages[1].averages)
    decayed = whole.get_decay_parameter_names(whole.model)
    assert not [name for name in decayed if "norm" in name or "bias" in name], "none on vectors"


def test_batches_are_accumulated(tmp_path):
    trainer = trained(tmp_path, 2, gradient_accumulation_steps=2, save_strategy="no", bf16=True)
    assert trainer.state.global_step == 2


@pytest.mark.distributed
@pytest.mark.newer("transformers")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_end_with_the_weights_and_averages_of_one(strategy, tmp_path):
    for ended in run_ranks("tests.generation.xar.two_ranks", str(tmp_path), strategy, folder=tmp_path):
        assert ended.returncode == 0, ended.stderr[-3000:]
    expected = two_ranks.trained(tmp_path / "one")
    for rank in (0, 1):
        found = load_file(tmp_path / f"{strategy}-{rank}.safetensors")
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def without(weights, name):
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: next_x()(torch.zeros(1, 2, 4, 4), torch.tensor([0])), "the latents have 2 channels, and the model takes 3"),
        (lambda: next_x()(torch.zeros(1, 3, 4, 6), torch.tensor([0])), "the latents have a grid of 4 × 6, and the partition cell:2 is one of 4 × 4"),
        (lambda: next_x()(torch.zeros(1, 3, 4, 4), torch.tensor([6])), "a class must be from 0 to 4, or 5 for none, got 6"),
        (lambda: next_x()(torch.zeros(1, 3, 4, 4), torch.tensor([-1])), "a class must be from 0 to 4, or 5 for none, got -1"),
        (lambda: next_x()(torch.zeros(1, 3, 4, 4), torch.tensor([0]), torch.full((1, 4), 2.0)), "a time must be in [0, 1]"),
        (lambda: next_x(["cell:3"]), "a grid of 4 × 4 cannot be cut into cells of 3"),
        (lambda: next_x([]), "give at least one partition"),
        (lambda: NextXConfig(hidden_size=20, num_attention_heads=4), "hidden_size must be a multiple of 4 · num_attention_heads = 16: heads are turned by row and by column in pairs; got 20"),
        (lambda: NextXConfig(classes=0), "classes must be at least 1, got 0"),
        (lambda: NextXConfig(label_dropout=1.5), "label_dropout must be in [0, 1], got 1.5"),
        (lambda: NextXConfig.of_size("XL"), "size must be one of tiny, B, L, H, got 'XL'"),
        (lambda: load_released_next_x(__file__, NextXConfig.of_size("tiny")), "is no safetensors file"),
        (lambda: next_x().layout(Partition.named("scale:1,4", 4, 4)), "the model was not made for a scale of 1: give the partition scale:1,4 to its configuration"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_in_a_sentence(call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call()


def test_weights_of_another_model_are_refused():
    data = golden_arrays("34-xar", "dev-train.npz")
    model, weights = NextXModel(released_config(data)), released_weights(data)
    with pytest.raises(UserError, match="the released weights do not fit the configuration"):
        with_released_weights(model, without(weights, "w/pred.bias".removeprefix("w/")))
    small = NextXModel(released_config(data, height=8, width=8, partitions=["cell:4"]))
    with pytest.raises(UserError, match="the released positions are 256, and the grid has 64 tokens"):
        with_released_weights(small, weights)


def test_every_block_starts_as_the_identity():
    model = NextXModel(
        NextXConfig.of_size("tiny", channels=1, height=4, width=4, partitions=["cell:2"], classes=2)
    )
    assert not any(layer.modulation.linear.weight.any() for layer in model.layers)
    assert all(layer.qkv.weight.std() > 0.05 for layer in model.layers)
    assert 0.01 < model.encoder_positions.std() < 0.03
