"""Replaced-token detection: an encoder learns from every token by telling which ones a small generator has replaced.

ELECTRA (arXiv 2003.10555), for any encoder of transformers that has a masked language model: generator and discriminator of one kind and
one tokenizer. The generator meets the vocabulary at the masked tokens alone.

    loss = generator's nll on masked tokens + disc_weight · discriminator's cross-entropy on all tokens      no gradient through the samples
"""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import ElectraConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.electra.modeling_electra import ElectraDiscriminatorPredictions
from transformers.utils import ModelOutput

from tokenry.core.errors import UserError, require_fraction, require_one_of
from tokenry.core.tensors.chunked_loss import CHUNK_ELEMENTS, matrix_loss, module_loss
from tokenry.core.tensors.output_head import backbone, check_output_head, output_head
from tokenry.core.tensors.row_losses import RowLosses, cross_entropy
from tokenry.pretraining.masking import (
    MaskedBatch,
    candidates,
    corrupt,
    discriminator_losses,
    mask_tokens,
    mean_of,
    prediction_counts,
    row_keys,
    rtd_labels,
    sample_at,
    sample_quantiles,
)
from tokenry.pretraining.replaced_token_metrics import count
from tokenry.pretraining.shared_embeddings import TIES, share, unshared


@dataclass(frozen=True)
class ReplacedTokenConfig:
    """Replaced-token detection; the defaults are the paper's.

    Attributes:
        mask_prob: share of the tokens that are masked.
        keep_prob: probability that a masked token is left as it is.
        disc_weight: weight of the discriminator's loss.
        temperature: temperature at which the generator samples.
        disallow_correct: never sample the true token.
        all_tokens: let the discriminator learn from all tokens, not from the masked ones alone.
        official_duplicates: draw positions with replacement and average the ids of duplicates, as the released code does.
    """

    mask_prob: float = 0.15
    keep_prob: float = 0.15
    disc_weight: float = 50.0
    temperature: float = 1.0
    disallow_correct: bool = False
    all_tokens: bool = True
    official_duplicates: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.mask_prob < 1.0:
            raise UserError(f"mask_prob must be in (0, 1), got {self.mask_prob}: the paper's is 0.15.")
        require_fraction(self.keep_prob, "keep_prob")
        for name in ("disc_weight", "temperature"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}.")

    def most(self, length: int) -> int:
        """Slots for rows of at most `length` tokens; never fewer than a row is to have, so that padding changes nothing."""
        return int(self.mask_prob * length) + 1


@dataclass
class ReplacedTokenOutput(ModelOutput):
    """One batch of replaced-token detection.

    Attributes:
        loss: to be minimised.
        generator_loss: of the masked tokens, in nats.
        discriminator_loss: of all tokens, in nats.
        corrupted_ids: the text with the samples in it.
        rtd_labels: 1 for tokens that differ from the original.
        disc_logits: above 0 for tokens that are taken for replaced; of no meaning at padding.
        counts: see `replaced_token_metrics`.
    """

    loss: Tensor | None = None
    generator_loss: Tensor | None = None
    discriminator_loss: Tensor | None = None
    corrupted_ids: Tensor | None = None
    rtd_labels: Tensor | None = None
    disc_logits: Tensor | None = None
    counts: Tensor | None = None


class ReplacedTokenPair(PreTrainedConfig):
    """What a checkpoint of generator and discriminator says about itself; it is resumed by a trainer that holds the same pair."""

    model_type = "replaced-tokens"


class ReplacedTokenPretrainer(PreTrainedModel):
    """Generator and discriminator as one model, whose loss is that of replaced-token detection.

    Args:
        generator: a masked language model, such as `AutoModelForMaskedLM.from_config(generator_config(config, 0.25))`.
        discriminator: the encoder that is pretrained, such as `AutoModel.from_config(config)`; a model with a head is taken without it, but
            for that of `ElectraForPreTraining`.
        tokenizer: of both, with a mask token.
        tie: what they share: `embeddings`, `none`, `all`, or `disentangled` (DeBERTa-v3).
        config: replaced-token detection.

    Raises:
        UserError: they do not fit together.
    """

    config_class = ReplacedTokenPair
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(
        self,
        generator: PreTrainedModel,
        discriminator: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        tie: str = "embeddings",
        config: ReplacedTokenConfig = ReplacedTokenConfig(),
    ) -> None:
        require_one_of(tie, TIES, "tie")
        encoder = discriminator.base_model
        require_pair(generator, encoder, tokenizer)
        pair = ReplacedTokenPair()
        pair.update(
            {"of_generator": generator.config.to_dict(), "of_discriminator": encoder.config.to_dict()}
        )
        pair.update({"tie": tie, "settings": asdict(config)})
        super().__init__(pair)
        self.rtd = config
        self.special_ids, self.mask_id = special_ids(tokenizer), tokenizer.mask_token_id
        share(generator, encoder, tie)
        check_output_head(generator)
        self.generator, self.discriminator = generator, encoder
        self.head = _head(discriminator, encoder)
        self._no_split_modules = sorted({*_split_of(generator), *_split_of(encoder)})
        self.all_tied_weights_keys: dict[str, str] = {}
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler.requires_grad_(False)  # nothing here reads it

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Int[Tensor, "batch seq"] | None = None,
        *,
        number: int | None = None,
        totals: Float[Tensor, "2"] | None = None,
        **inputs: Tensor,
    ) -> ReplacedTokenOutput:
        """Mask, sample, detect.

        Args:
            input_ids: token ids, padded on either side.
            attention_mask: 1 for tokens, 0 for padding.
            number: of the step: what is drawn follows from it and from the tokens of each row; by default another one at every call.
            totals: numbers of masked and of judged tokens that the sums of the losses are divided by; by default the batch's.
            **inputs: what else the encoders read, such as `token_type_ids`.
        """
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        # Padding to the right: positions are then counted from the first token on, on whichever side it was.
        order = real.argsort(dim=1, descending=True, stable=True)
        ids, real = input_ids.gather(1, order), real.gather(1, order)
        inputs = {name: value.gather(1, order) for name, value in inputs.items()}
        masked, keys = self._masked(ids, real, number)
        slots = masked.weights.nonzero(as_tuple=True)
        hidden = self._read(backbone(self.generator), masked.input_ids, real, inputs)
        targets, rows = masked.labels[slots], hidden[slots[0], masked.positions[slots]]
        quantiles = sample_quantiles(keys, masked.positions)[slots]
        nll_sum, nll, guessed, drawn = self._generate(rows, targets, quantiles)
        sampled = masked.labels.clone()
        sampled[slots] = drawn
        corrupted = corrupt(ids, masked, sampled, self.rtd.official_duplicates)
        labels = rtd_labels(ids, corrupted, masked.selected)
        logits: Tensor = self.head(self._read(self.discriminator, corrupted, real, inputs))
        judged = real if self.rtd.all_tokens else masked.selected.long()
        losses = discriminator_losses(logits, labels, judged)
        of_slots, of_tokens = (len(targets), judged.sum()) if totals is None else totals
        generator_loss = mean_of(nll_sum, of_slots)
        discriminator_loss = mean_of(losses.sum(), of_tokens)
        back = order.argsort(dim=1)
        return ReplacedTokenOutput(
            loss=generator_loss + self.rtd.disc_weight * discriminator_loss,
            generator_loss=generator_loss.detach(),
            discriminator_loss=discriminator_loss.detach(),
            corrupted_ids=corrupted.gather(1, back),
            rtd_labels=labels.gather(1, back),
            disc_logits=logits.detach().gather(1, back),
            counts=count(nll, guessed, drawn == targets, losses, logits.detach(), labels, judged),
        )

    def step(self, batch: Mapping[str, Tensor], number: int | None = None) -> ReplacedTokenOutput:
        """The losses of a batch of `input_ids`, `attention_mask` and what else the encoders read."""
        output: ReplacedTokenOutput = self(**batch, number=number)
        return output

    @torch.no_grad()
    def totals(
        self, input_ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"] | None = None
    ) -> Float[Tensor, "2"]:
        """How many tokens of a batch will be masked, and how many will be judged: what the losses are means of."""
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        counts = prediction_counts(real.sum(1), self.rtd.mask_prob, self.rtd.most(input_ids.shape[1]))
        among = candidates(input_ids, real, self.special_ids)
        drawn = counts * among.any(1) if self.rtd.official_duplicates else counts.minimum(among.sum(1))
        masked = drawn.sum()
        return torch.stack([masked, real.sum() if self.rtd.all_tokens else masked]).float()

    def get_input_embeddings(self) -> None:
        """None: what is shared belongs to both models, and FSDP2 must not make it a unit of one of them."""

    @property
    def reads(self) -> list[str]:
        """What the encoder can be given."""
        return [*inspect.signature(self.discriminator.forward).parameters]

    def discriminator_only(self) -> PreTrainedModel:
        """A copy of the encoder that was pretrained, as `AutoModel` loads it once it is saved."""
        return unshared(self.discriminator)

    def _masked(self, ids: Tensor, real: Tensor, number: int | None) -> tuple[MaskedBatch, Tensor]:
        keys = row_keys(ids, real, int(torch.randint(2**31, ())) if number is None else number)
        masked = mask_tokens(
            ids,
            real,
            self.special_ids,
            self.mask_id,
            self.rtd.mask_prob,
            self.rtd.keep_prob,
            max_predictions=self.rtd.most(ids.shape[1]),
            replace=self.rtd.official_duplicates,
            keys=keys,
        )
        return masked, keys

    def _generate(
        self,
        rows: Float[Tensor, "slots dim"],
        targets: Int[Tensor, "slots"],
        quantiles: Float[Tensor, "slots"],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The sum of the NLL, with gradients; NLL, accuracy and a sampled token of every masked slot."""
        rows, head = output_head(self.generator).split(rows)
        sampling = _SampledCrossEntropy(quantiles, self.rtd)
        form = module_loss if head.linear is None else matrix_loss
        ones = torch.ones_like(quantiles, dtype=torch.promote_types(rows.dtype, torch.float32))
        total, nll, _, guessed, _ = form(rows, targets, ones, head, sampling, CHUNK_ELEMENTS)
        return total, nll, guessed, torch.cat(sampling.sampled)

    def _read(self, encoder: nn.Module, ids: Tensor, real: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """The hidden states of an encoder; a row of padding alone shows it its first token."""
        visible = real.clone()
        visible[:, 0] |= real.sum(1) == 0
        known = inspect.signature(encoder.forward).parameters
        given = {name: value for name, value in inputs.items() if name in known}
        hidden: Tensor = encoder(input_ids=ids, attention_mask=visible, **given).last_hidden_state
        return hidden


class _SampledCrossEntropy:
    """The NLL of the targets as a row loss, which draws a token from every row of logits on the way, once."""

    def __init__(self, quantiles: Float[Tensor, "slots"], config: ReplacedTokenConfig) -> None:
        self.sampled: list[Tensor] = []
        self._quantiles, self._config = quantiles, config

    def __call__(self, logits: Tensor, targets: Tensor, *, entropy: bool) -> RowLosses:
        begun = sum(map(len, self.sampled))
        quantiles = self._quantiles[begun : begun + len(logits)]
        if len(quantiles) == len(logits):  # a chunk that is computed again in the backward has been drawn
            disallow = targets if self._config.disallow_correct else None
            self.sampled.append(sample_at(logits, quantiles, self._config.temperature, disallow))
        found = cross_entropy(logits, targets, entropy=False)
        return found._replace(entropy=torch.zeros_like(found.nll))  # nobody asks for it, and it costs a pass


def require_pair(
    generator: PreTrainedModel, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise `UserError` where generator, discriminator and tokenizer do not fit together."""
    require_mask_token(tokenizer)
    sizes = [model.get_input_embeddings().weight.shape[0] for model in (generator, encoder)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"the generator has a vocabulary of {sizes[0]:,} and the discriminator of {sizes[1]:,}: both need the same tokenizer."
        )
    if len(tokenizer) > sizes[0]:
        raise UserError(
            f"the tokenizer has {len(tokenizer):,} tokens and the models have {sizes[0]:,}: give the tokenizer of the models, or resize them."
        )


def require_mask_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `UserError` where a tokenizer has no mask token."""
    if tokenizer.mask_token_id is None:
        raise UserError(
            f"{type(tokenizer).__name__} has no mask token, which stands for a masked token: add one, "
            "tokenizer.add_special_tokens({'mask_token': '[MASK]'}), and resize the embeddings."
        )


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that are never masked; an unknown word is a word."""
    return set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}


def _head(discriminator: PreTrainedModel, encoder: PreTrainedModel) -> nn.Module:
    """The head that a discriminator brings, or a new one: dense, gelu, dense."""
    known = getattr(discriminator, "discriminator_predictions", None)
    if known is not None:
        return known
    head = ElectraDiscriminatorPredictions(ElectraConfig(hidden_size=encoder.config.hidden_size))
    head.apply(encoder._init_weights)
    table = encoder.get_input_embeddings().weight
    return head.to(table.device, table.dtype)


def _split_of(model: PreTrainedModel) -> list[str]:
    return list(model._no_split_modules or [])
