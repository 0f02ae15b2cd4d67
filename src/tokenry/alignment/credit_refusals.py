"""What token credit cannot do, refused in one sentence before any model is loaded, and reward functions that answer for what they return."""

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import trl
from torch import nn
from trl import GRPOConfig, GRPOTrainer

from tokenry.alignment.credit import READS_RATIO, TokenCredit
from tokenry.core.errors import UserError

TESTED = "trl 1.8 to 1.16"
CLIPPED_LOSSES = ("grpo", "bnpo", "dapo", "dr_grpo", "luspo")

# What is overridden here must be what TRL calls.
_OVERRIDDEN: Mapping[str, Sequence[str]] = {
    "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
    "_generate_and_score_completions": ("inputs",),
    "_prepare_inputs": ("generation_batch",),
    "_get_per_token_logps_and_entropies": (
        "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy",
    ),
    "_compute_loss": ("model", "inputs"),
    "_generate_single_turn": ("prompt_ids", "images", "multimodal_fields"),
}  # fmt: skip


def refuse(credit: Any, given: Mapping[str, Any]) -> None:
    """Refuse what cannot work, before any model is loaded."""
    if not isinstance(credit, TokenCredit):
        raise UserError(
            f"credit must be a TokenCredit such as GroupCredit(), or its name, got {type(credit).__name__}."
        )
    for method, expected in _OVERRIDDEN.items():
        found = list(inspect.signature(getattr(GRPOTrainer, method, lambda: None)).parameters)[1:]
        if found[: len(expected)] != list(expected):
            raise UserError(
                f"trl {trl.__version__} has another GRPOTrainer.{method} than token credit knows: install {TESTED}."
            )
    args: GRPOConfig = given.get("args") or GRPOConfig()
    if getattr(args, "use_liger_kernel", False) and hasattr(GRPOTrainer, "compute_liger_loss"):
        raise UserError("Liger's loss takes one advantage per response: set use_liger_kernel=False.")
    _refuse_ratio(credit, args)
    if "temperature" in credit.parts:
        engines = {
            "use_vllm": args.use_vllm,
            "use_transformers_continuous_batching": getattr(
                args, "use_transformers_continuous_batching", False
            ),
            "rollout_func": given.get("rollout_func") is not None,
        }
        for engine in (name for name, used in engines.items() if used):
            raise UserError(
                f"{credit.describe()} sets the sampling temperature of each token, which {engine} does not let it do: generate "
                "with transformers, or switch the temperature off."
            )
    if "advantages" in credit.parts:
        if args.scale_rewards != "group":
            raise UserError(
                f"{credit.describe()} scales its own advantages, so scale_rewards={args.scale_rewards!r} would change nothing: "
                "leave it at 'group' and set the options of the credit rule."
            )
        if args.multi_objective_aggregation != "sum_then_normalize":
            raise UserError(
                f"{credit.describe()} needs one reward per response: set multi_objective_aggregation='sum_then_normalize'."
            )


def _refuse_ratio(credit: TokenCredit, args: GRPOConfig) -> None:
    """Refuse arguments under which what reads the ratio of two policies cannot act."""
    if not credit.parts & READS_RATIO:
        return
    steps, accumulated = args.steps_per_generation, args.gradient_accumulation_steps
    counts = f"gradient_accumulation_steps={accumulated}, steps_per_generation={steps}, num_iterations={args.num_iterations}"
    if not _learns_in_steps(args):
        raise UserError(
            f"{credit.describe()} reads the ratio to the policy that generated, which is 1 as there is one optimiser step per "
            f"generation ({counts}): raise steps_per_generation or num_iterations, or switch its clip range and redistribution off."
        )
    if steps % accumulated and accumulated % steps:
        raise UserError(
            f"{credit.describe()} takes statistics over the batch of an optimiser step, which here spans parts of generations "
            f"({counts}): make steps_per_generation a multiple of gradient_accumulation_steps."
        )
    if args.loss_type not in CLIPPED_LOSSES:
        raise UserError(
            f"loss_type={args.loss_type!r} has no clip range for {credit.describe()} to set: use {', '.join(CLIPPED_LOSSES)}."
        )
    if "redistribute" in credit.parts and args.importance_sampling_level == "sequence":
        raise UserError(
            f"{credit.describe()} redistributes by the ratio of each token: set importance_sampling_level='token'."
        )


def has_old_policy(args: GRPOConfig) -> bool:
    """Whether TRL scores a generation by the policy that wrote it."""
    return _learns_in_steps(args) or (args.use_vllm and args.vllm_importance_sampling_correction)


def _learns_in_steps(args: GRPOConfig) -> bool:
    """Whether the policy moves while it learns from one generation."""
    return args.gradient_accumulation_steps % (args.steps_per_generation * args.num_iterations) != 0


def checked_rewards(reward_funcs: Any) -> Any:
    """Let every reward function answer for what it returns."""
    if isinstance(reward_funcs, list):
        return [_checked(reward) for reward in reward_funcs]
    return _checked(reward_funcs)


def _checked(reward: Any) -> Any:
    if isinstance(reward, str | nn.Module) or not callable(reward):
        return reward
    name = _name_of(reward)

    def check(values: Any, expected: int) -> Any:
        if values is None:
            raise UserError(
                f"the reward function {name} returned None: it must return a list of one number per completion."
            )
        if len(values) != expected:
            raise UserError(
                f"the reward function {name} returned {len(values)} numbers for {expected} completions: it must return one for each."
            )
        return values

    async def later(*, completions: list[Any], **columns: Any) -> Any:
        return check(await reward(completions=completions, **columns), len(completions))

    def at_once(*, completions: list[Any], **columns: Any) -> Any:
        return check(reward(completions=completions, **columns), len(completions))

    called = getattr(reward, "__call__", None)  # noqa: B004  (an object may have an asynchronous one)
    is_async = inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(called)
    checked: Any = later if is_async else at_once
    # TRL names the metrics of a reward after its function.
    checked.__name__ = name
    return checked


def _name_of(reward: Any) -> str:
    while isinstance(reward, partial):
        reward = reward.func
    return getattr(reward, "__name__", type(reward).__name__)
