"""Which tokens entangle a pair: inner products of the gradients of single tokens.

    ⟨g_w, g_l⟩ = Σ_ij ⟨∇log π(chosen token i), ∇log π(rejected token j)⟩

Of the output head alone they have a closed form, with h the hidden state that predicts a token, p the predicted distribution and e the
token's unit vector:

    ⟨g_i, g_j⟩ = ((e_i − p_i) · (e_j − p_j)) (h_i · h_j)

It takes one forward and no backward, and approximates the gradients of all weights (`scope="full"`), which need one backward per token:
closely where responses share text, hardly under random weights. Tokens that both responses share, in like contexts, have large products: they entangle the pair without carrying the preference.

Source: A Common Pitfall of Margin-based Language Model Alignment: Gradient Entanglement (arXiv 2410.13828); the closed form is ours.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokenry.alignment.entanglement import PairGradients, trained_parameters
from tokenry.alignment.preference_pairs import PreferencePair
from tokenry.core.errors import UserError, require_one_of
from tokenry.core.tensors.alignment import predicting_rows
from tokenry.core.tensors.chunked_loss import CHUNK_ELEMENTS, chunks
from tokenry.core.tensors.losses import OutputHead, backbone, causal_lm, output_head, row_nll
from tokenry.core.tensors.modes import evaluation_mode

SCOPES = ("head", "full")

# Elements of the per-token gradients that are held at once in the full scope (1 GB in float32).
_GRADIENT_ELEMENTS = 1 << 28


def head_products(
    rows: Float[Tensor, "rows dim"],
    targets: Int[Tensor, "rows"],
    head: OutputHead,
    nll: Float[Tensor, "rows"],
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Float[Tensor, "rows rows"]:
    """Inner products of the gradients of log p(target) by the head's matrix, between all pairs of rows; without a graph.

    `nll` is −log p(target), as `row_nll` gives it. The vocabulary is read in blocks, so that the logits of all rows never exist at once.

    Raises:
        UserError: the head is no plain matrix.
    """
    linear = head.linear
    if linear is None:
        raise UserError(
            "the output head is no plain matrix (it has an adapter, is quantised, or has layers before it), so there is no closed form: "
            "take scope='full', or update='plain' in training."
        )

    def compute(rows: Tensor) -> Tensor:
        matrix, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
        rows = rows.to(matrix.dtype)
        own = head.matrix_logits(rows, matrix[targets], None if bias is None else bias[targets]).diagonal()
        normaliser = nll.to(own.dtype) + own
        products = torch.zeros(len(rows), len(rows), dtype=own.dtype, device=own.device)
        for block in chunks(len(matrix), len(rows), chunk_elements):
            logits = head.matrix_logits(rows, matrix[block], None if bias is None else bias[block])
            residual = -(logits - normaliser[:, None]).exp()
            inside = (targets >= block.start) & (targets < block.stop)
            residual[inside, targets[inside] - block.start] += 1
            if head.softcap is not None:
                residual *= 1 - (logits * head.temperature / head.softcap) ** 2
            products += residual @ residual.T
        hidden = rows.to(own.dtype)
        return products * (hidden @ hidden.T) * (head.scale / head.temperature) ** 2

    with torch.no_grad():
        return head.in_forward(rows, compute)


def head_gradients(
    products: Float[Tensor, "tokens tokens"],
    nll: Float[Tensor, "tokens"],
    chosen: int,
    weights: Float[Tensor, "tokens"] | None = None,
) -> PairGradients:
    """The gradients of one pair by the output head, from the products of its tokens.

    Args:
        products: as `head_products` gives them for the tokens of both responses, the chosen first.
        chosen: number of tokens of the chosen response.
        weights: what each token counts in its log-probability; None for 1.
    """
    weighted = products if weights is None else weights[:, None] * products * weights
    logp = -nll if weights is None else -nll * weights
    return PairGradients(
        logp[:chosen].sum()[None],
        logp[chosen:].sum()[None],
        weighted[:chosen, chosen:].sum()[None],
        # A sum of squares that rounding leaves below zero is zero.
        weighted[:chosen, :chosen].sum()[None].clamp(min=0).sqrt(),
        weighted[chosen:, chosen:].sum()[None].clamp(min=0).sqrt(),
    )


class HeadReading(NamedTuple):
    """What one forward per response says of a pair.

    Attributes:
        gradients: of the pair, by the output head.
        products: of its tokens, as of `token_gradient_products`.
    """

    gradients: PairGradients
    products: Float[Tensor, "tokens tokens"]


@torch.no_grad()
def read_head(model: nn.Module, pair: PreferencePair) -> HeadReading:
    """Log-probabilities of a pair and its gradients by the output head, without a backward."""
    with evaluation_mode(model):
        rows, targets = _predicting(model, pair)
        head = output_head(model)
        nll = row_nll(rows, targets, head)
        products = head_products(rows, targets, head, nll)
        return HeadReading(head_gradients(products, nll, len(pair.chosen)), products)


def token_gradient_products(
    model: nn.Module, pair: PreferencePair, scope: str = "head"
) -> Float[Tensor, "tokens tokens"]:
    """Inner products of the gradients of all tokens of both responses, the chosen first.

    Args:
        model: a causal language model, wrapped or not; read in evaluation mode.
        scope: `head`, the output head in closed form; or `full`, all trainable parameters, with a backward per token.

    Raises:
        UserError: an unknown scope, a head that is no plain matrix, or no trainable parameter.
    """
    require_one_of(scope, SCOPES, "scope")
    if scope == "head":
        return read_head(model, pair).products
    with evaluation_mode(model):
        return _full_products(model, pair)


def token_gradient_cosine(
    model: nn.Module,
    ids_w: Sequence[int] | Int[Tensor, "chosen"],
    ids_l: Sequence[int] | Int[Tensor, "rejected"],
    prompt_len: int,
    scope: str = "head",
) -> Float[Tensor, "chosen_tokens rejected_tokens"]:
    """Cosine of the gradients of each token of the chosen response with each of the rejected one.

    Args:
        model: a causal language model.
        ids_w: prompt and chosen response.
        ids_l: prompt and rejected response.
        prompt_len: tokens of the prompt.
        scope: as of `token_gradient_products`.

    Raises:
        UserError: the prompt is not the beginning of both, or as `token_gradient_products`.
    """
    whole_w, whole_l = (torch.as_tensor(ids).tolist() for ids in (ids_w, ids_l))
    pair = PreferencePair.from_whole(whole_w[:prompt_len], whole_w, whole_l)
    return cosines(token_gradient_products(model, pair, scope), len(pair.chosen))


def cosines(products: Float[Tensor, "tokens tokens"], chosen: int) -> Float[Tensor, "chosen rejected"]:
    """Cosines between the tokens of the chosen response and those of the rejected one; 0 for a token without a gradient."""
    norms = products.diagonal().clamp(min=0).sqrt()
    return (products[:chosen, chosen:] / (norms[:chosen, None] * norms[chosen:])).nan_to_num(0.0, 0.0, 0.0)


class Culprit(NamedTuple):
    """Two tokens and their part of the inner product of a pair.

    Attributes:
        chosen: place in the chosen response.
        rejected: place in the rejected response.
        product: their inner product.
    """

    chosen: int
    rejected: int
    product: float


def culprits(products: Float[Tensor, "tokens tokens"], chosen: int, most: int = 5) -> list[Culprit]:
    """The pairs of tokens with the largest inner products, the largest first."""
    between = products[:chosen, chosen:]
    values, places = between.flatten().topk(min(most, between.numel()))
    return [
        Culprit(place // between.shape[1], place % between.shape[1], value)
        for value, place in zip(values.tolist(), places.tolist(), strict=True)
    ]


def _predicting(
    model: nn.Module, pair: PreferencePair
) -> tuple[Float[Tensor, "tokens dim"], Int[Tensor, "tokens"]]:
    """The hidden states that predict the tokens of both responses, and these tokens."""
    inner = causal_lm(model)
    rows, targets = [], []
    for response in (pair.chosen, pair.rejected):
        ids = torch.tensor([[*pair.prompt, *response]], device=next(inner.parameters()).device)
        tokens = torch.arange(ids.shape[1], device=ids.device)[None] >= len(pair.prompt)
        hidden_states = backbone(inner)(input_ids=ids, use_cache=False).last_hidden_state
        rows.append(predicting_rows(hidden_states, tokens))
        targets.append(ids[tokens])
    return torch.cat(rows), torch.cat(targets)


def _full_products(model: nn.Module, pair: PreferencePair) -> Float[Tensor, "tokens tokens"]:
    trained = trained_parameters(model)
    with torch.enable_grad():
        rows, targets = _predicting(model, pair)
        logps = output_head(model).logits(rows).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    one_token = torch.eye(len(logps), dtype=logps.dtype, device=logps.device)
    products = torch.zeros_like(one_token)
    # As many parameters at once as the memory holds: every group costs one more walk through the graph.
    groups: list[list[nn.Parameter]] = [[]]
    for parameter in trained:
        held = sum(map(torch.numel, groups[-1]))
        if groups[-1] and (held + parameter.numel()) * len(logps) > _GRADIENT_ELEMENTS:
            groups.append([])
        groups[-1].append(parameter)
    for group in groups:
        gradients = torch.autograd.grad(
            logps, group, one_token, retain_graph=True, is_grads_batched=True, materialize_grads=True
        )
        for gradient in gradients:
            flat = gradient.flatten(1).to(products.dtype)
            products += flat @ flat.T
        del gradients
    return products
