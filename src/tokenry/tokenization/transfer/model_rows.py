"""The rows that a language model keeps per token: read, replaced for one forward pass, or replaced for good.

    source rows = [input ; output] of each token        input alone where both are one matrix

Running with other rows leaves the model as it is and lets gradients reach them (`torch.func.functional_call`).
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.errors import UserError


class ModelRows(NamedTuple):
    """The rows that a model keeps per token.

    Attributes:
        input: rows of the input matrix.
        output: rows of the output matrix; None if it is the input matrix.
        bias: bias of the output; None for none.
    """

    input: Float[Tensor, "tokens dim"]
    output: Float[Tensor, "tokens dim"] | None
    bias: Float[Tensor, "tokens"] | None

    def each(self, change: Callable[[Tensor], Tensor]) -> "ModelRows":
        """Apply a function to each of the three that exists."""
        output, bias = (None if one is None else change(one) for one in self[1:])
        return ModelRows(change(self.input), output, bias)

    def there(self) -> list[Tensor]:
        """The ones of the three that exist."""
        return [one for one in self if one is not None]


def model_rows(model: PreTrainedModel) -> ModelRows:
    """Read the rows, without a graph; they share memory with the model."""
    embeddings, head = _modules(model)
    bias = getattr(head, "bias", None)
    tied = head.weight is embeddings.weight
    return ModelRows(
        embeddings.weight.detach(),
        None if tied else head.weight.detach(),
        None if bias is None else bias.detach(),
    )


def source_rows(model: PreTrainedModel, vocabulary: int) -> Float[Tensor, "vocabulary width"]:
    """The rows of the first `vocabulary` tokens side by side: [input ; output], in float32."""
    rows = model_rows(model)
    if len(rows.input) < vocabulary:
        raise UserError(
            f"the tokenizer has {vocabulary} tokens but the model only {len(rows.input)} rows: it belongs to another model, or tokens were "
            "added to it without resizing the embeddings."
        )
    sides = [rows.input] if rows.output is None else [rows.input, rows.output]
    return torch.cat([side[:vocabulary].float() for side in sides], dim=1)


def split_sides(
    rows: Float[Tensor, "tokens width"], embedding_size: int
) -> tuple[Float[Tensor, "tokens dim"], Float[Tensor, "tokens dim"] | None]:
    """[input ; output] rows as two matrices; None for the output of a tied model."""
    sides = rows.split(embedding_size, dim=1)
    return sides[0], sides[1] if len(sides) > 1 else None


def with_source_rows(
    rows: ModelRows, source: ModelRows, ids: Int[Tensor, "some"], source_ids: Int[Tensor, "some"]
) -> ModelRows:
    """Overwrite the rows of some tokens with those of the source model."""

    def overwritten(made: Tensor, of_source: Tensor) -> Tensor:
        there = source_ids.to(of_source.device)
        return made.index_copy(0, ids.to(made.device), of_source[there].to(made))

    output, bias = (
        made if made is None or of_source is None else overwritten(made, of_source)
        for made, of_source in zip(rows[1:], source[1:], strict=True)
    )
    return ModelRows(overwritten(rows.input, source.input), output, bias)


def with_mean_rows(
    rows: ModelRows, source: ModelRows, ids: Sequence[int], trained: Sequence[int]
) -> ModelRows:
    """Overwrite the rows of some tokens with the mean of the source model's trained rows."""
    if not ids:
        return rows

    def averaged(made: Tensor, of_source: Tensor) -> Tensor:
        mean = of_source[list(trained)].float().mean(dim=0).to(made)
        return made.index_copy(0, torch.tensor(ids, device=made.device), mean.expand(len(ids), *mean.shape))

    output, bias = (
        made if made is None or of_source is None else averaged(made, of_source)
        for made, of_source in zip(rows[1:], source[1:], strict=True)
    )
    return ModelRows(averaged(rows.input, source.input), output, bias)


def logits_with(
    model: PreTrainedModel, rows: ModelRows, inputs: Mapping[str, Tensor]
) -> Float[Tensor, "batch seq tokens"]:
    """Run the model as if `rows` were its own; gradients reach them."""
    names = _parameter_names(model)
    swapped = {names["input"]: rows.input}
    if rows.output is not None:
        swapped[names["output"]] = rows.output
    if rows.bias is not None and "bias" in names:
        swapped[names["bias"]] = rows.bias
    keeps_cache = "use_cache" in inspect.signature(type(model).forward).parameters
    cache = {"use_cache": False} if keeps_cache else {}
    made: Any = functional_call(model, swapped, (), {**inputs, **cache})
    return made.logits


@torch.no_grad()
def write_rows(model: PreTrainedModel, rows: ModelRows) -> None:
    """Give the model these rows."""
    model.resize_token_embeddings(len(rows.input), mean_resizing=False)
    model.get_input_embeddings().weight.copy_(rows.input)
    head = model.get_output_embeddings()
    if rows.output is not None:
        head.weight.copy_(rows.output)
    if rows.bias is not None:
        head.bias.copy_(rows.bias)


def set_special_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the model's configs the special ids of a tokenizer: its eos, or else its bos token stands in for a missing one."""
    bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    eos = bos if eos is None else eos
    pad = eos if pad is None else pad
    for config in (model.config, model.config.get_text_config(), getattr(model, "generation_config", None)):
        if config is not None:
            config.bos_token_id, config.eos_token_id, config.pad_token_id = bos, eos, pad
    embeddings = model.get_input_embeddings()
    if getattr(embeddings, "padding_idx", None) is not None:
        embeddings.padding_idx = pad if pad != eos else None


def _modules(model: PreTrainedModel) -> tuple[Any, Any]:
    try:
        embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    except NotImplementedError:
        embeddings = head = None
    for module, what in ((embeddings, "input"), (head, "output")):
        if not isinstance(getattr(module, "weight", None), Tensor):
            raise UserError(
                f"{type(model).__name__} has no {what} embeddings: give a causal or a masked language model."
            )
        if not module.weight.is_floating_point():
            raise UserError("the embeddings of this model are quantised: load it without quantisation.")
    if head.weight.shape != embeddings.weight.shape:
        raise UserError(
            f"the input matrix of {type(model).__name__} is {tuple(embeddings.weight.shape)} and its output matrix "
            f"{tuple(head.weight.shape)}: a hypernetwork predicts rows of one width."
        )
    return embeddings, head


def _parameter_names(model: PreTrainedModel) -> dict[str, str]:
    embeddings, head = _modules(model)
    wanted = {"bias": getattr(head, "bias", None), "output": head.weight, "input": embeddings.weight}
    found = {}
    for name, parameter in model.named_parameters():
        for what, weight in wanted.items():
            if parameter is weight:
                found[what] = name
    return found
