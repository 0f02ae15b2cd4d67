"""A token loss inside the model's own forward: the model runs its backbone and hands it to the loss, in place of making logits.

`model(**batch, token_loss=loss)` is one call that every wrapper sees: because it happens in `forward`, DDP, FSDP, DeepSpeed, autocast,
PEFT and gradient checkpointing work as for any other forward.
"""

import functools
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from tokenry.core.tensors.output_head import backbone, causal_lm

Backbone = Callable[[], Any]


@runtime_checkable
class TokenLoss(Protocol):
    """What a patched model calls instead of making logits."""

    def __call__(self, backbone: Backbone, model: PreTrainedModel) -> Float[Tensor, ""]:
        """Run `backbone` (its output carries `last_hidden_state`) and return a loss."""
        ...


@dataclass
class TokenLossOutput(ModelOutput):
    """Output of a model called with `token_loss`: the loss. (Under autocast, accelerate rebuilds it from a mapping.)"""

    loss: Tensor | Mapping[str, Tensor] | None = None


def add_token_loss(model: nn.Module) -> None:
    """Teach a causal language model to take `token_loss`; without it the forward is the original one.

    Raises:
        UserError: there is no causal language model inside `model`.
    """
    inner = causal_lm(model)
    if getattr(inner.forward, "takes_token_loss", False):
        return
    original = inner.forward
    patched_before = "forward" in vars(inner)

    @functools.wraps(original)
    def forward(self: PreTrainedModel, *args: Any, token_loss: TokenLoss | None = None, **kwargs: Any) -> Any:
        if token_loss is None:
            # A copy of the model must run its own forward, not that of the model it was copied from.
            return original(*args, **kwargs) if patched_before else type(self).forward(self, *args, **kwargs)
        kwargs = {**kwargs, "use_cache": False}
        return TokenLossOutput(loss=token_loss(functools.partial(backbone(self), *args, **kwargs), self))

    forward.takes_token_loss = True  # type: ignore[attr-defined]
    inner.forward = types.MethodType(forward, inner)
