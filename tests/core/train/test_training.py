"""Any module is trained by its own loss, resumed exactly, and left as it was but for its weights."""

import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from tests.core.train.two_processes import regression
from tests.fresh_process import run_ranks
from tokenry.core.errors import UserError
from tokenry.core.train.adamw import AdamWSettings, PartOptimiser
from tokenry.core.train.training import LoopConfig, Training


class Tied(nn.Module):
    """Two names for one matrix, dropout, and a config that no Trainer knows what to do with."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.config = object()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, rows):
        return self.second(nn.functional.dropout(self.first(rows), 0.5, self.training))


class Rows:
    def __getitem__(self, number):
        return {"rows": torch.full((2, 4), float(number + 1))}


def made(module=None, fingerprint="one", callbacks=(), arguments=None, **changed):
    module = module or Tied()
    config = LoopConfig(
        **({"steps": 6, "learning_rate": lambda step: 0.01 / (step + 1), "save_every": 2} | changed)
    )

    def loss(batch):
        rows = module(batch["rows"])
        return {"loss": rows.square().mean(), "largest": rows.max()}

    return module, Training(module, loss, Rows(), config, fingerprint, callbacks, **(arguments or {}))


def same(one, other):
    return all(torch.equal(weight, other.state_dict()[name]) for name, weight in one.state_dict().items())


def stopped(what, share):
    if share > 0.7:
        raise KeyboardInterrupt


def test_a_resumed_training_ends_as_if_it_had_not_stopped(tmp_path):
    whole, training = made()
    training.run()
    _, killed = made()
    with pytest.raises(KeyboardInterrupt):
        killed.run(tmp_path, progress=stopped)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]
    resumed, again = made()
    again.run(str(tmp_path), resume=True)
    assert same(whole, resumed)
    assert again.history == training.history
    assert list(again.history) == ["learning_rate", "loss", "largest"]
    assert again.history["learning_rate"] == [0.01 / step for step in range(1, 7)]


def test_a_checkpoint_without_the_state_of_its_optimiser_keeps_the_learning_rate(tmp_path):
    made()[1].run(tmp_path)
    checkpoint = tmp_path / "checkpoint-6"
    for state in ("optimizer.pt", "scheduler.pt"):
        (checkpoint / state).unlink()
    _, longer = made(steps=8)
    longer.run(tmp_path, resume=True)
    assert longer.history["learning_rate"] == [0.01 / step for step in range(1, 9)]


def test_a_checkpoint_that_was_not_written_to_its_end_does_not_count(tmp_path):
    whole, training = made()
    training.run(tmp_path)
    (tmp_path / "checkpoint-6" / "trainer_state.json").write_text('{"epo')
    anew, again = made()
    again.run(tmp_path)
    assert same(whole, anew)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    made()[1].run(tmp_path)
    (tmp_path / "checkpoint-6" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"checkpoint-6 is damaged .*: remove it to begin anew"):
        made()[1].run(tmp_path, resume=True)


def test_a_begun_training_is_resumed_only_when_asked_for_and_only_by_its_own(tmp_path):
    made()[1].run(tmp_path)
    with pytest.raises(UserError, match="holds a training that was begun: resume it"):
        made()[1].run(tmp_path)
    with pytest.raises(UserError, match="belongs to a training with another model"):
        made(fingerprint="other")[1].run(tmp_path, resume=True)


def test_a_checkpoint_of_an_earlier_version_is_refused(tmp_path):
    made()[1].run(tmp_path)
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (tmp_path / "checkpoint-6" / "model.safetensors").rename(earlier / "checkpoint.safetensors")
    with pytest.raises(UserError, match="was written by an earlier version"):
        made()[1].run(earlier, resume=True)
    with pytest.raises(UserError, match="holds a training that was begun"):
        made()[1].run(earlier)


def test_accumulated_batches_are_one_step():
    module = nn.Linear(4, 1)
    expected = nn.Linear(4, 1)
    expected.load_state_dict(module.state_dict())
    losses = [expected(Rows()[number]["rows"]).square().mean() for number in range(4)]
    adamw = AdamWSettings(max_gradient_norm=1e6)
    optimizer = torch.optim.AdamW(
        [{"params": [expected.weight]}, {"params": [expected.bias], "weight_decay": 0.0}],
        lr=0.1, betas=(0.9, 0.95), weight_decay=0.01,
    )  # fmt: skip
    (sum(losses) / 4).backward()
    optimizer.step()
    _, training = made(module, steps=1, batches_per_step=4, learning_rate=lambda step: 0.1, adamw=adamw)
    training.run()
    assert training.history["loss"] == pytest.approx([sum(losses).item() / 4])
    for weight, other in zip(module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(weight, other)


def test_mixed_precision_and_the_trainer_leave_no_trace():
    module, training = made(bfloat16=True)
    forward, config = module.forward, module.config
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    training.run()
    drawn = random.random(), np.random.rand(), torch.rand(1)
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    assert drawn == (random.random(), np.random.rand(), torch.rand(1))
    assert (module.forward, module.config) == (forward, config)
    assert module(torch.ones(1, 4)).dtype == torch.float32
    assert all(weight.grad is None for weight in module.parameters())
    full = made()[1]
    full.run()
    assert training.history["loss"] != full.history["loss"]
    assert training.history["loss"] == pytest.approx(full.history["loss"], rel=0.05)


def test_what_is_recorded_is_told_to_trackers():
    seen = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs, **_):
            seen.append(dict(logs))

    told_every_two = {"logging_strategy": "steps", "logging_steps": 2}
    _, training = made(callbacks=[Tracker()], arguments=told_every_two, steps=4)
    training.run()
    losses, largest = training.history["loss"], training.history["largest"]
    assert [told["loss"] for told in seen[:2]] == pytest.approx([sum(losses[:2]) / 2, sum(losses[2:]) / 2])
    assert [told["largest"] for told in seen[:2]] == largest[1::2]


def test_callbacks_are_called_between_steps():
    seen = []

    class Evaluation(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            seen.append(state.global_step)

    made(callbacks=[Evaluation()])[1].run()
    assert seen == [1, 2, 3, 4, 5, 6]


def test_the_progress_names_stages():
    told = []
    made(steps=2)[1].run(progress=lambda *news: told.append(news), stage=lambda step: f"stage {step}")
    assert told == [("stage 0", 0.0), ("stage 1", 0.5), ("done", 1.0)]


@pytest.mark.parametrize("name", ["steps", "batches_per_step", "save_every"])
def test_a_bad_loop_is_one_sentence(name):
    with pytest.raises(UserError, match=f"{name} must be at least 1, got 0"):
        made(**{name: 0})


class Adversaries(nn.Module):
    """Two parts whose losses share a forward pass, and a third that has the optimiser of the loop."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.decoder, self.critic, self.rest = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 4)

    def losses(self, rows):
        made = self.decoder(rows)
        judged = nn.functional.linear(made, self.critic.weight.detach(), self.critic.bias.detach())
        return (
            made.square().mean() - judged.mean(),
            self.critic(made.detach()).square().mean(),
            self.rest(rows).mean(),
        )


PARTS = {
    "decoder": PartOptimiser(lambda step: 0.1 / (step + 1), AdamWSettings(0.8, 0.9, weight_decay=0.0, max_gradient_norm=0.01)),
    "critic": PartOptimiser(lambda step: 0.02, AdamWSettings(weight_decay=0.3, max_gradient_norm=1e6)),
}  # fmt: skip


def adversaries(**changed):
    module = Adversaries()

    def loss(batch):
        parts = module.losses(batch["rows"])
        return {"loss": sum(parts), "critic": parts[1]}

    config = LoopConfig(
        **({"steps": 6, "learning_rate": lambda step: 0.05, "parts": PARTS, "save_every": 2} | changed)
    )
    return module, Training(module, loss, Rows(), config)


def test_every_part_takes_the_steps_of_an_optimiser_of_its_own():
    module, training = adversaries()
    training.run()
    expected = Adversaries()
    settings = {**PARTS, "rest": PartOptimiser(lambda step: 0.05)}
    optimizers = {}
    for name, part in settings.items():
        child, adamw = getattr(expected, name), part.adamw
        groups = [
            {"params": [child.weight]},
            {"params": [child.bias], "weight_decay": 0.0},
        ]
        betas = (adamw.beta1, adamw.beta2)
        optimizers[name] = torch.optim.AdamW(groups, lr=1.0, betas=betas, weight_decay=adamw.weight_decay)
    for step in range(6):
        for loss in expected.losses(Rows()[step]["rows"]):
            loss.backward()
        for name, optimizer in optimizers.items():
            limit = settings[name].adamw.max_gradient_norm
            nn.utils.clip_grad_norm_(getattr(expected, name).parameters(), limit)
            for group in optimizer.param_groups:
                group["lr"] = settings[name].learning_rate(step)
            optimizer.step()
            optimizer.zero_grad()
    for name, weight in module.state_dict().items():
        torch.testing.assert_close(weight, expected.state_dict()[name])


def test_a_resumed_training_of_parts_ends_as_if_it_had_not_stopped(tmp_path):
    whole, training = adversaries()
    training.run()
    with pytest.raises(KeyboardInterrupt):
        adversaries()[1].run(tmp_path, progress=stopped)
    resumed, again = adversaries()
    again.run(tmp_path, resume=True)
    assert same(whole, resumed)
    assert again.history == training.history


def test_a_part_that_the_module_has_not_is_refused():
    with pytest.raises(UserError, match="the module has no part named painter to give an optimiser"):
        adversaries(parts={"painter": PARTS["critic"]})


@pytest.mark.distributed
def test_two_processes_share_the_batches_of_a_step(tmp_path):
    for ended in run_ranks("tests.core.train.two_processes", str(tmp_path), folder=tmp_path):
        assert ended.returncode == 0, ended.stderr[-3000:]
    module, training = regression(batches_per_step=2)
    training.run()
    weights = load_file(tmp_path / "weights.safetensors")
    torch.testing.assert_close(weights["weight"], module.weight.detach())
    assert weights["loss"].tolist() == pytest.approx(training.history["loss"], rel=1e-5)
