"""`ReplacedTokenTrainer`: `transformers.Trainer` for replaced-token detection.

    trainer = ReplacedTokenTrainer(ReplacedTokenPretrainer(generator, encoder, tokenizer), args, train_dataset=…, processing_class=tokenizer)
    trainer.train()
    trainer.model.discriminator_only().save_pretrained("encoder")

Several processes, accumulation, gradient checkpointing, trackers and resuming are the Trainer's. The losses are means over all tokens of a
step, whatever micro-batches and processes it is split into, and what is drawn follows from the seed, the step and the tokens of a row.
"""

import logging
from collections.abc import Iterable, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainingArguments

from tokenry.core.errors import UserError
from tokenry.core.train.checkpoints import apart
from tokenry.core.train.signatures import with_parameters_of
from tokenry.pretraining.released_optimizer import ElectraAdamW, official_lr
from tokenry.pretraining.replaced_token_metrics import COUNTS, figures
from tokenry.pretraining.replaced_tokens import ReplacedTokenPretrainer

logger = logging.getLogger(__name__)
_OWN = ("compute_loss_func", "compute_metrics", "optimizer_cls_and_kwargs")


class ReplacedTokenTrainer(Trainer):
    """`Trainer` for a `ReplacedTokenPretrainer`; it logs how well generator and discriminator do.

    Args:
        *args: as for `Trainer`; the data set has `input_ids`, and what else the encoders read.
        released_optimizer: `ElectraAdamW` with the schedule of the released code, instead of what the arguments say.
        **kwargs: as for `Trainer`.

    Raises:
        UserError: arguments under which a pair cannot be trained.
    """

    _signature_columns: list[str] | None

    @with_parameters_of(Trainer.__init__)
    def __init__(self, *args: Any, released_optimizer: bool = False, **kwargs: Any) -> None:
        if given := [name for name in _OWN if kwargs.get(name) is not None]:
            raise UserError(
                f"{given[0]} is of no use to ReplacedTokenTrainer, whose model brings its loss, its figures and its optimiser: leave it out."
            )
        model = kwargs.get("model", args[0] if args else None)
        if not isinstance(model, ReplacedTokenPretrainer):
            raise UserError(
                f"ReplacedTokenTrainer trains a ReplacedTokenPretrainer, got {type(model).__name__}: make one of a generator and an encoder."
            )
        self.released_optimizer = released_optimizer
        if released_optimizer:
            settings: TrainingArguments = kwargs.get("args", args[1] if len(args) > 1 else None)
            options = {} if settings is None else {"lr": settings.learning_rate}
            kwargs["optimizer_cls_and_kwargs"] = (ElectraAdamW, options)
        super().__init__(*args, **kwargs)
        if self.args.n_gpu > 1:
            raise UserError(
                "one process cannot train a pair on several GPUs: start one for each of them, `accelerate launch`, or choose one by "
                "CUDA_VISIBLE_DEVICES."
            )
        self.model_accepts_loss_kwargs = self.loss_is_scaled_for_ga = True
        self._counts = {"train": torch.zeros(COUNTS), "eval": torch.zeros(COUNTS)}

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make the schedule; that of the released code, whose update reads the rate of the next step, where it is asked for."""
        if not self.released_optimizer:
            return super().create_scheduler(num_training_steps, optimizer)
        warmup = self.args.get_warmup_steps(num_training_steps)
        self._created_lr_scheduler = True
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer, lambda step: official_lr(step + 1, 1.0, num_training_steps, warmup)
        )
        return self.lr_scheduler

    def get_batch_samples(self, epoch_iterator: Iterable, num_batches: int, device: torch.device) -> Any:
        """Collect the micro-batches of a step, and the numbers of masked and judged tokens in all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        totals = torch.zeros(1, 2, device=device)
        for batch in batches:
            texts = batch["input_ids"], batch.get("attention_mask")
            totals += self._pair.totals(*texts).to(device)
        return batches, self.accelerator.gather(totals).sum(0)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: MutableMapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """The part of a step's loss that a micro-batch has."""
        is_training = self.model.training
        number = (self.args.seed << 32) + (self.state.global_step if is_training else -1)
        outputs = model(**inputs, number=number, totals=num_items_in_batch)
        kind = "train" if is_training else "eval"
        self._counts[kind] = self._counts[kind].to(outputs.counts.device) + outputs.counts
        # DDP and FSDP average gradients, and each process has its part of the sum over all tokens.
        shares = 1 if num_items_in_batch is None else self.accelerator.num_processes
        return (outputs.loss * shares, outputs) if return_outputs else outputs.loss * shares

    def prediction_step(self, model: nn.Module, inputs: Any, *_: Any, **__: Any) -> tuple[Tensor, None, None]:
        """The loss of a batch in evaluation."""
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as the Trainer does, with the losses over all tokens, and the figures of both models."""
        output = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        found = self._figures("eval")
        output.metrics.update({f"{prefix}_{name}": value for name, value in found.items()})
        weighted = self._pair.rtd.disc_weight * found["discriminator_loss"]
        output.metrics[f"{prefix}_loss"] = found.get("generator_loss", 0.0) + weighted
        return output

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the figures of both models since the last log, beside the loss."""
        if "loss" in logs and self.model.training:
            logs.update(self._figures("train"))
        super().log(logs, *args, **kwargs)

    def _figures(self, kind: str) -> dict[str, float]:
        counts = self.accelerator.reduce(self._counts[kind].to(self.args.device), "sum")
        self._counts[kind] = torch.zeros(COUNTS)
        found = {name: value for name, value in figures(counts).items() if value == value}
        if found.get("replaced") == 0 and kind == "train":
            logger.warning(
                "The generator guessed every masked token, so that nothing was replaced and the discriminator learned nothing: use a smaller "
                "generator or a higher temperature."
            )
        return found

    @property
    def _pair(self) -> ReplacedTokenPretrainer:
        pair: ReplacedTokenPretrainer = self.accelerator.unwrap_model(self.model)
        return pair

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        known = dict.fromkeys([*(self._signature_columns or []), *self._pair.reads])
        self._signature_columns = [*known]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict or apart(self.model.state_dict()))
