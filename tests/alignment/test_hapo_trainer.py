"""HAPO in `TokenCreditTrainer`: when its temperature acts, what its parts change, and what is refused before a model is loaded."""

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig

from tests import tiny
from tests.tiny.tokenizers import word_tokenizer
from tokenry.alignment import HeterogeneousCredit, TokenCreditTrainer
from tokenry.core.errors import UserError

PROMPTS = Dataset.from_dict({"prompt": ["w1 w2", "w3 w4"] * 4})


def reward(completions, **_):
    """More for longer words, so that rewards differ within a group."""
    return [float(len(text) % 5) for text in completions]


def config(folder, **options):
    default = {
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "steps_per_generation": 2,
        "gradient_accumulation_steps": 1,
        "max_steps": 4,
        "max_completion_length": 5,
        "learning_rate": 1e-2,
        "epsilon_high": 0.28,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return GRPOConfig(output_dir=str(folder), **(default | options))


def trained(folder, credit, **options):
    tokenizer = word_tokenizer()
    model = tiny.llama(vocab_size=len(tokenizer))
    trainer = TokenCreditTrainer(
        model,
        reward,
        args=config(folder, **options),
        train_dataset=PROMPTS,
        eval_dataset=PROMPTS,
        processing_class=tokenizer,
        credit=credit,
    )
    trainer.train()
    return trainer


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def test_the_temperature_acts_from_the_second_generation_on_and_only_while_training(tmp_path, monkeypatch):
    factors = []
    plain = HeterogeneousCredit.temperature

    def seen(self, logits, statistics):
        factors.append(plain(self, logits, statistics))
        return factors[-1]

    monkeypatch.setattr(HeterogeneousCredit, "temperature", seen)
    trained(tmp_path, HeterogeneousCredit(tau=0.5), max_steps=2)
    assert not factors
    trainer = trained(tmp_path, HeterogeneousCredit(tau=0.5), max_steps=4)
    assert factors
    of_tokens = torch.cat(factors)
    assert bool(((of_tokens >= 0.5) & (of_tokens <= 1.5)).all())
    assert float(of_tokens.std()) > 0
    before = len(factors)
    trainer.evaluate()
    assert len(factors) == before


def test_each_part_changes_what_is_learned(tmp_path):
    off = dict.fromkeys(
        ("token_average", "adaptive_clip", "adaptive_advantage", "adaptive_temperature"), False
    )
    control = weights(trained(tmp_path, "grpo", learning_rate=0.1))
    for part in off:
        found = weights(
            trained(tmp_path, HeterogeneousCredit(**(off | {part: True}), tau=0.9), learning_rate=0.1)
        )
        assert not torch.equal(found, control), part


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps_per_generation": 1}, "one optimiser step per generation"),
        ({"loss_type": "cispo"}, "loss_type='cispo' has no clip range"),
        ({"loss_type": "sapo"}, "loss_type='sapo' has no clip range"),
        ({"loss_type": "vespo"}, "loss_type='vespo' has no clip range"),
        ({"importance_sampling_level": "sequence"}, "redistributes by the ratio of each token"),
        (
            {"use_vllm": True},
            "sets the sampling temperature of each token, which use_vllm does not let it do",
        ),
    ],
    ids=str,
)
def test_what_cannot_act_is_refused_before_a_model_is_loaded(tmp_path, options, words):
    with pytest.raises(UserError) as refusal:
        TokenCreditTrainer("no model", reward, args=config(tmp_path, **options), credit="hapo")
    assert words in str(refusal.value)
