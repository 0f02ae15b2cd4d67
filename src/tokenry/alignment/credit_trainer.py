"""`TokenCreditTrainer`: TRL's `GRPOTrainer`, with a credit rule that says what each token is to blame or to thank for.

    trainer = TokenCreditTrainer(model, reward_funcs, args=GRPOConfig(...), train_dataset=..., credit="tempo+hapo")

The loss is TRL's own: TRL takes advantages of shape (batch, seq), and clips by whatever `epsilon_low` and `epsilon_high` hold. So the
trainer sees to it that TRL finds the numbers of the rule there:

    _calculate_rewards                   keep the rewards of all ranks
    _generate_and_score_completions      advantages of the whole generation; TRL then shuffles and splits them with the rest
    _prepare_inputs                      entropy signal, once per optimisation batch
    _get_per_token_logps_and_entropies   entropies from the pass of the old policy; advantages by the current ratio, just before TRL reads them
    _compute_loss                        clip ranges of the micro-batch
    _generate_single_turn                sampling temperature

With `GroupCredit` the trained weights are those of `GRPOTrainer`, bit for bit.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from trl import GRPOTrainer

from tokenry.alignment.credit import READS_ENTROPY, READS_RATIO, Rollouts, TokenCredit, make_credit
from tokenry.alignment.credit_refusals import CLIPPED_LOSSES, checked_rewards, has_old_policy, refuse
from tokenry.core.errors import UserError
from tokenry.core.tensors.losses import causal_lm
from tokenry.core.train.signatures import with_parameters_of

DECILES = 10


class Generation(NamedTuple):
    """The responses that this rank has generated last, and their advantages before any redistribution.

    Attributes:
        ids: right-padded token ids.
        learned: whether a token is learned from.
    """

    ids: Int[Tensor, "rows tokens"]
    learned: Bool[Tensor, "rows tokens"]
    advantages: Float[Tensor, "rows tokens"]
    rewards: Float[Tensor, "rows"]


class TokenCreditTrainer(GRPOTrainer):
    """`GRPOTrainer` with `credit=`.

    Args:
        *args: as for `GRPOTrainer`.
        credit: a credit rule, or its description: `tempo`, `tempo+hapo:tau=0.1`.
        **kwargs: as for `GRPOTrainer`.

    Attributes:
        generation: the last training generation of this rank; None before the first.
    """

    epsilon_low: Any
    epsilon_high: Any

    @with_parameters_of(GRPOTrainer.__init__)
    def __init__(self, *args: Any, credit: TokenCredit | str = "grpo", **kwargs: Any) -> None:
        self.credit = make_credit(credit) if isinstance(credit, str) else credit
        given = inspect.signature(GRPOTrainer.__init__).bind_partial(self, *args, **kwargs)
        refuse(self.credit, given.arguments)
        if "reward_funcs" in given.arguments:
            given.arguments["reward_funcs"] = checked_rewards(given.arguments["reward_funcs"])
        self.generation: Generation | None = None
        self._rewards_per_function = torch.empty(0)
        self._statistics: Any = None
        self._entropies: list[tuple[Tensor, Tensor]] = []  # and masks, since the last generation began
        self._old_policy_entropies: Tensor | None = None
        self._awaits_old_policy = False
        self._micro_batch: dict[str, Any] | None = None
        super().__init__(*given.args[1:], **given.kwargs)

    # A generation.

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        """Keep the rewards of all ranks."""
        rewards = super()._calculate_rewards(*args, **kwargs)
        silent = rewards.isnan().all(dim=1).nonzero()
        if len(silent):
            raise UserError(
                f"no reward function gave a number for response {int(silent[0])} of a generation: every response needs a reward."
            )
        self._rewards_per_function = rewards
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        """Replace the advantages of the responses by those of their tokens."""
        training = self.model.training
        if training:
            self._freeze_statistics()
        self._awaits_old_policy = has_old_policy(self.args) and bool(self.credit.parts & READS_ENTROPY)
        output = super()._generate_and_score_completions(inputs)
        learned = _learned(output)
        rollouts = self._rollouts(
            output, learned, self.num_generations if training else self.num_generations_eval
        )
        rows = slice(self.accelerator.process_index * len(learned), None)
        if "advantages" in self.credit.parts:
            of_all = self.credit.advantages(rollouts).to(output["advantages"].dtype)
            output["advantages"] = of_all[rows][: len(learned), : learned.shape[1]]
        if self._old_policy_entropies is not None:
            output["entropies"], self._old_policy_entropies = self._old_policy_entropies, None
        for name, value in self.credit.report(rollouts).items():
            self._metrics["train" if training else "eval"][f"credit/{name}"].append(value)
        if training:
            if "entropies" in output:
                self._entropies.append((output["entropies"], learned))
            rewards = rollouts.rewards[rows][: len(learned)]
            advantages = _of_tokens(output["advantages"], learned)
            self.generation = Generation(output["completion_ids"], learned, advantages, rewards)
        return output

    def _rollouts(self, output: Mapping[str, Any], learned: Tensor, group_size: int) -> Rollouts:
        """The generation of all ranks; groups are runs of `group_size` rows, which may go on in the next rank."""
        of_functions = self._rewards_per_function
        rewards = (of_functions * self.reward_weights.to(of_functions)).nansum(dim=1)
        ids, mask, learned = (
            self._of_all_ranks(values)
            for values in (output["completion_ids"], output["completion_mask"], learned)
        )
        groups = torch.arange(len(rewards), device=rewards.device) // group_size
        return Rollouts(ids, mask, rewards, groups, learned)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        """Sample with the temperature of the rule once it has seen a generation; evaluation samples as TRL does."""
        if self._statistics is None or not self.model.training:
            return super()._generate_single_turn(*args, **kwargs)
        with _divided_logits(self.model, lambda logits: self.credit.temperature(logits, self._statistics)):
            return super()._generate_single_turn(*args, **kwargs)

    def _freeze_statistics(self) -> None:
        """Turn the entropies since the last generation into what the next one's temperature needs."""
        seen, self._entropies = self._entropies, []
        if "temperature" not in self.credit.parts or not seen:
            return
        width = max(mask.shape[1] for _, mask in seen)
        entropies, masks = (
            torch.cat([nn.functional.pad(values, (0, width - values.shape[1])) for values in column])
            for column in zip(*seen, strict=True)
        )
        self._statistics = self.credit.entropy_statistics(
            self._of_all_ranks(entropies), self._of_all_ranks(masks)
        )

    # An optimisation batch.

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """Add the entropy signal, from statistics over all micro-batches and ranks that one optimiser step learns from."""
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if not self.credit.parts & READS_RATIO:
            return inputs
        if not self.model.training:
            self._add_signal([inputs])
        elif self._buffered_inputs is not before:
            size = min(self.args.gradient_accumulation_steps, self.args.steps_per_generation)
            for start in range(0, self.args.steps_per_generation, size):
                self._add_signal(self._buffered_inputs[start : start + size])
        return inputs

    def _add_signal(self, micro_batches: list[dict[str, Any]]) -> None:
        entropies = torch.cat([batch["entropies"] for batch in micro_batches])
        mask = torch.cat([_learned(batch) for batch in micro_batches])
        signal = self.credit.entropy_signal(self._of_all_ranks(entropies), self._of_all_ranks(mask))
        first = self.accelerator.process_index * len(mask)
        # Whatever a rule leaves at padding must not meet the mask of the loss as inf or nan.
        own = signal[first : first + len(mask), : mask.shape[1]].masked_fill(~mask, 0.0)
        parts = own.split([len(batch["advantages"]) for batch in micro_batches])
        for batch, part in zip(micro_batches, parts, strict=True):
            batch["entropy_signal"] = part

    # A micro-batch.

    def _compute_loss(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """TRL's loss, with a clip range for each token."""
        # A copy: the buffered batch is learned from again where num_iterations is above 1.
        self._micro_batch = dict(inputs)
        low, high = self.epsilon_low, self.epsilon_high
        if "clip_range" in self.credit.parts:
            self.epsilon_low, self.epsilon_high = self.credit.clip_range(inputs["entropy_signal"], low, high)
        try:
            return super()._compute_loss(model, self._micro_batch)
        finally:
            self._micro_batch = None
            self.epsilon_low, self.epsilon_high = low, high

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        """Ask for entropies in the pass of the old policy, and redistribute in that of the current one."""
        # TRL scores a generation by the old policy first, and by the reference, perhaps with the same model, after that.
        is_old_policy, self._awaits_old_policy = self._awaits_old_policy, False
        if is_old_policy:
            kwargs["compute_entropy"] = True
        scored = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if is_old_policy:
            self._old_policy_entropies = scored[1]
        elif self._micro_batch is not None:
            self._see(self._micro_batch, scored[0].detach(), scored[1].detach())
        return scored

    def _see(self, batch: dict[str, Any], log_probs: Tensor, entropies: Tensor) -> None:
        """What the current policy says about a micro-batch, just before TRL reads its advantages."""
        mask, old = _learned(batch), batch.get("old_per_token_logps")
        if old is None:
            if "temperature" in self.credit.parts and self.model.training:
                self._entropies.append((entropies, mask))
            return
        log_ratio = (log_probs - old).masked_fill(~mask, 0.0)
        if self.importance_sampling_level == "sequence":
            log_ratio = log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        ratio = log_ratio.exp()
        advantages = _of_tokens(batch["advantages"], mask)
        if "redistribute" in self.credit.parts:
            advantages = batch["advantages"] = self.credit.redistribute(
                advantages, ratio, batch["entropy_signal"], self.epsilon_low, self.epsilon_high
            )
        if self.loss_type in CLIPPED_LOSSES:
            clipped = (ratio < 1 - self.epsilon_low) & (advantages < 0)
            clipped |= (ratio > 1 + self.epsilon_high) & (advantages > 0)
            counts = self.accelerator.reduce(clip_counts(entropies[mask], clipped[mask]), reduction="sum")
            shares = (counts[0] / counts[1]).tolist()
            metrics = self._metrics["train" if self.model.training else "eval"]
            for decile, share in enumerate(shares, start=1):
                metrics[f"clip_share/decile_{decile}"].append(share)

    def _of_all_ranks(self, values: Tensor) -> Tensor:
        """The rows of all ranks in their order, padded with 0 to the longest."""
        # Padding would turn the truth values of the shorter rank, and only these, into integers.
        numbers = values.to(torch.uint8) if values.dtype == torch.bool else values
        gathered = self.accelerator.gather(self.accelerator.pad_across_processes(numbers, dim=1))
        return gathered.to(values.dtype)


def clip_counts(
    entropies: Float[Tensor, "tokens"], clipped: Bool[Tensor, "tokens"]
) -> Float[Tensor, "2 deciles"]:
    """How many tokens of each tenth by entropy, the lowest first, are clipped, and how many there are."""
    number = len(entropies)
    rank = torch.empty_like(entropies, dtype=torch.long)
    rank[entropies.argsort(stable=True)] = torch.arange(number, device=entropies.device)
    decile = rank * DECILES // max(1, number)
    counts = [torch.bincount(decile[clipped], minlength=DECILES), torch.bincount(decile, minlength=DECILES)]
    return torch.stack(counts).float()


def _learned(batch: Mapping[str, Any]) -> Bool[Tensor, "rows tokens"]:
    """The tokens that the loss reads: those of the response, without the results of tools."""
    mask = batch["completion_mask"].bool()
    return mask & batch["tool_mask"].bool() if "tool_mask" in batch else mask


def _of_tokens(advantages: Tensor, learned: Tensor) -> Float[Tensor, "rows tokens"]:
    """The advantage of each token, also where TRL has one for each response."""
    return advantages[:, None] * learned if advantages.dim() == 1 else advantages


@contextmanager
def _divided_logits(model: nn.Module, factor: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Divide the logits of the last position by a factor for each row."""

    def divide(module: nn.Module, inputs: Any, output: Any) -> Any:
        logits = output.logits
        divisor = factor(logits[:, -1]).to(logits.dtype)
        output.logits = logits / divisor[:, None, None]
        return output

    handle = causal_lm(model).register_forward_hook(divide)
    try:
        yield
    finally:
        handle.remove()
