"""`DraftTrainer`: TRL's `SFTTrainer` that trains a drafter inside a frozen model.

    drafter = Drafter(model, k=4, rank=16)
    trainer = DraftTrainer(drafter, args=SFTConfig(...), train_dataset=...)

Data, optimiser, schedule, gradient accumulation and checkpointing, DDP and resuming are TRL's. Every batch is read once, with blocks of
masks behind all tokens or behind a random share of them; checkpoints and the saved model hold the drafter alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from trl import SFTConfig, SFTTrainer

from tokenry.core.errors import UserError, require_at_least, require_share
from tokenry.core.tensors.alignment import IGNORED
from tokenry.core.tensors.token_loss import add_token_loss
from tokenry.decoding.multi_token.drafter import Drafter, DraftLosses


class DraftLoss:
    """The losses of a drafter inside the model's own forward; a `TokenLoss`.

    Args:
        drafter: that learns.
        input_ids: texts, padded on the right.
        labels: tokens to be predicted, −100 for the others.
        real: tokens that are not padding.
        anchors: tokens that a block of masks stands behind.
        consistency: weight of the latent consistency, as a mean over the width.

    Attributes:
        losses: what was computed; None before.
    """

    def __init__(
        self,
        drafter: Drafter,
        input_ids: Int[Tensor, "batch tokens"],
        labels: Int[Tensor, "batch tokens"],
        real: Bool[Tensor, "batch tokens"],
        anchors: Int[Tensor, "1 blocks"],
        consistency: float | int,
    ) -> None:
        self.drafter, self.input_ids, self.labels = drafter, input_ids, labels
        self.real, self.anchors, self.consistency = real, anchors, consistency
        self.losses: DraftLosses | None = None

    def __call__(self, backbone: Callable[..., Any], model: PreTrainedModel) -> Float[Tensor, ""]:
        """Read the rows with the model's backbone, and sum the losses."""
        self.losses = self.drafter.losses(self.input_ids, self.labels, self.real, self.anchors, backbone)
        width = self.drafter.masks.shape[1]
        return self.losses.base + self.losses.sampler + self.consistency / width * self.losses.consistency


def draw_anchors(labels: Int[Tensor, "batch tokens"], share: float | int) -> Int[Tensor, "1 blocks"]:
    """Draw the tokens that a block stands behind, the same in all texts of a batch, in order.

    Args:
        labels: tokens to be predicted, −100 for the others; a block is only of use where its first mask has one of them to predict.
        share: share of the tokens of use; 1 for all.
    """
    useful = (labels[:, 2:] != IGNORED).any(0).nonzero()[:, 0]
    if not len(useful):
        useful = torch.zeros(1, dtype=torch.long, device=labels.device)
    drawn = torch.randperm(len(useful), device=labels.device)[: max(1, round(share * len(useful)))]
    return useful[drawn.sort().values][None]


class DraftTrainer(SFTTrainer):
    """`SFTTrainer` for a drafter; its base model stays as it is.

    Args:
        drafter: to be trained, on its model.
        args: as for `SFTTrainer`; packing and `padding_free` are refused.
        block_share: share of the tokens that a block of masks stands behind; a quarter takes about a quarter of the memory.
        consistency: weight of the latent consistency.
        **kwargs: as for `SFTTrainer`.

    Raises:
        UserError: arguments under which a drafter cannot be trained.
    """

    def __init__(
        self,
        drafter: Drafter,
        args: SFTConfig | None = None,
        *,
        block_share: float | int = 1.0,
        consistency: float | int = 1.0,
        **kwargs: Any,
    ) -> None:
        require_share(block_share, "block_share")
        require_at_least(0, consistency=consistency)
        args = SFTConfig("draft-model") if args is None else args
        if args.packing or args.padding_free:
            raise UserError(
                "packing and padding_free put several texts in one row, and masks would see all of them: set both to False."
            )
        for name in ("peft_config", "compute_loss_func", "compute_metrics"):
            if kwargs.get(name) is not None:
                raise UserError(
                    f"{name} is of no use to a drafter, which brings its own adapters and losses: leave it out."
                )
        self.drafter, self.block_share, self.consistency = drafter, block_share, consistency
        super().__init__(drafter.model, args, **kwargs)
        # The losses are means of the batch, not sums over the tokens of all batches of a step.
        self.model_accepts_loss_kwargs = False
        add_token_loss(self.model)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as TRL does, with the base model frozen and the drafter a part of it for that time, so that DDP wraps both."""
        inner = self.drafter.model
        frozen = [parameter for parameter in inner.parameters() if parameter.requires_grad]
        for parameter in frozen:
            parameter.requires_grad = False
        inner.add_module("drafter", self.drafter)
        try:
            return super().train(*args, **kwargs)
        finally:
            del inner.drafter
            for parameter in frozen:
                parameter.requires_grad = True

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Train one step; the backward of gradient checkpointing needs the masks too."""
        with self.drafter.lora.gate.held():
            return super().training_step(*args, **kwargs)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The losses of a batch, formed inside the model's own forward."""
        real, labels = inputs["attention_mask"].bool(), inputs["labels"]
        loss = DraftLoss(
            self.drafter,
            inputs["input_ids"],
            labels,
            real,
            draw_anchors(labels, self.block_share),
            self.consistency,
        )
        total = model(input_ids=inputs["input_ids"], token_loss=loss).loss
        assert loss.losses is not None
        mode = "train" if self.model.training else "eval"
        for name, value in loss.losses._asdict().items():
            found = self.accelerator.gather_for_metrics(value.detach().float())
            self._metrics[mode][f"draft_{name}"].append(found.mean().item())
        if mode == "train":
            self._total_train_tokens += self.accelerator.gather_for_metrics(real.sum()).sum().item()
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        return total

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self.drafter.save(output_dir or self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.drafter.load_weights(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self.drafter.load_weights(self.state.best_model_checkpoint)
