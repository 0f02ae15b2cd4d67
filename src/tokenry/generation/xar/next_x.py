"""xAR: a causal transformer over entities that regresses the velocity of the next one, with noisy entities before it.

    x_k(t_k)      (1 − t_k) noise + t_k latents of entity k, with a time of its own           noisy context: nothing clean is seen in training
    loss          mean (f(x_1(t_1) … x_E(t_E)) − velocity)²                                   one pass for all entities
    block         x += gate1 · attention(rms(x) (1 + scale1) + shift1);  x += gate2 · mlp(rms(x) (1 + scale2) + shift2)
    condition     embedding of the class + embedding of the time, one for each entity

Source: Beyond Next-Token: Next-X Prediction for Autoregressive Visual Generation (arXiv 2502.20388). The paper and its released weights count
time from data to noise: they are turned round in `NextXModel.velocity`, and nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from tokenry.core.errors import UserError
from tokenry.generation.conditioning import Modulation, TimeEmbedding, modulate, rms_norm
from tokenry.generation.flow_matching import flow_matching_loss, flow_path, logit_normal_times, require_times
from tokenry.generation.xar.next_x_config import NextXConfig
from tokenry.generation.xar.partitions import Partition

ROWS = ("gate1", "gate2", "scale1", "scale2", "shift1", "shift2")
"""What the modulation of a block holds, in the order of the released weights."""


@dataclass
class NextXOutput(ModelOutput):
    """What a training batch gives.

    Attributes:
        loss: mean squared error of the velocity.
        velocity: (batch, tokens, channels), from noise to data.
    """

    loss: Any = None
    velocity: Any = None


class NextXModel(PreTrainedModel):
    """The network, trained by `transformers.Trainer` on rows of `latents` (channels, height, width) and `class_labels`."""

    config_class = NextXConfig
    config: NextXConfig
    base_model_prefix = "next_x"
    main_input_name = "latents"
    supports_gradient_checkpointing = True
    _no_split_modules = ["NextXBlock"]  # noqa: RUF012
    _supports_sdpa = True

    def __init__(self, config: NextXConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.partitions = tuple(
            Partition.named(name, config.height, config.width) for name in config.partitions
        )
        self._offsets, rows = _offsets(self.partitions)
        self.input = nn.Linear(config.channels, width)
        self.encoder_positions = nn.Parameter(torch.zeros(rows, width))
        self.decoder_positions = nn.Parameter(torch.zeros(rows, width))
        self.class_embedding = nn.Embedding(config.classes + 1, width)
        self.time_embedding = TimeEmbedding(width, quantised=not config.continuous_time)
        self.layers = nn.ModuleList(NextXBlock(config) for _ in range(config.num_hidden_layers))
        self.input_norm = nn.Parameter(torch.ones(width))
        self.encoder_norm = nn.Parameter(torch.ones(width))
        self.decoder_norm = nn.Parameter(torch.ones(width))
        self.decoder_input = nn.Linear(width, width)
        self.head = nn.Linear(width, config.channels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The classes: what FSDP2 shards apart from the blocks."""
        return self.class_embedding

    def _init_weights(self, module: nn.Module) -> None:
        """Xavier for matrices, 0.02 for positions; modulations start at 0, so that every block starts as the identity.

        Embeddings of classes have unit variance: at 0.02, as in the released code, a small model had not learned them in 300 steps.
        """
        if module is self:
            for positions in (self.encoder_positions, self.decoder_positions):
                nn.init.normal_(positions, std=0.02)
            for norm in (self.input_norm, self.encoder_norm, self.decoder_norm):
                nn.init.ones_(norm)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
        elif isinstance(module, nn.Linear):
            modulates = any(module is part.linear for part in self.modules() if isinstance(part, Modulation))
            (nn.init.zeros_ if modulates else nn.init.xavier_uniform_)(module.weight)
            nn.init.zeros_(module.bias)

    def forward(
        self,
        latents: Float[Tensor, "batch channels height width"],
        class_labels: Int[Tensor, "batch"],
        times: Float[Tensor, "batch entities"] | None = None,
        noise: Float[Tensor, "batch tokens channels"] | None = None,
        partition: Partition | None = None,
        return_loss: bool = True,
    ) -> NextXOutput:
        """The loss of a batch.

        Args:
            latents: of unit standard deviation.
            class_labels: from 0; `config.classes` for none.
            times: t of every entity, 0 for noise and 1 for data; drawn logit-normally by default.
            noise: standard normal; drawn by default.
            partition: what is predicted at once; by default one of the configuration's, drawn where there are several.
            return_loss: whether there is a loss.

        Raises:
            UserError: latents of another shape, or a class that does not exist.
        """
        if latents.shape[1] != self.config.channels:
            raise UserError(
                f"the latents have {latents.shape[1]} channels, and the model takes {self.config.channels}."
            )
        partition = partition or self._drawn_partition()
        tokens = partition.split(latents)
        if times is None:
            times = logit_normal_times(len(tokens), partition.entities, device=tokens.device)
        noise = torch.randn_like(tokens) if noise is None else noise
        of_tokens = times[:, partition.entity_ids.to(times.device)]
        noisy, target = flow_path(noise, tokens, of_tokens)
        if self.training and self.config.label_dropout:
            withheld = torch.rand(len(tokens), device=tokens.device) < self.config.label_dropout
            class_labels = class_labels.masked_fill(withheld, self.config.classes)
        if self.config.clean_context:
            velocity = self._after_clean_context(tokens, noisy, times, class_labels, partition)
        else:
            mask = partition.attention_mask().to(tokens.device)
            velocity = self.velocity(noisy, times, class_labels, self.layout(partition), mask)
        loss = flow_matching_loss(velocity, target.to(velocity.dtype)) if return_loss else None
        return NextXOutput(loss, velocity)

    def layout(self, partition: Partition, entities: Sequence[int] | None = None) -> "EntityLayout":
        """What the model has to know of the tokens of some entities, one after the other; by default of all."""
        entities = range(partition.entities) if entities is None else entities
        starts, device = partition.starts, self.device
        at = torch.cat([torch.arange(starts[entity], starts[entity + 1]) for entity in entities])
        half = self.config.hidden_size // self.config.num_attention_heads // 2
        frequencies = self.config.rope_theta ** -(torch.arange(half // 2) * 2 / half)
        angles = (partition.coordinates[at][:, :, None] * frequencies).flatten(1)
        return EntityLayout(
            tuple(partition.sizes[entity] for entity in entities),
            self._position_rows(partition)[at].to(device),
            torch.polar(torch.ones_like(angles), angles).to(device),
        )

    def velocity(
        self,
        tokens: Float[Tensor, "batch tokens channels"],
        times: Float[Tensor, "batch entities"],
        class_labels: Int[Tensor, "batch"],
        layout: "EntityLayout",
        mask: Bool[Tensor, "tokens keys"] | None = None,
        cache: "EntityCache | None" = None,
    ) -> Float[Tensor, "batch tokens channels"]:
        """The velocity from noise to data at the tokens of some entities.

        Args:
            tokens: of the entities, one after the other.
            times: t of each of them.
            class_labels: from 0; `config.classes` for none.
            layout: of the entities, `self.layout(partition, entities)`.
            mask: True where a token may attend to another; None for everything, what is cached included.
            cache: keys and values of the entities before them, behind which those of these are written.

        Raises:
            UserError: a time or a class that does not exist.
        """
        require_times(times)
        self._require_classes(class_labels)

        # The door: the network counts time from data to noise, and its velocity points that way.
        condition = self.time_embedding((1.0 - times.double()).float())
        condition = condition + self.class_embedding(class_labels)[:, None]

        x = _precise(self.input(tokens.to(self.input.weight.dtype)) + self.encoder_positions[layout.rows])
        x = rms_norm(x, self.input_norm)
        for number, layer in enumerate(self.layers):
            if number == self.config.num_encoder_layers:
                x = self._into_decoder(x, layout.rows)
            x = layer(x, condition, layout, mask, number, cache)
        if self.config.num_encoder_layers == len(self.layers):
            x = self._into_decoder(x, layout.rows)
        x = rms_norm(x, self.decoder_norm)
        return -_precise(self.head(x.to(self.head.weight.dtype)))

    def _into_decoder(
        self, x: Float[Tensor, "batch tokens width"], rows: Int[Tensor, "tokens"]
    ) -> Float[Tensor, "batch tokens width"]:
        x = rms_norm(x, self.encoder_norm).to(self.decoder_input.weight.dtype)
        return _precise(self.decoder_input(x) + self.decoder_positions[rows])

    def _after_clean_context(
        self, clean: Tensor, noisy: Tensor, times: Tensor, class_labels: Tensor, partition: Partition
    ) -> Tensor:
        """The velocity of the noisy entities, each behind clean ones: 2 N tokens, of which the second half is what is asked for."""
        ids = partition.entity_ids.to(clean.device)
        before, own = ids[None, :] < ids[:, None], ids[None, :] == ids[:, None]
        mask = torch.cat(
            [torch.cat([before | own, torch.zeros_like(own)], dim=1), torch.cat([before, own], dim=1)]
        )
        found = self.velocity(
            torch.cat([clean, noisy], dim=1),
            torch.cat([torch.ones_like(times), times], dim=1),
            class_labels,
            self.layout(partition, [*range(partition.entities)] * 2),
            mask,
        )
        return found[:, clean.shape[1] :]

    def _drawn_partition(self) -> Partition:
        if not self.training or len(self.partitions) == 1:
            return self.partitions[0]
        return self.partitions[int(torch.randint(len(self.partitions), ()))]

    def _position_rows(self, partition: Partition) -> Int[Tensor, "tokens"]:
        """The row of each token in the tables of positions: its place in the grid, whatever the partition; scales have rows of their own."""
        if not partition.scales:
            return partition.order
        sides = [*partition.scales[:-1]]
        if missing := [side for side in sides if side not in self._offsets]:
            raise UserError(
                f"the model was not made for a scale of {missing[0]}: give the partition {partition.name} to its configuration."
            )
        smaller = [self._offsets[side] + torch.arange(side * side) for side in sides]
        return torch.cat([*smaller, torch.arange(partition.height * partition.width)])

    def _require_classes(self, class_labels: Int[Tensor, "batch"]) -> None:
        outside = (class_labels < 0) | (class_labels > self.config.classes)
        if outside.any():
            raise UserError(
                f"a class must be from 0 to {self.config.classes - 1}, or {self.config.classes} for none, got "
                f"{int(class_labels[outside][0])}."
            )


@dataclass(frozen=True)
class EntityLayout:
    """The tokens of entities, one after the other.

    Attributes:
        sizes: tokens of each entity.
        rows: row of each token in the tables of positions.
        rotation: rotary positions, a complex number of length 1 for each pair of a head: the first half turns by row, the second by column.
    """

    sizes: tuple[int, ...]
    rows: Int[Tensor, "tokens"]
    rotation: Complex[Tensor, "tokens pairs"]

    @property
    def _equal(self) -> bool:
        return len(set(self.sizes)) == 1

    def over_tokens(self, row: Float[Tensor, "batch entities width"]) -> Tensor:
        """One row for each entity beside its tokens: broadcast where entities are equal, copied to each token where they are not."""
        row = _precise(row)
        if self._equal:
            return row[:, :, None]
        return row.repeat_interleave(torch.tensor(self.sizes, device=row.device), dim=1)

    def by_entity(self, x: Float[Tensor, "batch tokens width"]) -> Tensor:
        """Tokens as such rows are broadcast over them."""
        return x.unflatten(1, (len(self.sizes), self.sizes[0])) if self._equal else x

    def flat(self, x: Tensor) -> Float[Tensor, "batch tokens width"]:
        """Tokens one after the other again."""
        return x.flatten(1, 2) if self._equal else x


class NextXBlock(GradientCheckpointingLayer):
    """Attention and a gated MLP behind norms whose scale, shift and gate the condition says; the residual stays in float32."""

    def __init__(self, config: NextXConfig) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.hidden_size * 4 * 2 // 3
        self.heads, self.dropout = config.num_attention_heads, config.dropout
        self.modulation = Modulation(width, width, ROWS)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.gate, self.up = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropped = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        condition: Float[Tensor, "batch entities width"],
        layout: "EntityLayout",
        mask: Bool[Tensor, "tokens keys"] | None,
        number: int,
        cache: "EntityCache | None",
    ) -> Float[Tensor, "batch tokens width"]:
        """Add both parts to the residual."""
        rows = {name: layout.over_tokens(row) for name, row in self.modulation(condition).items()}
        x = layout.by_entity(x)
        inside = self._modulated(x, rows["shift1"], rows["scale1"])
        attended = self._attention(layout.flat(inside), layout.rotation, mask, number, cache)
        x = torch.addcmul(x, rows["gate1"], layout.by_entity(attended))
        inside = self._modulated(x, rows["shift2"], rows["scale2"])
        made = self.dropped(self.down(gelu(self.gate(inside)) * self.up(inside)))
        return layout.flat(torch.addcmul(x, rows["gate2"], made))

    def _modulated(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return modulate(rms_norm(x), shift, scale).to(self.qkv.weight.dtype)

    def _attention(
        self, inside: Tensor, rotation: Tensor, mask: Tensor | None, number: int, cache: "EntityCache | None"
    ) -> Tensor:
        query_key, value = (
            self.qkv(inside).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).split([2, 1])
        )
        (query, key), value = _rotated(query_key, rotation), value[0]
        if cache is not None:
            key, value = cache.write(number, key, value)
        found = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )
        return self.dropped(self.projection(found.transpose(1, 2).flatten(2)))


@dataclass(frozen=True)
class EntityCache:
    """Keys and values of the entities before the one that is generated, in memory that is taken once.

    Attributes:
        memory: (layers, 2, batch, heads, tokens, head).
        start: tokens that are kept: what is written lies behind them, and the next writes over it.
    """

    memory: Float[Tensor, "layers 2 batch heads tokens head"]
    start: int = 0

    @classmethod
    def empty(cls, model: NextXModel, batch: int, tokens: int) -> "EntityCache":
        """Memory for a batch of so many tokens."""
        config, weight = model.config, model.input.weight
        head = config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, 2, batch, config.num_attention_heads, tokens, head)
        return cls(torch.empty(shape, dtype=weight.dtype, device=weight.device))

    def view(self, rows: slice, start: int) -> "EntityCache":
        """The same memory for some rows of the batch, of which so many tokens are kept."""
        return EntityCache(self.memory[:, :, rows], start)

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values behind those that are kept, and return all."""
        end = self.start + key.shape[2]
        keys, values = self.memory[layer]
        keys[:, :, self.start : end], values[:, :, self.start : end] = key, value
        return keys[:, :, :end], values[:, :, :end]


def _offsets(partitions: Sequence[Partition]) -> tuple[dict[int, int], int]:
    """Where the rows of each smaller scale begin behind those of the grid, and the number of all rows."""
    rows, offsets = partitions[0].height * partitions[0].width, {}
    for side in sorted({side for partition in partitions for side in partition.scales[:-1]}):
        offsets[side] = rows
        rows += side * side
    return offsets, rows


def _rotated(
    x: Float[Tensor, "*batch tokens head"], rotation: Complex[Tensor, "tokens pairs"]
) -> Float[Tensor, "*batch tokens head"]:
    """Each adjacent pair of a head turned by its angle."""
    pairs = torch.view_as_complex(_precise(x).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
