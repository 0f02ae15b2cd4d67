"""DecompX: the parts of an encoder's every vector that come from each token, carried through all layers to the logits, which they sum to.

    A[i, j] = part of the vector at position i that comes from token j,   Σ_j A[i, j] = x_i
    attention   r[i, j] = A[i, j] + W_O concat_h Σ_s P_h[i, s] (W_V A[s, j])_h
    LayerNorm   (y_j − mean y_j) γ / deviation of the true vector
    activation  u_j · φ(z) / z                                  the slope from zero at the true z, so that parts still sum

A bias is shared among the parts, by default in proportion to |part · bias|. Mixing happens in head space, so that one product with W_O does
for all heads, and in the last layer only the first position is taken apart.

Source: DecompX (ACL 2023, arXiv 2306.02873).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import log, pi

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from tokenry.attribution.attribution import ATTRIBUTIONS, AttributionMethod, Question, TokenScores, stacked
from tokenry.attribution.globenc import rollout
from tokenry.attribution.linearised import class_of, linear_contributions
from tokenry.attribution.post_norm_encoder import EncoderReading, LayerState, Norm, activate, read_encoder
from tokenry.core.errors import UserError, require_one_of

BIASES = ("absdot", "norm", "equal", "abssim", "cls", "dot")
_SMALLEST = 1e-12
_IN_CACHE, _AT_ONCE = 1 << 20, 1 << 25  # numbers: of the MLP for some rows, of the parts of some texts


@ATTRIBUTIONS.register("decompx")
@dataclass(frozen=True)
class DecompX(AttributionMethod):
    """Contributions of the tokens to a logit of an encoder classifier: signed, and they sum to it.

    Args:
        method: `exact`, or `linear`: one backward pass, biases left out, for decoders too (see `linearised`).
        bias: how a bias is shared: by |part · bias| (`absdot`), ‖part‖ (`norm`), to all parts that are not 0 (`equal`), by |cosine|
            (`abssim`), to the first token (`cls`), by part · bias (`dot`, ill-conditioned); `token` collects all biases in one more
            token, and `token-absdot` and so on shares that token's contributions to the logits in the end.
        ffn: activation of the MLP: slope from zero, `linear` approximation, or `relu`.
        head: activation of the classifier: slope from zero, or `linear`.
        biases: whether biases are shared; without them, parts do not sum to the logit, nor without one of the following.
        first_norm: whether LN1 is applied to the parts.
        mlp: whether the MLP is.
        second_norm: whether LN2 is.
    """

    method: str = "exact"
    bias: str = "absdot"
    ffn: str = "zero-origin"
    head: str = "zero-origin"
    biases: bool = True
    first_norm: bool = True
    mlp: bool = True
    second_norm: bool = True

    def __post_init__(self) -> None:
        require_one_of(self.method, ("exact", "linear"), "method")
        require_one_of(self.bias, (*BIASES, "token", *(f"token-{kind}" for kind in BIASES)), "bias")
        require_one_of(self.ffn, ("zero-origin", "linear", "relu"), "ffn")
        require_one_of(self.head, ("zero-origin", "linear"), "head")

    @property
    def kind(self) -> str:
        """How a bias is shared within the network."""
        return "token" if self.has_bias_token else self.bias

    @property
    def has_bias_token(self) -> bool:
        """Whether biases are collected in a token of their own."""
        return self.bias.startswith("token")

    def explain(self, question: Question) -> TokenScores:
        """Score every token by its contribution to the logit of the class, by default the predicted one."""
        return self.explain_all([question])[0]

    def explain_all(self, questions: Sequence[Question]) -> list[TokenScores]:
        """The same of several texts, as many at once as fit."""
        model = questions[0].model
        if not isinstance(model, nn.Module):
            raise UserError("decompx looks into a model, got a function: use reagent.")
        if self.method == "linear":
            return linear_contributions(questions)
        longest, scores = max(len(question.context) for question in questions), []
        at_once = max(1, _AT_ONCE // (longest**2 * getattr(model.config, "hidden_size", 1)))
        for start in range(0, len(questions), at_once):
            part = questions[start : start + at_once]
            found = decompx(model, *stacked(part), config=self)
            for question, logits, contributed in zip(part, found.logits, found.classifier, strict=True):
                chosen = class_of(logits, question.target)
                scores.append(TokenScores(contributed[: len(question.context), chosen]))
        return scores


DEFAULT = DecompX()
NORMS = ("attention", "res1", "FFN", "res2", "encoder")


@dataclass(frozen=True)
class DecompXOutput:
    """The parts of a batch; where biases have a token of their own, it is the last source.

    Attributes:
        logits: of the model, in float32 or better.
        classifier: contribution of each token to each logit; they sum to it.
        pooler: parts of the first token after the classifier's first map and its activation.
        aggregated_cls: parts of the first token after the last layer.
        aggregated: parts of all positions after the last layer; None unless all are asked for.
        norms: by stage, ‖part‖ in every layer; empty likewise.
    """

    logits: Float[Tensor, "batch classes"]
    classifier: Float[Tensor, "batch sources classes"]
    pooler: Float[Tensor, "batch source_tokens dim"]
    aggregated_cls: Float[Tensor, "batch source_tokens dim"]
    aggregated: Float[Tensor, "batch seq source_tokens dim"] | None = None
    norms: dict[str, Float[Tensor, "layers batch seq source_tokens"]] = field(default_factory=dict)


def decompx(
    model: nn.Module,
    input_ids: Int[Tensor, "batch seq"],
    attention_mask: Num[Tensor, "batch seq"] | Bool[Tensor, "batch seq"] | None = None,
    config: DecompX = DEFAULT,
    all_positions: bool = False,
) -> DecompXOutput:
    """Take the logits of an encoder classifier apart.

    Args:
        model: the classifier (BERT, RoBERTa, XLM-R or ELECTRA); half precision is computed in float32.
        attention_mask: non-zero at real tokens.
        config: how.
        all_positions: keep the parts of all positions and their norms in every layer.

    Raises:
        UserError: a decoder, or an encoder whose norms come before attention.
    """
    reading = read_encoder(model, input_ids, attention_mask, "decompx")
    parts: Tensor | None = None
    norms: dict[str, list[Tensor]] = {name: [] for name in NORMS}
    for number, state in enumerate(reading.layers):
        last = number == len(reading.layers) - 1
        rows = slice(None) if all_positions or not last else slice(0, 1)
        parts = _through_layer(state, parts, config, rows, norms if all_positions else None)
    assert parts is not None
    pooled, contributions = _through_head(reading, parts[:, 0], config)
    return DecompXOutput(
        reading.logits,
        contributions,
        pooled,
        parts[:, 0],
        parts if all_positions else None,
        {name: torch.stack(values) for name, values in norms.items() if values},
    )


def decompx_rollout(
    model: nn.Module,
    input_ids: Int[Tensor, "batch seq"],
    attention_mask: Num[Tensor, "batch seq"] | Bool[Tensor, "batch seq"] | None = None,
    config: DecompX = DEFAULT,
) -> Float[Tensor, "layers batch seq seq"]:
    """Take every layer apart by its own inputs, and roll the norms out; rows of padding are zero in the first layer."""
    reading = read_encoder(model, input_ids, attention_mask, "decompx")
    norms = torch.stack(
        [_through_layer(state, None, config, slice(None), None).norm(dim=-1) for state in reading.layers]
    )
    norms[0] *= reading.real[:, :, None]
    return rollout(norms)


def share_bias(
    parts: Float[Tensor, "*rows sources dim"], bias: Float[Tensor, "*#rows dim"], kind: str
) -> Float[Tensor, "*rows sources dim"]:
    """Add a bias to the parts of a vector, in shares that sum to 1.

    Example: parts (3, 0) and (1, 0), bias (2, 5), `absdot`: |part · bias| is 6 and 2, so the bias is shared 3 : 1.
    """
    return parts + _shares(parts, bias, kind)[..., None] * bias[..., None, :]


def _shares(parts: Tensor, bias: Tensor, kind: str) -> Float[Tensor, "*rows sources"]:
    if kind in ("cls", "token"):
        weights = torch.zeros_like(parts[..., 0])
        weights[..., 0 if kind == "cls" else -1] = 1
        return weights
    if kind in ("absdot", "dot"):
        weights = (parts @ bias[..., None])[..., 0]
        weights = weights if kind == "dot" else weights.abs()
    else:
        norms = parts.norm(dim=-1)
        weights = norms if kind == "norm" else (norms != 0).to(norms)
        if kind == "abssim":
            weights = weights * nn.functional.cosine_similarity(parts, bias[..., None, :], dim=-1).abs()
    return weights / (weights.sum(dim=-1, keepdim=True) + _SMALLEST)


def _with_bias(parts: Tensor, bias: Tensor, config: DecompX) -> Tensor:
    """The same in place, where biases are shared."""
    return (
        parts.addcmul_(_shares(parts, bias, config.kind)[..., None], bias[..., None, :])
        if config.biases
        else parts
    )


def _through_layer(
    state: LayerState,
    parts: Float[Tensor, "batch seq sources dim"] | None,
    config: DecompX,
    rows: slice,
    norms: dict[str, list[Tensor]] | None,
) -> Float[Tensor, "batch rows sources dim"]:
    """The parts of a layer's output at some rows, from those of its input; None: every position is its own part.

    A few rows go through at once, so that what the MLP makes of them stays in the cache of the processor.
    """
    batch, length, dim = state.x.shape
    values = _value_parts(state, parts)
    sources = length + config.has_bias_token
    after = state.x.new_empty(batch, len(range(length)[rows]), sources, dim)
    at_once = max(1, _IN_CACHE // (batch * sources * len(state.up.bias)))
    measured: dict[str, list[Tensor]] = {name: [] for name in NORMS}
    for start in range(0, after.shape[1], at_once):
        chunk = slice(start, min(start + at_once, after.shape[1]))
        stages = _stages(state, parts, values, config, chunk)
        for name, stage in stages:
            if norms is not None:
                measured[name].append(stage.norm(dim=-1))
        after[:, chunk] = stage
    if norms is not None:
        for name, chunks in measured.items():
            norms[name] += [torch.cat(chunks, dim=1)] if chunks else []
    return after


def _stages(
    state: LayerState,
    parts: Float[Tensor, "batch seq sources dim"] | None,
    values: Float[Tensor, "batch heads seq columns"],
    config: DecompX,
    rows: slice,
) -> Iterator[tuple[str, Float[Tensor, "batch rows sources dim"]]]:
    """The parts at some rows after each stage of a layer; each is overwritten by the next."""
    mixed = _attended(state, parts, values, rows)
    bias = state.output.bias if parts is None else state.output(state.value.bias)
    if config.has_bias_token and parts is None:
        mixed = nn.functional.pad(mixed, (0, 0, 0, 1))
    yield "attention", mixed
    if parts is None:  # the bias of the values stays in the token
        places = range(state.x.shape[1])[rows]
        mixed[:, torch.arange(len(places)), list(places)] += state.x[:, rows]
        first = _with_bias(mixed, bias, config)
    else:
        first = _with_bias(mixed.add_(parts[:, rows]), bias, config)
    yield "res1", first
    true_first = state.before_first_norm[:, rows]
    inner = _normed(state.first_norm, first, true_first, config) if config.first_norm else first
    if config.mlp:
        fed = _fed(state, inner, state.first_norm(true_first), config)
        yield "FFN", fed
        inner = fed.add_(inner)
    yield "res2", inner
    if config.second_norm:
        inner = _normed(state.second_norm, inner, state.before_second_norm[:, rows], config)
    yield "encoder", inner


def _normed(
    norm: Norm,
    parts: Float[Tensor, "batch rows sources dim"],
    x: Float[Tensor, "batch rows dim"],
    config: DecompX,
) -> Float[Tensor, "batch rows sources dim"]:
    """The parts after a norm, in place, from the true vector before it."""
    parts -= parts.mean(dim=-1, keepdim=True)
    parts *= (norm.gamma / norm.deviation(x))[:, :, None]
    return _with_bias(parts, norm.beta, config)


def _value_parts(
    state: LayerState, parts: Float[Tensor, "batch seq sources dim"] | None
) -> Float[Tensor, "batch heads seq columns"]:
    """The values of every head at every position: of its own token, or of all sources, one after the other."""
    if parts is None:
        return state.heads(state.value(state.x)).transpose(1, 2)
    return state.heads(parts @ state.value.weight.T).permute(0, 3, 1, 2, 4).flatten(3)


def _attended(
    state: LayerState,
    parts: Float[Tensor, "batch seq sources dim"] | None,
    values: Float[Tensor, "batch heads seq columns"],
    rows: slice,
) -> Float[Tensor, "batch rows sources dim"]:
    """What attention adds to each part, mixed in head space, before any bias but that of the first layer's values."""
    p = state.probabilities[:, :, rows]
    if parts is None:
        mixed = p[..., None] * values[:, :, None]
    else:
        mixed = (p @ values).unflatten(-1, (parts.shape[2], -1))
    return mixed.permute(0, 2, 3, 1, 4).flatten(-2) @ state.output.weight.T


def _fed(
    state: LayerState,
    parts: Float[Tensor, "batch rows sources dim"],
    x: Float[Tensor, "batch rows dim"],
    config: DecompX,
) -> Float[Tensor, "batch rows sources dim"]:
    """What the MLP adds to each part."""
    z = state.up(x)
    hidden, bias = parts @ state.up.weight.T, state.up.bias
    if config.ffn == "linear":
        slope = torch.special.ndtr(z) + z * (-(z.square() + log(2 * pi)) / 2).exp()
        hidden = _with_bias(
            _with_bias(hidden, bias, config) * slope[:, :, None], state.activation(z) - slope * z, config
        )
        return _with_bias(hidden @ state.down.weight.T, state.down.bias, config)
    slope = (z > 0).to(z) if config.ffn == "relu" else state.activation(z) / (z + _SMALLEST)
    # A shared bias is of rank one: it goes through the MLP once for all sources, and no second tensor of the MLP's width is made.
    shares = _shares(hidden, bias, config.kind) if config.biases else None
    fed = hidden.mul_(slope[:, :, None]) @ state.down.weight.T
    if shares is not None:
        fed.addcmul_(shares[..., None], ((bias * slope) @ state.down.weight.T)[:, :, None])
    return _with_bias(fed, state.down.bias, config)


def _through_head(
    reading: EncoderReading, parts: Float[Tensor, "batch sources dim"], config: DecompX
) -> tuple[Float[Tensor, "batch sources dim"], Float[Tensor, "batch tokens classes"]]:
    """The parts after the classifier's first map, and the contributions to the logits."""
    z = reading.before_activation
    pooled = _with_bias(parts @ reading.dense.weight.T, reading.dense.bias, config)
    value = activate(reading.activation, z)
    if config.head == "linear":
        if reading.activation != "tanh":
            raise UserError(f"head=linear is of tanh, and this classifier has {reading.activation}.")
        slope = 1 - value.square()
        pooled = _with_bias(pooled * slope[:, None], value - slope * z, config)
    else:
        pooled = pooled * (value / (z + _SMALLEST))[:, None]
    contributions = _with_bias(pooled @ reading.classifier.weight.T, reading.classifier.bias, config)
    if config.bias.startswith("token-"):
        contributions = share_bias(
            contributions[:, :-1], contributions[:, -1], config.bias.removeprefix("token-")
        )
    return pooled, contributions
