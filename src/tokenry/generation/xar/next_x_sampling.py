"""Images from a `NextXModel`: entity after entity, each by a flow from noise behind the finished ones.

    entity k       noise → data by the SDE or the ODE, behind entities 0 … k − 1 as they were generated, at t = 1
    guidance       w_k = 1 + (guidance − 1) k / (E − 1); a lone entity has w = guidance; where w_k ≤ 1 the model without a class is not run
    caches         keys and values of a finished entity are made in the first flow step of the next one, and kept

Source: Beyond Next-Token: Next-X Prediction for Autoregressive Visual Generation (arXiv 2502.20388) and its released sampler, which is the SDE.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from tokenry.core.errors import UserError, require_at_least, require_one_of
from tokenry.core.io.progress import Progress
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.generation.flow_matching import (
    SDE_END,
    Velocity,
    euler,
    euler_maruyama,
    even_times,
    guide,
    sde_times,
)
from tokenry.generation.xar.next_x import EntityCache, NextXModel
from tokenry.generation.xar.partitions import Partition

EntityNoise = Callable[[int, int], Float[Tensor, "batch draws tokens channels"]]
"""Standard normal draws for an entity: the noise it begins as, that of each step of the SDE but the last, and that of `context_noise`."""


@dataclass(frozen=True)
class NextXSamplingConfig:
    """How images are sampled.

    Attributes:
        steps: flow steps of an entity, one number for all or one for each.
        solver: sde (the released one) or ode (Euler).
        guidance: weight of the class at the last entity; 1 for none.
        context_noise: standard deviation of noise that is put on a finished entity before later ones see it: a test of robustness.
        sde_end: where the last, noiseless step of the SDE begins.
    """

    steps: int | Sequence[int] = 40
    solver: str = "sde"
    guidance: float = 2.7
    context_noise: float = 0.0
    sde_end: float = SDE_END

    def __post_init__(self) -> None:
        for steps in [self.steps] if isinstance(self.steps, int) else self.steps:
            require_at_least(1, steps=steps)
        require_one_of(self.solver, ("sde", "ode"), "solver")
        require_at_least(0, guidance=self.guidance, context_noise=self.context_noise)
        sde_times(2, self.sde_end)

    def steps_of(self, partition: Partition) -> list[int]:
        """The flow steps of each entity.

        Raises:
            UserError: as many numbers as there are entities are needed.
        """
        if isinstance(self.steps, int):
            return [self.steps] * partition.entities
        if len(self.steps) != partition.entities:
            raise UserError(
                f"steps must be one number, or one for each of the {partition.entities} entities of {partition.name}, got {len(self.steps)}."
            )
        return list(self.steps)


def guidance_schedule(guidance: float, entities: int) -> list[float]:
    """The guidance of each entity: from 1 to `guidance` in even steps.

    Raises:
        UserError: guidance below 0, or no entity.
    """
    require_at_least(0, guidance=guidance)
    require_at_least(1, entities=entities)
    if entities == 1:
        return [guidance]
    return [1.0 + (guidance - 1.0) * entity / (entities - 1) for entity in range(entities)]


def generate_next_x(
    model: NextXModel,
    class_labels: Int[Tensor, "images"],
    config: NextXSamplingConfig | None = None,
    partition: Partition | None = None,
    seed: int = 0,
    batch_size: int = 64,
    noise: EntityNoise | None = None,
    progress: Progress = lambda what, share: None,
) -> Float[Tensor, "images channels height width"]:
    """Sample one image for each class label.

    Args:
        model: trained, on its device.
        class_labels: from 0; `model.config.classes` for none.
        config: how images are sampled.
        partition: what is generated at once; by default the first of the model.
        seed: image i has a generator of its own, seeded with `seed + i`: it does not depend on the others, nor on the batch size.
        batch_size: images at once.
        noise: draws of one's own, for all images in one batch.
        progress: told the share of the entities that is done.

    Raises:
        UserError: no image is asked for, or a class does not exist.
    """
    config, partition = config or NextXSamplingConfig(), partition or model.partitions[0]
    if len(class_labels) == 0:
        raise UserError("give at least one class label: one image is sampled for each.")
    require_at_least(1, batch_size=batch_size)
    batches = class_labels.to(model.device).split(len(class_labels) if noise else batch_size)
    tokens = []
    with evaluation_mode(model), torch.no_grad():
        for number, labels in enumerate(batches):
            seeds = range(seed + number * batch_size, seed + number * batch_size + len(labels))
            draws = noise or _PerImage(partition, model.config.channels, seeds)
            sampler = _Sampler(model, labels, partition, config, draws)
            for entity in range(partition.entities):
                progress("sampling", (number + entity / partition.entities) / len(batches))
                sampler.extend(entity)
            tokens.append(sampler.finished)
    return partition.merge(torch.cat(tokens)).float()


class _PerImage:
    """A generator for each image, on the processor, so that an image is the same on every device and in every batch."""

    def __init__(self, partition: Partition, channels: int, seeds: Sequence[int]) -> None:
        self._sizes, self._channels = partition.sizes, channels
        self._generators = [Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, entity: int, draws: int) -> Tensor:
        shape = (draws, self._sizes[entity], self._channels)
        return torch.stack([torch.randn(shape, generator=own) for own in self._generators])


class _Sampler:
    """The finished entities of a batch, and how the next one is made; the second half of the rows has no class.

    Attributes:
        finished: (batch, tokens, channels) float64, as they were generated.
    """

    def __init__(
        self,
        model: NextXModel,
        labels: Int[Tensor, "batch"],
        partition: Partition,
        config: NextXSamplingConfig,
        noise: EntityNoise,
    ) -> None:
        self.model, self.partition, self.config, self.noise = model, partition, config, noise
        self.steps = config.steps_of(partition)
        self.weights = guidance_schedule(config.guidance, partition.entities)
        self.batch = len(labels)
        self.labels = torch.cat([labels, torch.full_like(labels, model.config.classes)])
        rows = self.batch * (2 if max(self.weights) > 1 else 1)
        self.cache = EntityCache.empty(model, rows, partition.tokens)
        self.mask = partition.attention_mask().to(model.device)
        self.cached = 0
        empty = torch.empty(self.batch, 0, model.config.channels, device=model.device)
        self.finished, self._seen = empty.double(), empty

    def extend(self, entity: int) -> None:
        """Generate the next entity."""
        steps = self.steps[entity]
        draws = self.noise(entity, steps + 1).to(self.model.device)
        start = draws[:, 0].double()
        velocity = self._velocity(entity)
        if self.config.solver == "ode":
            made = euler(velocity, start, even_times(steps))
        else:
            times = sde_times(steps, self.config.sde_end)
            made = euler_maruyama(velocity, start, times, lambda step: draws[:, 1 + step].double())
        seen = made + self.config.context_noise * draws[:, -1] if self.config.context_noise else made
        self.finished = torch.cat([self.finished, made], dim=1)
        self._seen = torch.cat([self._seen, seen.float()], dim=1)

    def _velocity(self, entity: int) -> Velocity:
        """The guided velocity of an entity; the first call puts what came before into the cache.

        Only the first entity can be unguided where others are guided, and it has nothing before it: both halves are cached alike.
        """
        weight, starts = self.weights[entity], self.partition.starts
        halves = 2 if weight > 1 else 1
        labels = self.labels[: halves * self.batch]
        alone = self.model.layout(self.partition, [entity])

        def velocity(x: Tensor, t: float) -> Tensor:
            before = range(self.cached, entity)
            tokens = torch.cat([self._seen[:, starts[self.cached] :], x.float()], dim=1)
            times = torch.tensor([1.0] * len(before) + [t], dtype=torch.float64, device=x.device)
            found = self.model.velocity(
                tokens.repeat(halves, 1, 1),
                times.expand(len(labels), -1),
                labels,
                self.model.layout(self.partition, [*before, entity]) if before else alone,
                self.mask[starts[self.cached] : starts[entity + 1], : starts[entity + 1]] if before else None,
                self.cache.view(slice(0, len(labels)), starts[self.cached]),
            )
            self.cached = entity
            parts = found[:, -x.shape[1] :].double().split(self.batch)
            return guide(parts[0], parts[1], weight) if halves == 2 else parts[0]

        return velocity
