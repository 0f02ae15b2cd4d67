"""The flow head: a small MLP that says, from one hidden state, the distribution of the next continuous token.

    y          = TimeEmbedding(t) + W_c h
    block      x ← x + gate · MLP(LN(x) · (1 + scale) + shift),   (shift, scale, gate) = W SiLU(y) + b
    loss       |v(x_t, t, h) − (data − (1 − σ) noise)|², t ~ U(0, 1), K draws of noise and t per hidden state (`conditional_flow_loss`)
    sampling   N steps from temperature · noise at t = 0 to data at t = 1 (`sample_flow`)

The times of all steps are known before the first, so time embeddings and modulations of all steps are one matrix product per block, and a step
is left with the MLPs alone.

Sources: Flow-Omni (arXiv 2412.04917); the head is that of MAR (arXiv 2406.11838), the path Matcha-TTS's (arXiv 2309.03199). No code of
Flow-Omni was released.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.generation.conditioning import Modulation, TimeEmbedding, modulate
from tokenry.generation.flow_matching import (
    euler,
    even_times,
    flow_matching_loss,
    flow_path,
    guide,
    midpoint,
)

Solver = Literal["euler", "midpoint"]

_EPS = 1e-6
_MOST_MODULATIONS = 1 << 25
"""Numbers that the modulations of all steps may take at once (128 MB in float32); more rows are sampled in turn."""


class _HeadBlock(nn.Module):
    """A residual block; `rows` of its modulation: shift, scale, gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = Modulation(width, width, ("shift", "scale", "gate"))

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        return x + gate * self.mlp(modulate(self.norm(x), shift, scale))


class FlowHead(nn.Module):
    """The velocity of a continuous token at a time on its path, given a hidden state. It computes in its own precision.

    Args:
        channels: channels of a token.
        condition: size of a hidden state.
        width: width of the blocks.
        depth: number of blocks.
    """

    def __init__(self, channels: int, condition: int, width: int = 1024, depth: int = 3) -> None:
        super().__init__()
        require_at_least(1, channels=channels, condition=condition, width=width, depth=depth)
        self.channels = channels
        self.time = TimeEmbedding(width)
        self.condition, self.inward = nn.Linear(condition, width), nn.Linear(channels, width)
        self.blocks = nn.ModuleList(_HeadBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=_EPS, elementwise_affine=False)
        self.modulation = Modulation(width, width, ("shift", "scale"))
        self.outward = nn.Linear(width, channels)
        self._initialise()

    def _initialise(self) -> None:
        """Xavier; 0 for modulations and the output; N(0, 0.02²) for the time."""
        linears = [module for module in self.modules() if isinstance(module, nn.Linear)]
        for linear in linears:
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        for zero in (self.outward, *(part.linear for part in self._modulations())):
            nn.init.zeros_(zero.weight)
        for linear in (module for module in self.time.modules() if isinstance(module, nn.Linear)):
            nn.init.normal_(linear.weight, std=0.02)

    def forward(
        self,
        x_t: Float[Tensor, "rows given"],
        t: Float[Tensor, "times"],
        hidden: Float[Tensor, "states condition"],
    ) -> Float[Tensor, "rows channels"]:
        """The velocity of each row.

        Raises:
            UserError: rows that do not belong together, or tokens of another size.
        """
        if x_t.shape[-1] != self.channels:
            raise UserError(
                f"the tokens have {x_t.shape[-1]} channels and the head has {self.channels}: group frames as it was trained."
            )
        if not len(x_t) == len(t) == len(hidden):
            raise UserError(
                f"{len(x_t)} tokens, {len(t)} times and {len(hidden)} hidden states do not belong together: give one of each a row."
            )
        dtype = self.inward.weight.dtype
        y = self.time(t).to(dtype) + self.condition(hidden.to(dtype))
        return self._through(x_t.to(dtype), [part(y) for part in self._modulations()])

    def modulations(
        self, times: list[float], hidden: Float[Tensor, "rows condition"]
    ) -> "dict[float, list[dict[str, Float[Tensor, 'rows width']]]]":
        """The modulations of all blocks at every time, for `velocity`."""
        dtype = self.inward.weight.dtype
        at = self.time(
            torch.tensor(times, device=hidden.device, dtype=torch.promote_types(dtype, torch.float32))
        )
        y = at.to(dtype)[:, None] + self.condition(hidden.to(dtype))
        parts = [part(y) for part in self._modulations()]
        return {
            time: [{name: rows[place] for name, rows in part.items()} for part in parts]
            for place, time in enumerate(times)
        }

    def velocity(
        self, x: Float[Tensor, "rows channels"], modulations: "list[dict[str, Float[Tensor, 'rows width']]]"
    ) -> Float[Tensor, "rows channels"]:
        """The velocity of each row under modulations that were computed before."""
        return self._through(x, modulations)

    def _modulations(self) -> list[Modulation]:
        return [*(block.modulation for block in self.blocks), self.modulation]  # type: ignore[list-item]

    def _through(self, x: Tensor, modulations: list[dict[str, Tensor]]) -> Tensor:
        x = self.inward(x)
        for block, rows in zip(self.blocks, modulations, strict=False):
            x = block(x, **rows)
        return self.outward(modulate(self.norm(x), **modulations[-1]))


def released_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the released head of MAR (`SimpleMLPAdaLN`) under the names of a `FlowHead`."""
    names = (
        ("time_embed.", "time."),
        ("cond_embed.", "condition."),
        ("input_proj.", "inward."),
        ("res_blocks.", "blocks."),
        (".in_ln.", ".norm."),
        ("adaLN_modulation.1.", "modulation.linear."),
        ("final_layer.linear.", "outward."),
        ("final_layer.", ""),
    )
    found = {}
    for name, weight in weights.items():
        for theirs, ours in names:
            name = name.replace(theirs, ours)
        found[name] = weight
    return found


class FlowDraws(NamedTuple):
    """Noise and a time for each of several draws per token."""

    noise: Float[Tensor, "draws rows channels"]
    t: Float[Tensor, "draws rows"]

    @classmethod
    def of(
        cls, tokens: Float[Tensor, "rows channels"], repeats: int, generator: Generator | None = None
    ) -> "FlowDraws":
        """Draw them.

        Raises:
            UserError: no draws at all.
        """
        require_at_least(1, repeats=repeats)
        shape = (repeats, *tokens.shape)
        options: Any = {"generator": generator, "device": tokens.device, "dtype": tokens.dtype}
        return cls(torch.randn(shape, **options), torch.rand(shape[:-1], **options))


def conditional_flow_loss(
    head: FlowHead,
    tokens: Float[Tensor, "*batch channels"],
    hidden: Float[Tensor, "*before condition"],
    mask: Bool[Tensor, "*given"] | Float[Tensor, "*given"] | None = None,
    sigma_min: float = 1e-4,
    draws: FlowDraws | int = 4,
    element_mask: Float[Tensor, "*batch channels"] | None = None,
    generator: Generator | None = None,
) -> Float[Tensor, ""]:
    """The flow-matching loss of continuous tokens, a mean over real tokens; the others never meet the head.

    Args:
        head: the velocity.
        tokens: the tokens that are to be said, normalised.
        hidden: the hidden state that says each.
        mask: tokens that are real; None for all.
        sigma_min: width that is left around the data.
        draws: number of draws of noise and time per token, or the draws themselves, of the tokens that are real.
        element_mask: 0 for elements of a real token that are padding.
        generator: of the draws.

    Raises:
        UserError: shapes that do not fit, tokens that are not finite, or a mask that keeps nothing.
    """
    if tokens.shape[:-1] != hidden.shape[:-1]:
        raise UserError(
            f"tokens of shape {tuple(tokens.shape)} and hidden states of {tuple(hidden.shape)} do not belong together: give the hidden "
            "state before each token, not that at it."
        )
    if mask is not None and mask.shape != tokens.shape[:-1]:
        raise UserError(
            f"the mask has the shape {tuple(mask.shape)}, and the tokens need one of {tuple(tokens.shape[:-1])}."
        )
    real = (
        torch.ones(tokens.shape[:-1], dtype=torch.bool, device=tokens.device) if mask is None else mask.bool()
    )
    if not bool(real.any()):
        raise UserError("the mask keeps nothing, so there is no loss: leave such a batch out.")
    # A path in half precision would know 256 times.
    data = tokens[real].to(torch.promote_types(head.inward.weight.dtype, torch.float32))
    if not bool(data.isfinite().all()):
        raise UserError("the tokens hold nan or inf: leave out the waves that they come from.")
    elements = None if element_mask is None else element_mask[real].to(data)
    drawn = FlowDraws.of(data, draws, generator) if isinstance(draws, int) else draws
    number = len(drawn.noise)
    x_t, velocity = flow_path(drawn.noise, data.expand(number, *data.shape), drawn.t, sigma_min)
    predicted = head(x_t.flatten(0, 1), drawn.t.flatten(), hidden[real].repeat(number, 1))
    kept = None if elements is None else elements.repeat(number, 1)
    return flow_matching_loss(predicted, velocity.flatten(0, 1), kept)


@torch.no_grad()
def sample_flow(
    head: FlowHead,
    hidden: Float[Tensor, "rows condition"],
    steps: int = 10,
    solver: str = "euler",
    temperature: float | int = 1.0,
    guidance: float | int = 0.0,
    null_hidden: Float[Tensor, "condition"] | None = None,
    noise: Float[Tensor, "given noise_channels"] | None = None,
    generator: Generator | None = None,
) -> Float[Tensor, "rows channels"]:
    """Draw one token for each hidden state.

    Args:
        head: the velocity.
        hidden: hidden states.
        steps: steps from noise to data.
        solver: euler, or midpoint with two evaluations a step.
        temperature: of the noise; 0 follows the path of its mean.
        guidance: g in (1 + g) v(hidden) − g v(null_hidden); 0 needs one evaluation instead of two.
        null_hidden: stands for no condition.
        noise: drawn where it is not given.
        generator: of the noise.

    Raises:
        UserError: no step, an unknown solver, a temperature below 0, or guidance without `null_hidden`.
    """
    require_at_least(1, steps=steps)
    require_one_of(solver, get_args(Solver), "solver")
    require_at_least(0, temperature=temperature)
    if guidance and null_hidden is None:
        raise UserError(
            f"guidance of {guidance:g} needs the vector that stands for no condition: train with condition_dropout above 0."
        )
    dtype = head.inward.weight.dtype
    shape = (len(hidden), head.channels)
    if noise is None:
        noise = torch.randn(shape, generator=generator, device=hidden.device, dtype=dtype)
    elif tuple(noise.shape) != shape:
        raise UserError(f"noise must have the shape {shape}, got {tuple(noise.shape)}.")
    times = even_times(steps)
    asked = times[:-1] if solver == "euler" else _with_middles(times)
    width = (3 * len(head.blocks) + 2) * head.inward.out_features * len(asked) * (2 if guidance else 1)
    rows = max(1, _MOST_MODULATIONS // width)
    found = [
        _solve(head, part, asked, times, solver, guidance, null_hidden, temperature * start)
        for part, start in zip(hidden.split(rows), noise.to(dtype).split(rows), strict=True)
    ]
    return torch.cat(found) if found else noise


def _with_middles(times: list[float]) -> list[float]:
    """Where the midpoint rule asks for a velocity."""
    found = []
    for start, end in pairwise(times):
        found += [start, start + (end - start) / 2]
    return found


def _solve(
    head: FlowHead,
    hidden: Tensor,
    asked: list[float],
    times: list[float],
    solver: str,
    guidance: float | int,
    null_hidden: Tensor | None,
    x: Tensor,
) -> Tensor:
    if guidance and null_hidden is not None:
        both = torch.cat([hidden, null_hidden.to(hidden).expand_as(hidden)])
    else:
        both = hidden
    known = head.modulations(asked, both)

    def velocity(x: Tensor, t: float) -> Tensor:
        if both is hidden:
            return head.velocity(x, known[t])
        conditional, unconditional = head.velocity(x.repeat(2, 1), known[t]).chunk(2)
        return guide(conditional, unconditional, 1.0 + guidance)

    return (euler if solver == "euler" else midpoint)(velocity, x, times)
