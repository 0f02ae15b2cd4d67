"""`MaskedTokenTrainer`: `transformers.Trainer` for masked language modelling, the control of replaced-token detection.

What is masked is what `ReplacedTokenPretrainer` masks, and follows from the seed, the step and the tokens of a row, so that a training that
was stopped goes on with the masks that it would have had. BERT (arXiv 1810.04805), by the counts and shares of ELECTRA (arXiv 2003.10555).
"""

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Trainer

from tokenry.core.errors import UserError
from tokenry.core.train.signatures import with_parameters_of
from tokenry.pretraining.masking import mask_tokens, row_keys
from tokenry.pretraining.replaced_tokens import ReplacedTokenConfig, require_mask_token, special_ids


class MaskedTokenTrainer(Trainer):
    """`Trainer` for a masked language model.

    Args:
        *args: as for `Trainer`; the data set has `input_ids`, and the tokenizer is its `processing_class`.
        config: how many tokens are masked, and how many of them are left as they are; nothing else of it is read.
        **kwargs: as for `Trainer`.

    Raises:
        UserError: there is no tokenizer with a mask token.
    """

    @with_parameters_of(Trainer.__init__)
    def __init__(
        self, *args: Any, config: ReplacedTokenConfig = ReplacedTokenConfig(), **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        tokenizer = self.processing_class
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise UserError(
                "MaskedTokenTrainer masks with the tokenizer's mask token, and has no tokenizer: give it as processing_class."
            )
        require_mask_token(tokenizer)
        self.masking, self.special_ids, self.mask_id = config, special_ids(tokenizer), tokenizer.mask_token_id

    def compute_loss(
        self,
        model: nn.Module,
        inputs: MutableMapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mask a batch, and form the mean NLL of its masked tokens."""
        ids = inputs["input_ids"]
        real = inputs.get("attention_mask", torch.ones_like(ids))
        number = (self.args.seed << 32) + (self.state.global_step if model.training else -1)
        masked = mask_tokens(
            ids,
            real,
            self.special_ids,
            self.mask_id,
            self.masking.mask_prob,
            self.masking.keep_prob,
            max_predictions=self.masking.most(ids.shape[1]),
            keys=row_keys(ids, real, number),
        )
        given = {**inputs, "input_ids": masked.input_ids, "labels": ids.masked_fill(~masked.selected, -100)}
        return super().compute_loss(model, given, return_outputs)

    def prediction_step(self, model: nn.Module, inputs: Any, *_: Any, **__: Any) -> tuple[Tensor, None, None]:
        """The loss of a batch in evaluation, always with the same masks."""
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None
