"""Every weighing works with every way of training. (DDP, FSDP2: test_distributed.py.)"""

import pytest
import torch

from tests.capabilities import CAPABILITIES, weighings
from tests.finetuning.check_weighing import SAMPLES, SETUPS, check_plain, check_training


def _of_the_data(rows):
    lengths = torch.tensor([len(ids) for ids in rows["input_ids"]])
    return torch.repeat_interleave(0.5 * torch.arange(SAMPLES), lengths)


def _of_prompt_and_response(rows):
    labels = torch.cat([torch.tensor(labels) for labels in rows["labels"]])
    return torch.where(labels == -100, 0.1, 1.0)


MADE = {name: make() for name, make in weighings().items()}
GIVEN = {"DatasetWeights": _of_the_data, "PromptResponseWeights": _of_prompt_and_response}
PLAIN = {"PromptResponseWeights": {"prompt": 0.0}, "OneTokenRollout": {"anchor": 1.0}}
# Learns from no set of tokens alike; test_one_token_rollout compares it with TRL's own.
NEVER_PLAIN = {"DynamicFineTuning"}


@pytest.mark.parametrize("capability", SETUPS)
@pytest.mark.parametrize("name", MADE)
def test_a_weighing_trains_with(tmp_path, record_property, name, capability):
    record_property("capability", [name, capability])
    check_training(MADE[name], capability, tmp_path, GIVEN.get(name))


@pytest.mark.parametrize("name", [name for name in MADE if name not in NEVER_PLAIN])
def test_every_weighing_at_full_share_equals_plain_sft(tmp_path, name):
    check_plain(MADE[name], tmp_path, PLAIN.get(name))


def test_every_capability_has_a_test():
    assert {*SETUPS, "DDP", "FSDP2"} == set(CAPABILITIES)
