"""The mathematics policy, with a tiny model in the place of the paper's."""

from datasets import Dataset

from tests.tiny.chats import write_model
from tokenry.alignment import HeterogeneousCredit
from tokenry.recipes.testbeds.math_policy import MathSetting, accuracy, learn
from tokenry.recipes.testbeds.policy_trial import Arm


def test_a_run_is_measured_once_per_generation(tmp_path):
    problems = Dataset.from_dict({"prompt": ["One and one?", "Two and two?"] * 2, "solution": ["2", "4"] * 2})
    setting = MathSetting(
        model=str(write_model(tmp_path)),
        prompts=2,
        samples=2,
        minibatches=2,
        rows=2,
        longest=4,
        buffer=2,
        options=(("use_cpu", True), ("bf16", False), ("dataloader_pin_memory", False)),
    )
    curve = learn(Arm(HeterogeneousCredit()), problems, setting, seed=0)
    assert len(curve) == 2
    assert all(point.entropy > 0 for point in curve)
    assert all(0 <= point.reward <= 1 for point in curve)


def test_the_last_number_counts():
    chat = [{"role": "assistant", "content": "It is 12."}]
    assert accuracy(["so 3 + 4 = 7.", "7 or 8", chat], solution=["7", "7", "12"]) == [1.0, 0.0, 1.0]
