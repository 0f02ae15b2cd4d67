"""What a generator shares with its discriminator: its embeddings, all of its encoder, or nothing.

ELECTRA (arXiv 2003.10555, section 3.2): token, position and segment embeddings with their norm are the same parameters, and the
generator's output matrix is the token table. A narrower generator reads the table through a projection. Gradient-disentangled sharing is
that of DeBERTa-v3 (arXiv 2111.09543): the generator alone trains the table, the discriminator what it adds to it.

    embeddings      E_D = E_G            disentangled      E_D = stop_gradient(E_G) + Δ, Δ = 0 at first
"""

import copy
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding
from transformers import PreTrainedConfig, PreTrainedModel

from tokenry.core.errors import UserError, require_share
from tokenry.core.tensors.output_head import backbone

TIES = ("embeddings", "none", "all", "disentangled")
_HEAD_WIDTH = 64


def generator_config(disc_config: PreTrainedConfig, hidden_fraction: float) -> PreTrainedConfig:
    """The configuration of a generator: the discriminator's, with a fraction of its width.

    Its heads are of width 64 as far as its width allows; the feed-forward layers keep their share of the width, and embeddings their size.
    """
    require_share(hidden_fraction, "hidden_fraction")
    config = copy.deepcopy(disc_config)
    width = int(disc_config.hidden_size * hidden_fraction + 1e-6)
    if width < 2:
        raise UserError(
            f"hidden_fraction={hidden_fraction} of a width of {disc_config.hidden_size} leaves a generator of width {width}: use a larger one."
        )
    width -= width % 2
    heads = next(heads for heads in range(max(1, width // _HEAD_WIDTH), 0, -1) if width % (2 * heads) == 0)
    inner = (
        "hidden_dim" if hasattr(config, "hidden_dim") else "intermediate_size"
    )  # DistilBERT has a name of its own
    setattr(config, inner, max(1, getattr(disc_config, inner) * width // disc_config.hidden_size))
    config.hidden_size, config.num_attention_heads = width, heads
    return config


def share(generator: PreTrainedModel, discriminator: PreTrainedModel, tie: str) -> None:
    """Let a generator and an encoder share what `tie` says, in place.

    Raises:
        UserError: their sizes do not allow it.
    """
    if tie == "none":
        return
    body: Any = backbone(generator)
    table, matrix = discriminator.get_input_embeddings().weight, generator.get_output_embeddings()
    is_tied = matrix.weight is body.get_input_embeddings().weight
    own = body.get_input_embeddings().weight.shape
    if tie == "all":
        _share_all(generator, body, discriminator)
    elif own == table.shape:
        _share_parameters(_holder(body, body.get_input_embeddings())[0], _embeddings_of(discriminator))
    elif hasattr(generator.config, "embedding_size") or tie == "disentangled":
        raise UserError(
            f"embeddings of size {own[1]} and {table.shape[1]} cannot be shared: give generator and discriminator the same embedding size "
            "(generator_config does), or use tie='none'."
        )
    else:
        _share_through_projections(generator, body, discriminator, is_tied)
        return
    if is_tied:
        matrix.weight = table
    if tie == "disentangled":
        discriminator.set_input_embeddings(DisentangledEmbedding(discriminator.get_input_embeddings()))


def unshared(discriminator: PreTrainedModel) -> PreTrainedModel:
    """A copy of the encoder that needs no generator: embeddings that were disentangled are summed."""
    alone = copy.deepcopy(discriminator)
    table = alone.get_input_embeddings()
    if isinstance(table, DisentangledEmbedding):
        alone.set_input_embeddings(table.summed())
    return alone


class DisentangledEmbedding(nn.Embedding):
    """A token table that learns what it adds to another one, which it does not train."""

    def __init__(self, base: nn.Embedding) -> None:
        super().__init__(base.num_embeddings, base.embedding_dim, base.padding_idx, device=base.weight.device)
        nn.init.zeros_(self.weight)
        self._base = (base.weight,)  # in a tuple, as it is no part of this module

    def forward(self, input: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens width"]:
        """Look tokens up in both."""
        return embedding(input, self._base[0].detach()) + super().forward(input)

    def summed(self) -> nn.Embedding:
        """The plain table that says the same."""
        return nn.Embedding.from_pretrained(
            (self._base[0] + self.weight).detach(), freeze=False, padding_idx=self.padding_idx
        )


class ProjectedEmbeddings(nn.Module):
    """The embeddings of a wider encoder, projected to another width."""

    def __init__(self, shared: nn.Module, project: nn.Linear) -> None:
        super().__init__()
        self.shared, self.project = shared, project

    def forward(self, *args: Any, **kwargs: Any) -> Float[Tensor, "batch seq width"]:
        """Embed, then project."""
        projected: Tensor = self.project(self.shared(*args, **kwargs))
        return projected

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("shared"), name)


def _share_all(generator: PreTrainedModel, body: nn.Module, discriminator: PreTrainedModel) -> None:
    ours, theirs = (
        {name: weight.shape for name, weight in model.named_parameters()} for model in (body, discriminator)
    )
    if any(theirs.get(name) != shape for name, shape in ours.items()):
        raise UserError(
            "tie='all' shares every layer, and generator and discriminator have other sizes: use tie='embeddings', or a generator as "
            "wide as the discriminator."
        )
    holder, name = _holder(generator, body)
    setattr(holder, name, discriminator)


def _share_parameters(ours: nn.Module, theirs: nn.Module) -> None:
    """Put the parameters of one module into another where names and shapes agree."""
    mine = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        if name in mine and mine[name].shape == parameter.shape:
            path, _, leaf = name.rpartition(".")
            setattr(ours.get_submodule(path), leaf, parameter)


def _share_through_projections(
    generator: PreTrainedModel, body: Any, discriminator: PreTrainedModel, is_tied: bool
) -> None:
    width, shared = generator.config.hidden_size, _embeddings_of(discriminator)
    table = discriminator.get_input_embeddings().weight
    holder, name = _holder(body, _holder(body, body.get_input_embeddings())[0])
    into = nn.Linear(table.shape[1], width, device=table.device, dtype=table.dtype)
    setattr(holder, name, ProjectedEmbeddings(shared, into))
    if not is_tied:
        generator._init_weights(into)
        return
    matrix = generator.get_output_embeddings()
    out = nn.Linear(width, table.shape[1], device=table.device, dtype=table.dtype)
    whole = nn.Linear(table.shape[1], len(table), bias=False, device="meta")
    whole.weight, whole.bias = table, matrix.bias
    holder, name = _holder(generator, matrix)
    setattr(holder, name, nn.Sequential(out, whole))
    for projection in (into, out):
        generator._init_weights(projection)


def _embeddings_of(model: PreTrainedModel) -> nn.Module:
    """The module around the token table: positions, segments and norm are in it too."""
    return _holder(model, model.get_input_embeddings())[0]


def _holder(model: nn.Module, part: nn.Module) -> tuple[nn.Module, str]:
    """The module that holds a part, and the name by which it does."""
    return next(
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if child is part
    )
