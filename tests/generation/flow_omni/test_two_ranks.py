"""Two processes train a `ContinuousTokenLM`: as one does, and whatever either of them hears, writes or says."""

import pytest
import torch

from tests.fresh_process import run_ranks
from tests.generation.flow_omni.two_ranks import hearing_model, same_shapes

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The weights that both ranks ended each training with."""
    folder = tmp_path_factory.mktemp("two-ranks")
    for rank in run_ranks("tests.generation.flow_omni.two_ranks", str(folder), folder=folder):
        assert rank.returncode == 0, rank.stderr[-3000:]
    return {
        name: [torch.load(folder / f"{name}-{rank}.pt") for rank in (0, 1)]
        for name in ("same_shapes", "every_shape")
    }


def test_two_ranks_learn_as_one_process_does(ended, tmp_path):
    alone = same_shapes(tmp_path).state_dict()
    for found in ended["same_shapes"]:
        for name, weight in alone.items():
            torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-5, msg=name)


def test_ranks_without_speech_or_without_text_end_with_one_model(ended):
    first, second = ended["every_shape"]
    start = hearing_model().state_dict()
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name
        if name.startswith(("language_model.", "encoder.", "scale.")):
            assert torch.equal(weight, start[name]), f"{name} is frozen"
    moved = {name.split(".")[0] for name, weight in first.items() if not torch.equal(weight, start[name])}
    assert {"speech_head", "prenet", "stop", "adapter", "heard_begin", "speech_blank"} <= moved
