"""The router of R2R: from what a small model knows after one step, the probability that its token sends the text another way.

    h   last hidden state of the small model          e   embedding of the token t that it chose, a frozen copy
    l   its 100 largest logits, the largest first     f = W_l l + b_l

    x = W_c [h; e; f] + b_c;   x = W x + b;   six times  x <- R(x) + W_2 GELU(W_1 LN(x))     R: identity, a linear map where widths differ
    p = sigmoid(W_o LN(x) + b_o);   the large model writes the token where p >= threshold

A router belongs to one small model: its file holds the fingerprints of that model and its tokenizer and refuses others. Weights have the
names of the released routers.

Source: R2R (arXiv 2505.21600), section 4.2, and `router.py` of thu-nics/R2R.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.tensors.output_head import causal_lm
from tokenry.decoding.r2r.rules import RoutingRule, SmallStep
from tokenry.decoding.r2r.tensor_files import read_tensors, save_tensors
from tokenry.models.identity import ModelIdentity

KIND = "router of tokens"
_EMBEDDING = "token_embeddings.weight"


class TokenRouter(nn.Module, RoutingRule):
    """The probability that the large model should write a token.

    Args:
        hidden_size: width of the small model's hidden states.
        embedding: input embeddings of the small model; never trained.
        top_k: number of logits that are read.
        expansion: width inside a block, in multiples of what enters it.
        normalize_input: normalise hidden states and embeddings, and read probabilities in the place of logits.
        threshold: probability from which the large model writes.
    """

    needs_hidden: ClassVar[bool] = True
    highest: ClassVar[float | None] = 1.0

    def __init__(
        self,
        hidden_size: int,
        embedding: Float[Tensor, "vocabulary width"],
        top_k: int = 100,
        widths: Sequence[int] = (1024,) * 6,
        expansion: int = 4,
        dropout: float = 0.1,
        normalize_input: bool = False,
        threshold: float | int = 0.5,
    ) -> None:
        super().__init__()
        require_at_least(1, hidden_size=hidden_size, top_k=top_k, blocks=len(widths), expansion=expansion)
        if top_k > len(embedding):
            raise UserError(f"top_k is {top_k}, and the vocabulary has {len(embedding)} tokens.")
        self.threshold, self.top_k, self.normalize_input = threshold, top_k, normalize_input
        self.settings: dict[str, Any] = {
            "top_k": top_k,
            "widths": list(widths),
            "expansion": expansion,
            "dropout": dropout,
            "normalize_input": normalize_input,
        }
        width = embedding.shape[1]
        self.token_embeddings = nn.Embedding.from_pretrained(embedding.detach(), freeze=True)
        self.logits_projection = nn.Linear(top_k, hidden_size)
        self.combined_projection = nn.Linear(2 * hidden_size + width, widths[0])
        if normalize_input:
            self.layer_norm_hidden_states, self.layer_norm_token = (
                nn.LayerNorm(hidden_size),
                nn.LayerNorm(width),
            )
        self.backbone = _Backbone(widths, expansion, dropout)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

    @classmethod
    def from_small_model(cls, model: nn.Module, **options: Any) -> "TokenRouter":
        """A router with new weights for a small model, on its device; options as of the class."""
        inner = causal_lm(model)
        embedding: Tensor = inner.get_input_embeddings().weight
        router = cls(inner.config.get_text_config().hidden_size, embedding, **options)
        return router.to(embedding.device)

    def forward(
        self,
        hidden: Float[Tensor, "batch dim"],
        tokens: Int[Tensor, "batch"],
        top_logits: Float[Tensor, "batch k"],
    ) -> Float[Tensor, "batch"]:
        """The logit of the probability; the logits it reads are the largest ones, in descending order."""
        dtype = self.combined_projection.weight.dtype
        hidden, top_logits = hidden.to(dtype), top_logits.to(dtype)
        embedded = self.token_embeddings(tokens).to(dtype)
        if self.normalize_input:
            hidden, embedded = self.layer_norm_hidden_states(hidden), self.layer_norm_token(embedded)
            top_logits = top_logits.softmax(-1)
        features = torch.cat([hidden, embedded, self.logits_projection(top_logits)], -1)
        logit: Tensor = self.backbone(self.combined_projection(features))[:, 0]
        return logit

    @torch.inference_mode()
    def score(self, step: SmallStep) -> Float[Tensor, "batch"]:
        """The probability that the token of each row changes what the text comes to."""
        assert step.hidden is not None
        return self(step.hidden, step.tokens, step.logits.topk(self.top_k).values).sigmoid().float()

    # --- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: Path, small: ModelIdentity, record: Mapping[str, Any] | None = None) -> None:
        """Write one file of safetensors: the weights without the embeddings, the threshold, and what the router was trained for and on.

        Args:
            small: the small model.
            record: what else is to be known, such as the report of the training.
        """
        weights = {name: value for name, value in self.state_dict().items() if name != _EMBEDDING}
        about = {
            "settings": self.settings,
            "threshold": self.threshold,
            "small": asdict(small),
            "record": dict(record or {}),
        }
        save_tensors(path, KIND, weights, about)

    @classmethod
    def load(cls, path: Path, model: nn.Module, small: ModelIdentity) -> "TokenRouter":
        """Read a router for a small model.

        Raises:
            UserError: it is no file of a router, a damaged one, or one of another small model.
        """
        weights, about = read_tensors(path, KIND, "tokenry route train")
        ModelIdentity(**about["small"]).require(
            small, "the small model", "the router was fitted", "fit a router"
        )
        router = cls.from_small_model(model, **about["settings"])
        router.threshold = about["threshold"]
        router.load_state_dict({**weights, _EMBEDDING: router.token_embeddings.weight})
        return router.eval()


class _Backbone(nn.Module):
    """The blocks between the projected features and the logit."""

    def __init__(self, widths: Sequence[int], expansion: int, dropout: float) -> None:
        super().__init__()
        self.input_projection = nn.Linear(widths[0], widths[0])
        after = [*widths[1:], widths[-1]]
        self.blocks = nn.ModuleList(
            _Block(width, wide, expansion, dropout) for width, wide in zip(widths, after, strict=True)
        )
        self.output_layer = nn.Sequential(nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], 1))

    def forward(self, rows: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch 1"]:
        rows = self.input_projection(rows)
        for block in self.blocks:
            rows = block(rows)
        logit: Tensor = self.output_layer(rows)
        return logit


class _Block(nn.Module):
    """One block of the router: normalise, expand, contract, add."""

    def __init__(self, width: int, after: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, expansion * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(expansion * width, after),
            nn.Dropout(dropout),
        )
        self.dim_change = nn.Identity() if width == after else nn.Linear(width, after)

    def forward(self, rows: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch after"]:
        summed: Tensor = self.dim_change(rows) + self.mlp(self.layer_norm(rows))
        return summed
