"""`PreferenceTrainer`: TRL's `DPOTrainer` with any preference loss, without logits of the whole vocabulary, and with other updates.

    trainer = PreferenceTrainer(model, args=DPOConfig(...), train_dataset=..., loss="L -> W | given W or L")

A preference loss is a weighing of tokens. The loss depends on the model through the log-probabilities of the tokens of a batch alone, so

    ∂loss/∂θ  =  Σ weights[t] · ∂nll[t]/∂θ        weights[t] = −∂loss/∂log π(t)

which is d_w on every token of a chosen response and −d_l on every token of a rejected one. So the tokens are scored without a graph, the
loss and these weights are formed from a handful of sums, and one weighted cross-entropy gives all gradients.

Data, reference model, precomputed references, PEFT and metrics are TRL's: its own `_compute_loss` is called on the scored tokens. Without
`loss`, the loss it returns is the one that is learned, whatever `loss_type` says.
"""

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from trl import DPOConfig, DPOTrainer

from tokenry.alignment.preference_logic import Structure
from tokenry.alignment.preference_losses import PreferenceLoss, Responses, preference_loss
from tokenry.alignment.preference_pairs import require_pairs
from tokenry.alignment.preference_updates import UPDATES, contrastive_tokens
from tokenry.alignment.token_gradients import cosines, head_gradients, head_products
from tokenry.core.errors import UserError, require_one_of
from tokenry.core.tensors.alignment import IGNORED, at_tokens, predicting_rows
from tokenry.core.tensors.losses import OutputHead, output_head, weighted_cross_entropy
from tokenry.core.tensors.row_statistics import row_statistics
from tokenry.core.tensors.token_loss import Backbone, add_token_loss

TESTED = "trl 1.16"

_PARAMETERS = {
    "_compute_loss": ["self", "model", "inputs", "return_outputs"],
    "compute_ref_log_probs": ["self", "model", "inputs"],
    "_precompute_ref_logps": ["self", "dataset", "name", "batch_size"],
}
_NOT_FOR_THE_MODEL = {"completion_mask", "ref_chosen_logps", "ref_rejected_logps"}

TokenScores = dict[str, Float[Tensor, "batch seq"]]
FormLoss = Callable[[TokenScores], Float[Tensor, ""]]


class PreferenceTrainer(DPOTrainer):
    """`DPOTrainer` with `loss=`.

    Args:
        *args: as for `DPOTrainer`.
        loss: name with options (`cpo:sft_weight=0`), formula, structure or loss; None for TRL's own, as `args.loss_type` says.
        update: `plain`; `repaired`, the nearest multipliers with which both log-probabilities move as wanted; or `normalised`. Both
            follow the gradients of the output head, in closed form.
        shared_above: leave out tokens whose gradient by the output head has a higher cosine than this with that of a token of the other
            response; None keeps all.
        **kwargs: as for `DPOTrainer`.

    Raises:
        UserError: another version of TRL than this was made for, or arguments that do not go together.
    """

    def __init__(
        self,
        *args: Any,
        loss: str | Structure | PreferenceLoss | None = None,
        update: str = "plain",
        shared_above: float | int | None = None,
        **kwargs: Any,
    ) -> None:
        _require_known_trl()
        require_one_of(update, list(UPDATES), "update")
        if shared_above is not None and not -1 <= shared_above <= 1:
            raise UserError(f"shared_above is a cosine and must be in [-1, 1], got {shared_above}.")
        self.preference_loss = None if loss is None else preference_loss(loss)
        self.update, self.shared_above = update, shared_above
        given = inspect.signature(DPOTrainer.__init__).bind(self, *args, **kwargs)
        given.arguments["args"] = self._arguments(given.arguments.get("args"))
        if isinstance(given.arguments.get("train_dataset"), Dataset):
            require_pairs(given.arguments["train_dataset"])
        super().__init__(*given.args[1:], **given.kwargs)
        if self._is_vision_dataset:
            raise UserError("PreferenceTrainer reads text, and these data have images: use DPOTrainer.")
        if self.aux_loss_enabled:
            raise UserError(
                "the load-balancing loss of experts is not computed here: set router_aux_loss_coef=0 in the arguments."
            )
        add_token_loss(self.model)

    def _arguments(self, args: DPOConfig | None) -> DPOConfig:
        """The arguments with TRL's beta as that of the loss, for its metrics, and without a reference where none is needed."""
        args = DPOConfig("preference-model") if args is None else copy.copy(args)
        if self.preference_loss is None:
            if not args.beta > 0:
                raise UserError(f"beta must be above 0, got {args.beta}.")
            return args
        if list(args.loss_type) != ["sigmoid"]:
            raise UserError(
                f"the loss is given twice, as loss and as loss_type={args.loss_type}: leave one of them out."
            )
        if args.use_weighting or args.ld_alpha is not None or args.f_divergence_type != "reverse_kl":
            raise UserError(
                "use_weighting, ld_alpha and f_divergence_type change TRL's own losses: leave loss out."
            )
        args.beta = getattr(self.preference_loss, "beta", None) or args.beta
        # Without a reference model to load: references "precomputed" as 0.
        args.precompute_ref_log_probs |= not self.preference_loss.uses_reference
        return args

    @property
    def _is_reference_free(self) -> bool:
        return self.preference_loss is not None and not self.preference_loss.uses_reference

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """Precompute as TRL does, where there is a reference."""
        return (
            dataset if self._is_reference_free else super()._precompute_ref_logps(dataset, name, batch_size)
        )

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        """The loss of a batch, formed inside the model's own forward."""
        pairs = inputs["input_ids"].shape[0] // 2
        responses = inputs["completion_mask"][:, 1:].sum(1)
        if not bool(responses.all()):
            raise UserError(
                "a response has no tokens (or max_length cuts them all off): drop such pairs, or raise max_length."
            )
        if self._is_reference_free:
            references = [torch.zeros(pairs, device=inputs["input_ids"].device)] * 2
        elif self.precompute_ref_logps:
            references = [inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]]
        else:
            references = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        inputs = {**inputs, "ref_chosen_logps": references[0], "ref_rejected_logps": references[1]}
        step = PreferenceTokenLoss(
            inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, IGNORED),
            lambda scores: self._form_loss(scores, inputs),
            self.update,
            self.shared_above,
            self.use_weighting,
        )
        given = {name: value for name, value in inputs.items() if name not in _NOT_FOR_THE_MODEL}
        loss = model(**given, token_loss=step).loss
        if not return_outputs:
            return loss
        with torch.no_grad():
            return loss, model(**given, use_cache=False)

    def _form_loss(self, scores: TokenScores, inputs: dict[str, Any]) -> Float[Tensor, ""]:
        """TRL's loss and metrics of scored tokens, or the loss that was asked for and TRL's metrics."""
        shifted = {name: value[:, 1:].nan_to_num(0.0) for name, value in scores.items()}
        scored = SimpleNamespace(**{**shifted, "is_top1": shifted["is_top1"].bool()}, aux_loss=None)
        with _set(self, "precompute_ref_logps", True):
            loss: Tensor = super()._compute_loss(lambda **_: scored, inputs, False)
        if self.preference_loss is None:
            return loss
        lengths = inputs["completion_mask"][:, 1:].sum(1).chunk(2)
        references = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        sides = zip(shifted["log_probs"].sum(1).chunk(2), references, lengths, strict=True)
        return self.preference_loss(*(Responses(*side) for side in sides)).mean()


class PreferenceTokenLoss:
    """A preference loss inside the model's own forward; a `TokenLoss`.

    Args:
        labels: tokens of the responses, the rest ignored; chosen rows first.
        form: makes the loss from the scores of these tokens.
        update: what is done to the multipliers; a name in `UPDATES`.
        shared_above: cosine above which tokens are left out.
        squares: whether the loss also wants Σ p² of the predicted distributions.
    """

    def __init__(
        self,
        labels: Int[Tensor, "batch seq"],
        form: FormLoss,
        update: str = "plain",
        shared_above: float | int | None = None,
        squares: bool = False,
    ) -> None:
        self.labels, self.form, self.squares = labels, form, squares
        self.update, self.shared_above = UPDATES[update], shared_above

    def __call__(self, backbone: Backbone, model: PreTrainedModel) -> Float[Tensor, ""]:
        """Score the tokens, form the loss and its weights, and sum the weighted NLL for the gradients."""
        hidden_states, head, labels = backbone().last_hidden_state, output_head(model), self.labels
        # Virtual tokens of a prompt-learning adapter come before those of the batch.
        hidden_states = hidden_states[:, -labels.shape[1] :]
        tokens = labels != IGNORED
        tokens[:, 0] = False
        scores = score_tokens(predicting_rows(hidden_states, tokens), labels[tokens], head, self.squares)
        placed = {name: at_tokens(value, tokens) for name, value in scores.items()}
        with torch.enable_grad():
            log_probs = placed["log_probs"].requires_grad_()
            loss = self.form(placed)
            (slopes,) = torch.autograd.grad(loss, log_probs, materialize_grads=True)
        if not torch.is_grad_enabled():
            return loss.detach()
        weights = (-slopes).masked_fill(~tokens, 0.0)
        if self.update is not None or self.shared_above is not None:
            weights = self._reweighed(weights, hidden_states.detach(), log_probs.detach(), tokens, head)
        total, _ = weighted_cross_entropy(hidden_states, labels, weights, head)
        return total + (loss.detach() - total.detach())

    def _reweighed(
        self, weights: Tensor, hidden_states: Tensor, log_probs: Tensor, tokens: Tensor, head: OutputHead
    ) -> Float[Tensor, "batch seq"]:
        """The weights after tokens that both responses share are left out and the multipliers are changed, pair by pair."""
        new = torch.zeros_like(weights)
        number = len(weights) // 2
        for sides in zip(range(number), range(number, 2 * number), strict=True):
            here = torch.zeros_like(tokens)
            here[list(sides)] = tokens[list(sides)]
            chosen, own = int(here[sides[0]].sum()), weights[here]
            rows = predicting_rows(hidden_states, here)
            products = head_products(rows, self.labels[here], head, -log_probs[here])
            if self.shared_above is not None:
                own = own * torch.cat(contrastive_tokens(cosines(products, chosen), self.shared_above))
            if self.update is not None:
                # The loss's own multipliers are in the weights: those of the weighted gradients are 1, and −1 on the rejected side.
                signed = torch.cat([own[:chosen], -own[chosen:]])
                gradients = head_gradients(products, -log_probs[here], chosen, signed)
                one = torch.ones_like(gradients.inner)
                factors = self.update(gradients, one, one)
                own = torch.cat([own[:chosen] * factors[0], own[chosen:] * factors[1]])
            new[here] = own.to(new.dtype)
        return new


def score_tokens(
    rows: Float[Tensor, "rows dim"], targets: Int[Tensor, "rows"], head: OutputHead, squares: bool = False
) -> dict[str, Float[Tensor, "rows"]]:
    """What TRL's losses and metrics read of each token: `log_probs`, `entropy`, `mean_logits`, `is_top1`, and log Σ p² with `squares`."""
    wanted = ["nll", "entropy", "mean_logit", "rank", *["log_squares"] * squares]
    found = row_statistics(rows, targets, head, wanted)
    assert found.nll is not None
    assert found.entropy is not None
    assert found.mean_logit is not None
    assert found.rank is not None
    scores = {
        "log_probs": -found.nll,
        "entropy": found.entropy,
        "mean_logits": found.mean_logit,
        "is_top1": (found.rank == 0).to(found.nll.dtype),
    }
    return scores if found.log_squares is None else {**scores, "log_sum_sq_probs": found.log_squares}


@contextlib.contextmanager
def _set(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _require_known_trl() -> None:
    """Refuse a TRL whose `DPOTrainer` takes other parameters in the methods that are built on."""
    for name, parameters in _PARAMETERS.items():
        method = getattr(DPOTrainer, name, None)
        if method is None or list(inspect.signature(method).parameters) != parameters:
            raise UserError(
                f"PreferenceTrainer builds on DPOTrainer.{name}({', '.join(parameters)}), which this trl does not have: "
                f"it was tested with {TESTED}."
            )
