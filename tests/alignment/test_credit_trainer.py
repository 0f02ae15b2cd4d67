import inspect
from dataclasses import dataclass

import pytest
import torch
from peft import LoraConfig
from trl import GRPOTrainer
from trl.trainer.grpo_trainer import nanstd

from tests import tiny
from tests.alignment.every_part import EveryPart
from tests.golden import golden_arrays
from tests.tiny.rollouts import grpo_config, grpo_trainer, odd_tokens, prompts, written_rollouts
from tests.tiny.tokenizers import word_tokenizer
from tokenry.alignment import Rollouts, Tempo, TokenCredit, TokenCreditTrainer
from tokenry.alignment.credit import READS_RATIO
from tokenry.alignment.credit_refusals import refuse
from tokenry.alignment.credit_trainer import clip_counts
from tokenry.core.errors import UserError

SITUATIONS = {
    "dapo": {},
    "two iterations": {"num_iterations": 2, "loss_type": "grpo"},
    "one step per generation": {"gradient_accumulation_steps": 4, "loss_type": "bnpo"},
    "batch scale": {"scale_rewards": "batch", "loss_type": "dr_grpo"},
    "sequences": {"importance_sampling_level": "sequence", "loss_type": "luspo"},
    "forking tokens": {"top_entropy_quantile": 0.2, "delta": 3.0, "epsilon_high": 0.28},
    "no clip range": {"loss_type": "cispo", "epsilon_high": 5.0},
    "LoRA and a reference": {"lora": True, "beta": 0.1},
    "brain floats": {"bf16": True},
}


def trained(kind, folder, lora=False, **options):
    others = options.pop("others", {})
    if lora:
        others = others | {
            "peft_config": LoraConfig(
                r=4, target_modules=["v_proj", "up_proj", "down_proj"], init_lora_weights="gaussian"
            )
        }
    trainer = grpo_trainer(kind, folder, others=others, **options)
    trainer.train()
    return trainer


def weights(trainer):
    return {name: parameter.detach() for name, parameter in trainer.model.named_parameters()}


def assert_same(first, second, **close):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], **(close or {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize("situation", SITUATIONS)
def test_with_group_credit_the_weights_are_those_of_grpo_bit_for_bit(situation, tmp_path):
    plain = trained(GRPOTrainer, tmp_path, **SITUATIONS[situation])
    ours = trained(TokenCreditTrainer, tmp_path, others={"credit": "grpo"}, **SITUATIONS[situation])
    assert_same(weights(ours), weights(plain))
    untrained = dict(tiny.llama().named_parameters())
    assert situation == "LoRA and a reference" or any(
        not torch.equal(weights(ours)[name], untrained[name]) for name in untrained
    )


@dataclass(frozen=True, kw_only=True)
class OwnGroups(TokenCredit):
    """The advantages of GRPO, for each token, in the very operations of TRL."""

    @property
    def parts(self):
        return frozenset({"advantages"})

    def advantages(self, rollouts):
        groups = rollouts.rewards.view(-1, 4)
        centred, deviation = groups - torch.nanmean(groups, dim=1)[:, None], nanstd(groups, dim=1)[:, None]
        return (centred / (deviation + 1e-4)).view(-1, 1) * rollouts.of_policy


@pytest.mark.parametrize(
    "situation", [name for name in SITUATIONS if name not in ("sequences", "batch scale")]
)
def test_with_the_same_advantages_for_each_token_the_weights_are_those_of_grpo_bit_for_bit(
    situation, tmp_path
):
    plain = trained(GRPOTrainer, tmp_path, **SITUATIONS[situation])
    ours = trained(TokenCreditTrainer, tmp_path, others={"credit": OwnGroups()}, **SITUATIONS[situation])
    assert_same(weights(ours), weights(plain))


@pytest.mark.parametrize("loss", ["grpo", "bnpo", "dapo", "dr_grpo", "luspo"])
def test_every_part_trains_under_every_loss_with_a_clip_range(loss, tmp_path):
    rule = EveryPart(which=READS_RATIO | {"advantages"})
    # Responses of several lengths: there is padding, where the signal is not a number.
    others = {"rollout_func": written_rollouts}
    trainer = trained(TokenCreditTrainer, tmp_path, others={"credit": rule, **others}, loss_type=loss)
    plain = trained(TokenCreditTrainer, tmp_path, others=others, loss_type=loss)
    assert {call[0] for call in rule.asked} == {*rule.parts, "entropy_signal"}
    assert all(value.isfinite().all() for value in weights(trainer).values())
    assert not torch.equal(*(trainer.model.lm_head.weight for trainer in (trainer, plain)))
    assert (trainer.epsilon_low, trainer.epsilon_high) == (0.2, 0.2)


@pytest.mark.parametrize(
    ("options", "batches", "rows", "micro_batches"),
    [
        ({"max_steps": 4}, 4, 4, 4),
        ({"gradient_accumulation_steps": 2, "max_steps": 2}, 2, 8, 4),
        ({"gradient_accumulation_steps": 4, "num_iterations": 2, "max_steps": 2}, 1, 16, 8),
        (
            {
                "steps_per_generation": 1,
                "gradient_accumulation_steps": 2,
                "num_iterations": 4,
                "max_steps": 2,
            },
            1,
            4,
            4,
        ),
    ],
)
def test_statistics_are_taken_once_per_optimisation_batch(options, batches, rows, micro_batches, tmp_path):
    rule = EveryPart(which=READS_RATIO)
    trained(TokenCreditTrainer, tmp_path, others={"credit": rule}, **options)
    signals = rule.calls("entropy_signal")
    assert [len(mask) for _, mask in signals] == [rows] * batches
    assert rule.count("clip_range") == rule.count("redistribute") == micro_batches
    assert all(bool(entropies[mask].gt(0).all()) for entropies, mask in signals)


def test_the_ratio_is_one_at_first_and_advantages_start_anew_in_every_iteration(tmp_path):
    rule = EveryPart(which=READS_RATIO)
    options = {"num_iterations": 2, "steps_per_generation": 1, "max_steps": 2}
    trained(TokenCreditTrainer, tmp_path, others={"credit": rule}, **options)
    (first, ratio, h, low, high), (second, later, *_) = rule.calls("redistribute")
    assert torch.equal(first, second)
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-5)
    assert (later - 1).abs().max() > 1e-3
    assert h.isfinite().all()
    torch.testing.assert_close(low, 0.2 * (1 - 0.5 * h.tanh()))
    torch.testing.assert_close(high, 0.2 * (1 + 0.5 * h.tanh()))


def test_the_reference_of_an_adapter_is_not_taken_for_the_old_policy(tmp_path):
    rule = EveryPart(which=READS_RATIO)
    options = {"beta": 0.1, "lora": True, "steps_per_generation": 2, "max_steps": 3, "learning_rate": 0.1}
    trainer = trained(TokenCreditTrainer, tmp_path, others={"credit": rule}, **options)
    # The third step is the first that learns from the second generation: the policy is still the one that wrote it.
    entropies, mask = rule.calls("entropy_signal")[2]
    assert float(entropies[mask].mean()) == pytest.approx(trainer.state.log_history[2]["entropy"], abs=1e-5)
    assert trainer.state.log_history[2]["kl"] > 1e-4


class _Told:
    """Stands for the forward of TRL: log-probabilities and entropies of a golden file."""

    def __init__(self, log_probs, entropies):
        self.log_probs, self.entropies = log_probs, entropies

    def __call__(self, *_, **__):
        return self.log_probs, self.entropies, None


@dataclass(frozen=True, kw_only=True)
class Written(TokenCredit):
    """Clip ranges and advantages as they stand in a golden file."""

    which: frozenset
    low: torch.Tensor
    high: torch.Tensor
    redistributed: torch.Tensor

    @property
    def parts(self):
        return self.which

    def clip_range(self, h, low, high):
        return self.low, self.high

    def redistribute(self, advantages, ratio, h, low, high):
        return self.redistributed


@pytest.fixture(scope="module")
def golden_trainer(tmp_path_factory):
    trainer = grpo_trainer(
        TokenCreditTrainer, tmp_path_factory.mktemp("golden"), loss_type="bnpo", delta=10.0
    )
    trainer.current_gradient_accumulation_steps = 1
    return trainer


@pytest.mark.parametrize("case", ["c0", "c1", "c2", "c3"])
@pytest.mark.parametrize("sign", ["signed", "official"])
@pytest.mark.parametrize(("clip", "redistribute"), [(0, 0), (1, 0), (1, 1)])
def test_golden_losses_of_hapo_come_out_of_the_loss_of_trl(
    case, sign, clip, redistribute, golden_trainer, monkeypatch
):
    golden = {
        key.split("/", 1)[1]: value
        for key, value in golden_arrays("35-hapo", "dev-hapo.npz").items()
        if key.startswith(f"{case}/")
    }
    low, high, cap = golden["clip_low_high_c"].tolist()
    golden_trainer.args.delta = cap
    golden_trainer.epsilon_low, golden_trainer.epsilon_high = low, high
    key = f"loss_token-mean_clip{clip}_adv{redistribute}/{sign}"
    acting = {"clip_range": clip, "redistribute": redistribute}
    golden_trainer.credit = Written(
        which=frozenset(part for part, acts in acting.items() if acts),
        low=golden[f"{sign}_clip_low"],
        high=golden[f"{sign}_clip_high"],
        redistributed=golden[f"{sign}_adv_redistributed"],
    )
    log_probs = golden["new_logp"].clone().requires_grad_()
    monkeypatch.setattr(
        GRPOTrainer, "_get_per_token_logps_and_entropies", _Told(log_probs, golden["entropy"])
    )
    mask = golden["mask"].long()
    inputs = {
        "prompt_ids": mask[:, :1],
        "prompt_mask": mask[:, :1],
        "completion_ids": mask,
        "completion_mask": mask,
        "advantages": golden["adv_tlga"],
        "old_per_token_logps": golden["old_logp"],
        "entropy_signal": golden[f"h_{sign}"],
    }
    loss = golden_trainer._compute_loss(golden_trainer.model, inputs)
    (gradient,) = torch.autograd.grad(loss, log_probs)
    # The signed means of the file divide by the number of tokens and 1e-8 more.
    exact = 1 + 1e-8 / int(mask.sum()) if sign == "signed" else 1
    torch.testing.assert_close(loss, golden[key] * exact, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient, golden[f"{key}_grad"] * exact, rtol=0, atol=1e-10)


def test_the_temperature_acts_from_the_second_generation_on_and_never_in_evaluation(tmp_path):
    rule = EveryPart(which=frozenset({"temperature"}), factor=1e-4)
    options = {
        "steps_per_generation": 1,
        "max_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "per_device_eval_batch_size": 4,
    }
    trainer = grpo_trainer(
        TokenCreditTrainer, tmp_path, others={"credit": rule, "eval_dataset": prompts(4)}, **options
    )
    trainer.train()
    (seen, mask), *later = rule.calls("entropy_statistics")
    assert len(mask) == 4
    assert not later
    logits, statistics = rule.calls("temperature")[0]
    assert logits.shape == (4, 64)
    assert statistics == pytest.approx(float(seen[mask].mean()))
    assert rule.count("temperature") <= 6, (
        "one for each token of the second generation, none for those of evaluation"
    )
    # Under a temperature near 0 all responses to a prompt are the same.
    ids = trainer.generation.ids
    assert torch.equal(ids, ids[:1].expand_as(ids))


def test_the_entropies_behind_the_temperature_are_those_of_the_old_policy(tmp_path):
    rule = EveryPart(which=frozenset({"temperature"}))
    trained(TokenCreditTrainer, tmp_path, others={"credit": rule}, max_steps=5)
    assert [len(mask) for _, mask in rule.calls("entropy_statistics")] == [16]


def test_tool_results_are_in_the_tree_and_never_learned(tmp_path):
    rule = EveryPart(which=READS_RATIO | {"advantages"})
    trainer = trained(
        TokenCreditTrainer, tmp_path, others={"credit": rule, "rollout_func": written_rollouts}, max_steps=1
    )
    ((rollouts,),) = rule.calls("advantages")
    assert not rollouts.of_policy[:, 2].any()
    assert rollouts.of_response[:, 2].any()
    assert not trainer.generation.advantages[:, 2].any()
    own = Tempo().advantages(Rollouts(rollouts.ids, rollouts.of_response, rollouts.rewards, rollouts.groups))
    assert torch.equal(trainer.generation.advantages, own * rollouts.of_policy)
    assert not any(mask[:, 2].any() for _, mask in rule.calls("entropy_signal"))


def test_what_is_logged(tmp_path):
    logs = trained(
        TokenCreditTrainer, tmp_path, others={"credit": "tempo"}, learning_rate=0.1
    ).state.log_history
    assert {"credit/branch_share", "credit/depth_alone", "credit/tree_share"} <= logs[0].keys()
    assert 0 < logs[0]["credit/tree_share"] < 1
    shares = [[log[f"clip_share/decile_{decile}"] for decile in range(1, 11)] for log in logs[:4]]
    assert shares[0] == [0.0] * 10
    assert 0 < sum(shares[3]) <= 10


def test_shares_by_decile_of_entropy():
    entropies = torch.arange(20, 0, -1).float()
    clipped = entropies > 17
    counts = clip_counts(entropies, clipped)
    assert counts[1].tolist() == [2.0] * 10
    assert counts[0].tolist() == [0.0] * 8 + [1.0, 2.0]
    assert clip_counts(torch.empty(0), torch.empty(0, dtype=torch.bool)).tolist() == [[0.0] * 10] * 2


def test_evaluation_has_token_advantages_too(tmp_path):
    rule = EveryPart(which=READS_RATIO | {"advantages"})
    trainer = grpo_trainer(
        TokenCreditTrainer,
        tmp_path,
        others={"credit": rule, "eval_dataset": prompts(4)},
        per_device_eval_batch_size=4,
    )
    assert torch.isfinite(torch.tensor(trainer.evaluate()["eval_loss"]))
    assert rule.count("entropy_signal") == rule.count("advantages") == 4
    assert trainer.generation is None


async def waiting(completion_ids, **columns):
    return odd_tokens(completion_ids)


def test_asynchronous_and_several_rewards_keep_their_names(tmp_path):
    trainer = grpo_trainer(
        TokenCreditTrainer, tmp_path, reward=[odd_tokens, waiting], max_steps=1, reward_weights=[1.0, 2.0]
    )
    trainer.train()
    assert {"rewards/odd_tokens/mean", "rewards/waiting/mean"} <= trainer.state.log_history[0].keys()
    torch.testing.assert_close(
        trainer.generation.rewards.mean().item(),
        trainer.state.log_history[0]["rewards/waiting/mean"] * 3,
        rtol=0,
        atol=1e-5,
    )


def silent(completions, **_):
    return None


def short(completions, **_):
    return [0.0] * (len(completions) - 1)


async def late_and_short(completions, **_):
    return [0.0]


def partly_silent(completions, **_):
    return [None, *[0.0] * (len(completions) - 1)]


def endless(completions, **_):
    return [float("inf")] * len(completions)


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        (
            silent,
            "the reward function silent returned None: it must return a list of one number per completion.",
        ),
        (
            short,
            "the reward function short returned 15 numbers for 16 completions: it must return one for each.",
        ),
        (late_and_short, "the reward function late_and_short returned 1 numbers for 16 completions"),
        (partly_silent, "no reward function gave a number for response 0 of a generation"),
        (endless, "the reward of row 0 is inf: rewards must be finite numbers."),
    ],
)
def test_bad_rewards_are_refused(reward, words, tmp_path):
    trainer = grpo_trainer(TokenCreditTrainer, tmp_path, reward=reward)
    with pytest.raises(UserError) as refused:
        trainer.train()
    assert words in str(refused.value)


CLIPS = EveryPart(which=frozenset({"clip_range"}))
REDISTRIBUTES = EveryPart(which=frozenset({"redistribute"}))
HEATS = EveryPart(which=frozenset({"temperature"}))


@pytest.mark.parametrize(
    ("credit", "options", "words"),
    [
        (CLIPS, {"gradient_accumulation_steps": 4}, "which is 1 as there is one optimiser step per generation (gradient_accumulation_steps=4, steps_per_generation=4, num_iterations=1)"),
        (REDISTRIBUTES, {"gradient_accumulation_steps": 8}, "raise steps_per_generation or num_iterations"),
        (CLIPS, {"gradient_accumulation_steps": 3}, "make steps_per_generation a multiple of gradient_accumulation_steps"),
        (CLIPS, {"loss_type": "cispo"}, "loss_type='cispo' has no clip range"),
        (CLIPS, {"loss_type": "sapo"}, "loss_type='sapo' has no clip range"),
        (REDISTRIBUTES, {"loss_type": "vespo"}, "loss_type='vespo' has no clip range"),
        (REDISTRIBUTES, {"importance_sampling_level": "sequence"}, "set importance_sampling_level='token'"),
        (HEATS, {"use_vllm": True}, "which use_vllm does not let it do"),
        (HEATS, {"use_transformers_continuous_batching": True}, "which use_transformers_continuous_batching does not"),
        (Tempo(), {"scale_rewards": "none"}, "scales its own advantages, so scale_rewards='none' would change nothing"),
        (Tempo(), {"multi_objective_aggregation": "normalize_then_sum"}, "needs one reward per response"),
        ("tempi", {}, "did you mean 'tempo'?"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_a_model_is_loaded(credit, options, words, tmp_path):
    with pytest.raises(UserError) as refused:
        TokenCreditTrainer(
            "no/such-model",
            odd_tokens,
            args=grpo_config(tmp_path, **options),
            train_dataset=prompts(),
            credit=credit,
        )
    assert words in str(refused.value)
    assert str(refused.value).rstrip(".").count(". ") == 0


def test_what_is_no_credit_is_refused():
    with pytest.raises(UserError, match="credit must be a TokenCredit"):
        refuse(3, {})


def test_a_temperature_with_rollouts_of_the_user_is_refused(tmp_path):
    with pytest.raises(UserError, match="which rollout_func does not let it do"):
        grpo_trainer(TokenCreditTrainer, tmp_path, others={"credit": HEATS, "rollout_func": written_rollouts})


@pytest.mark.parametrize(
    "method", ["_compute_loss", "_calculate_rewards", "_get_per_token_logps_and_entropies"]
)
def test_another_trl_is_refused_by_name(method, tmp_path, monkeypatch):
    monkeypatch.setattr(GRPOTrainer, method, lambda self, other: None)
    with pytest.raises(UserError) as refused:
        grpo_trainer(TokenCreditTrainer, tmp_path)
    assert f"another GRPOTrainer.{method} than token credit knows: install trl 1.8 to 1.16" in str(
        refused.value
    )


def test_arguments_are_those_of_trl_and_credit():
    ours, theirs = (inspect.signature(kind).parameters for kind in (TokenCreditTrainer, GRPOTrainer))
    assert list(ours) == [*theirs, "credit"]


def test_arguments_may_be_given_by_position(tmp_path):
    trainer = TokenCreditTrainer(
        tiny.llama(), odd_tokens, grpo_config(tmp_path), prompts(), None, word_tokenizer(), credit=Tempo()
    )
    assert trainer.credit == Tempo()
