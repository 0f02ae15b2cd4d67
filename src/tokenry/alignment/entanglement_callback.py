"""`EntanglementCallback`: watches pairs while any TRL trainer trains, and says which way their log-probabilities go, and why.

    trainer = DPOTrainer(..., callbacks=[EntanglementCallback(every=100, pairs=64)])

At every so many steps it predicts for each pair what a step on its loss would do to both log-probabilities, and compares the prediction of
the time before with what has happened since. The tokens with the largest inner products are those that move both together.

Training is left as it is: no random number is drawn, no gradient and no mode is changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import TrainerCallback

from tokenry.alignment.entanglement import (
    CASES,
    PairGradients,
    adam_preconditioner,
    cases,
    pair_gradients,
    predict_step,
)
from tokenry.alignment.preference_losses import PreferenceLoss, Responses, multipliers, preference_loss
from tokenry.alignment.preference_pairs import PreferencePair
from tokenry.alignment.token_gradients import SCOPES, culprits, read_head
from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.core.tensors.losses import output_head

_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")


@dataclass(frozen=True)
class EntanglementRecord:
    """What was seen of the pairs before one optimisation step.

    Attributes:
        step: optimisation steps made before.
        cosine: mean cosine of g_w and g_l.
        entangled: share of pairs with a condition ratio above 1.
        predicted: share of pairs in each case, by the gradients.
        realised: share of pairs in each case, by the movement since the record before; empty in the first.
        agreement: share of pairs that moved as was predicted in the record before; None in the first.
        chosen_change: mean movement of log π_w since then, in nats.
        rejected_change: mean movement of log π_l since then.
        tokens: the pairs of tokens that entangle most: the number of the pair, the two tokens and their product.
    """

    step: int
    cosine: float
    entangled: float
    predicted: Mapping[str, float]
    realised: Mapping[str, float] = field(default_factory=dict)
    agreement: float | None = None
    chosen_change: float | None = None
    rejected_change: float | None = None
    tokens: Sequence[tuple[int, str, str, float]] = ()


class EntanglementCallback(TrainerCallback):
    """Records predicted and realised movement of pairs.

    Args:
        every: optimisation steps from one record to the next.
        pairs: the pairs, or how many of the first of the training data, where these are tokenised pairs (`DPOTrainer`).
        loss: the loss whose step is predicted; its reference is the model before training.
        scope: `full`, two backward passes per pair, behind Adam's preconditioner where the optimiser is Adam; or `head`, none.
        tokens: pairs of tokens to name in a record.

    Attributes:
        records: one `EntanglementRecord` for every time.
    """

    def __init__(
        self,
        every: int = 100,
        pairs: int | Sequence[PreferencePair] = 64,
        loss: str | PreferenceLoss = "dpo",
        scope: str = "full",
        tokens: int = 5,
    ) -> None:
        require_at_least(1, every=every, pairs=pairs if isinstance(pairs, int) else len(pairs))
        require_at_least(0, tokens=tokens)
        require_one_of(scope, SCOPES, "scope")
        self.every, self.scope, self.tokens = every, scope, tokens
        self.loss, self._asked = preference_loss(loss), pairs
        self.records: list[EntanglementRecord] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find the pairs."""
        asked, self.records = self._asked, []
        self._pairs = list(asked) if not isinstance(asked, int) else _first_pairs(kwargs, asked)
        self._reference: Tensor | None = None
        self._before: tuple[Tensor, Tensor] | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record, where it is time."""
        if state.global_step % self.every == 0:
            self._record(state, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record what the last steps did."""
        if not self.records or self.records[-1].step < state.global_step:
            self._record(state, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add the newest record's figures to the log."""
        if not self.records:
            return
        newest = asdict(self.records[-1])
        figures = {f"entanglement/{name}": newest[name] for name in ("cosine", "entangled", "agreement")}
        figures["entanglement/predicted_as_wanted"] = newest["predicted"][CASES[0]]
        known = {name: value for name, value in figures.items() if value is not None}
        state.log_history[-1].update(known)
        (logs if logs is not None else {}).update(known)

    def _record(self, state: Any, model: nn.Module, **kwargs: Any) -> None:
        # An adapter on the head leaves no closed form: the scope of the head then says so, the full one names no tokens.
        reads_head = self.scope == "head" or output_head(model).linear is not None
        readings = [read_head(model, pair) for pair in self._pairs] if reads_head else []
        gradients = self._gradients(model, kwargs.get("optimizer"))
        if gradients is None:
            gradients = PairGradients(
                *(torch.cat([getattr(reading.gradients, name) for reading in readings]) for name in _FIELDS)
            )
        logps = torch.stack([gradients.logp_w, gradients.logp_l])
        self._reference = logps if self._reference is None else self._reference
        lengths = torch.tensor([[len(pair.chosen), len(pair.rejected)] for pair in self._pairs]).T.to(logps)
        found = multipliers(
            self.loss,
            Responses(logps[0], self._reference[0], lengths[0]),
            Responses(logps[1], self._reference[1], lengths[1]),
        )
        predicted = predict_step(gradients, found.chosen, found.rejected).case
        moved: dict[str, Any] = {}
        if self._before is not None:
            change = logps - self._before[0]
            realised = cases(*change)
            moved = {
                "realised": _shares(realised),
                "agreement": float((realised == self._before[1]).double().mean()),
                "chosen_change": float(change[0].mean()),
                "rejected_change": float(change[1].mean()),
            }
        self._before = logps, predicted
        self.records.append(
            EntanglementRecord(
                step=state.global_step,
                cosine=float(gradients.cosine.nanmean()),
                entangled=float((gradients.condition_ratio > 1).double().mean()),
                predicted=_shares(predicted),
                tokens=self._named(
                    [reading.products for reading in readings], kwargs.get("processing_class")
                ),
                **moved,
            )
        )

    def _gradients(self, model: nn.Module, optimizer: Any) -> PairGradients | None:
        """The gradients of all trained weights, behind Adam's factors from its first step on; None in the scope of the head."""
        if self.scope == "head":
            return None
        inner = getattr(optimizer, "optimizer", optimizer)
        is_adam = isinstance(inner, torch.optim.Adam) and inner.state
        return pair_gradients(
            model, self._pairs, preconditioner=adam_preconditioner(inner) if is_adam else None
        )

    def _named(
        self, products: Sequence[Float[Tensor, "_ _"]], tokenizer: Any
    ) -> Sequence[tuple[int, str, str, float]]:
        def text(token: int) -> str:
            return str(token) if tokenizer is None else tokenizer.decode([token])

        found = [
            (number, text(pair.chosen[place.chosen]), text(pair.rejected[place.rejected]), place.product)
            for number, (pair, of_pair) in enumerate(zip(self._pairs, products, strict=False), start=1)
            for place in culprits(of_pair, len(pair.chosen), self.tokens)
        ]
        return sorted(found, key=lambda token: -token[-1])[: self.tokens]


_FIELDS = ("logp_w", "logp_l", "inner", "norm_w", "norm_l")


def _shares(codes: Tensor) -> dict[str, float]:
    return {name: float((codes == code).double().mean()) for code, name in enumerate(CASES)}


def _first_pairs(given: Mapping[str, Any], most: int) -> list[PreferencePair]:
    rows = getattr(given.get("train_dataloader"), "dataset", None)
    columns = getattr(rows, "column_names", None) or ()
    if rows is None or not set(_COLUMNS) <= set(columns):
        raise UserError(
            "the training data hold no tokenised pairs: give EntanglementCallback(pairs=[PreferencePair(prompt, chosen, rejected), …])."
        )
    first = rows.select(range(min(most, len(rows))))
    return [PreferencePair(*(tuple(row[name]) for name in _COLUMNS)) for row in first]
