"""Token selection on a toy of which everything is known: does retrospective excess loss tell learnable tokens from noise?

A prompt of 6 keys is answered by 6 × (filler, mapped key) and an end token; each of the 6 places has its own filler. The base model
knows another mapping of the keys; it is fine-tuned on the new one while 30 % of the fillers and mapped keys (12 of 13 response tokens,
so 27.7 % of all) are replaced at random.
Measured on clean samples: NLL of the mapped keys, NLL of all response tokens, and the share of replaced tokens among the kept ones.

Fine-tuning: 250 steps of 16 samples, AdamW, learning rate 1e-3 with linear decay. History = the base model; reference = the base
model after 80 steps on clean samples. The base is trained until it knows its own mapping (250 steps of 64 samples, learning rate
3e-3: all mapped keys right); with the same noise it is calibrated, without it over-confident.
A model that has learned everything there is says each noisy token with probability 0.7: NLL −ln 0.7 = 0.357.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from torch.nn.functional import pad
from transformers import LlamaConfig, LlamaForCausalLM

from tokenry.core.errors import require_fraction
from tokenry.core.tensors.alignment import IGNORED, predicting_rows, segment_ids
from tokenry.core.tensors.losses import output_head, token_nll
from tokenry.core.tensors.signals import Signals
from tokenry.finetuning import AllTokens, TokenWeighing
from tokenry.finetuning.forward import WeighedLoss, add_token_loss
from tokenry.recipes.kit import fit, linear

PAIRS = 6
VOCABULARY = 48
# End, one unused token, a filler for each place, and keys.
END, FIRST_FILLER, FIRST_KEY = 0, 2, 2 + PAIRS
KEYS = VOCABULARY - FIRST_KEY


@dataclass(frozen=True)
class ToySetting:
    """What is trained how; learning rates decay linearly to 0.

    Attributes:
        noise: probability of a filler or mapped key to be replaced by another token while fine-tuning.
        pretraining_noise: the same while the base is trained; 0 makes it over-confident.
        pretraining_steps: steps on the base's own mapping.
        pretraining_batch_size: samples per such step.
        pretraining_learning_rate: at the first of them.
        reference_steps: clean steps from the base to the reference.
        steps: steps of fine-tuning.
        batch_size: samples per step of fine-tuning and of the reference.
        learning_rate: at the first step of fine-tuning and of the reference.
        held_out: clean samples to measure on.
    """

    noise: float = 0.3
    pretraining_noise: float = 0.3
    pretraining_steps: int = 250
    pretraining_batch_size: int = 64
    pretraining_learning_rate: float = 3e-3
    reference_steps: int = 80
    steps: int = 250
    batch_size: int = 16
    learning_rate: float = 1e-3
    held_out: int = 512

    def __post_init__(self) -> None:
        require_fraction(self.noise, "noise")
        require_fraction(self.pretraining_noise, "pretraining_noise")


@dataclass(frozen=True)
class ToyBatch:
    """Samples of the toy; `replaced` marks the noise, `mapped` the places of the mapped keys."""

    input_ids: Int[Tensor, "batch seq"]
    labels: Int[Tensor, "batch seq"]
    replaced: Bool[Tensor, "batch seq"]
    mapped: Bool[Tensor, "batch seq"]

    @property
    def signals(self) -> Signals:
        """The labels and segments as a weighing is given them."""
        return Signals(self.labels, segment_ids(self.input_ids))


@dataclass(frozen=True)
class ToyRun:
    """What came of one fine-tuning. NLL in nats per token on clean samples; the others are shares in [0, 1].

    Attributes:
        mapped_accuracy: mapped keys that are the likeliest token.
        noise_kept: replaced tokens among the kept ones (weight 1), over all steps; nan before any step.
    """

    mapped_nll: float
    response_nll: float
    mapped_accuracy: float
    noise_kept: float


def toy_model(seed: int) -> LlamaForCausalLM:
    """Make an untrained Llama of 2 layers, width 64 and 4 heads."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=64,
                intermediate_size=256,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=32,
                # The default of 0.02 is for wide models; at width 64 it costs hundreds of steps.
                initializer_range=0.1,
                bos_token_id=None,
                eos_token_id=END,
            )
        )


def key_mapping(seed: int) -> Int[Tensor, "keys"]:
    """Draw a permutation of the keys: key `FIRST_KEY + i` is mapped to entry i."""
    return FIRST_KEY + torch.randperm(KEYS, generator=Generator().manual_seed(seed))


def toy_batch(mapping: Int[Tensor, "keys"], size: int, noise: float, generator: Generator) -> ToyBatch:
    """Draw `size` samples under a mapping, with each filler and mapped key replaced with probability `noise`."""
    keys = torch.randint(KEYS, (size, PAIRS), generator=generator)
    fillers = (FIRST_FILLER + torch.arange(PAIRS)).expand(size, -1)
    answer = torch.stack([fillers, mapping[keys]], dim=2).flatten(1)
    replaced = torch.rand(answer.shape, generator=generator) < noise
    # A shift by 1 … V − 1 never ends on the token itself.
    other = (answer + torch.randint(1, VOCABULARY, answer.shape, generator=generator)) % VOCABULARY
    response = torch.cat([torch.where(replaced, other, answer), torch.full((size, 1), END)], dim=1)
    mapped = torch.zeros_like(replaced)
    mapped[:, 1::2] = True
    return ToyBatch(
        input_ids=torch.cat([FIRST_KEY + keys, response], dim=1),
        labels=pad(response, (PAIRS, 0), value=IGNORED),
        replaced=pad(replaced, (PAIRS, 1)),
        mapped=pad(mapped, (PAIRS, 1)),
    )


def pretrain_base(seed: int, setting: ToySetting | None = None) -> LlamaForCausalLM:
    """Train a model on a mapping of its own, which fine-tuning will replace."""
    setting = setting or ToySetting()
    model = toy_model(seed)
    train_toy(
        model,
        AllTokens(),
        key_mapping(2 * seed),
        noise=setting.pretraining_noise,
        steps=setting.pretraining_steps,
        batch_size=setting.pretraining_batch_size,
        learning_rate=setting.pretraining_learning_rate,
        seed=seed,
    )
    return model


def train_reference(base: LlamaForCausalLM, seed: int, setting: ToySetting | None = None) -> LlamaForCausalLM:
    """Train a copy of the base on a few clean samples of the new mapping."""
    setting = setting or ToySetting()
    reference = copy.deepcopy(base)
    train_toy(
        reference,
        AllTokens(),
        key_mapping(2 * seed + 1),
        noise=0.0,
        steps=setting.reference_steps,
        batch_size=setting.batch_size,
        learning_rate=setting.learning_rate,
        seed=seed,
    )
    return reference


def fine_tune(
    base: LlamaForCausalLM,
    weighing: TokenWeighing,
    seed: int,
    setting: ToySetting | None = None,
    reference: LlamaForCausalLM | None = None,
) -> ToyRun:
    """Fine-tune a copy of the base on noisy samples of the new mapping and measure it on clean ones.

    The samples depend on the seed alone, so that runs with different weighings can be compared in pairs.

    Args:
        base: from `pretrain_base`; also the history model.
        weighing: which tokens to learn from. Ranks within the sample or batch: there is no data set to rank over.
        seed: the one given to `pretrain_base`.
        setting: steps, noise and so on.
        reference: from `train_reference`, for weighings that need `reference_nll`.
    """
    setting = setting or ToySetting()
    model, mapping = copy.deepcopy(base), key_mapping(2 * seed + 1)
    noise_kept = train_toy(
        model,
        weighing,
        mapping,
        noise=setting.noise,
        steps=setting.steps,
        batch_size=setting.batch_size,
        learning_rate=setting.learning_rate,
        seed=seed,
        others={"history_nll": base, "base_nll": base} | ({"reference_nll": reference} if reference else {}),
    )
    # Another stream than the training samples'.
    held_out = toy_batch(mapping, setting.held_out, 0.0, Generator().manual_seed(seed + 1_000_000))
    return _measured(model, held_out, noise_kept)


def train_toy(
    model: LlamaForCausalLM,
    weighing: TokenWeighing,
    mapping: Int[Tensor, "keys"],
    *,
    noise: float,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    others: Mapping[str, LlamaForCausalLM] | None = None,
) -> float:
    """Train `model` in place on fresh samples at every step; all steps together count as one epoch.

    Args:
        model: what is trained.
        weighing: which tokens to learn from.
        mapping: from `key_mapping`.
        noise: probability of a filler or mapped key to be replaced.
        steps: optimisation steps.
        batch_size: samples per step.
        learning_rate: at the first step; decays linearly to 0.
        others: fixed models behind the signals `history_nll`, `base_nll` and `reference_nll`.

    Returns:
        The share of replaced tokens among those kept with weight 1, over all steps; nan without any step.
    """
    samples, uniform = Generator().manual_seed(seed), Generator().manual_seed(seed)
    add_token_loss(model)
    kept = kept_noise = 0

    def weighed_loss(step: int) -> Tensor:
        nonlocal kept, kept_noise
        batch = toy_batch(mapping, batch_size, noise, samples)
        known = {name: _nll(other, batch) for name, other in (others or {}).items() if name in weighing.needs}
        known["uniform"] = torch.rand(batch.labels.shape, generator=uniform)
        signals = replace(batch.signals, values=known, progress=step / steps, epoch=step / steps)
        loss = WeighedLoss(weighing, signals)
        total = model(input_ids=batch.input_ids, token_loss=loss).loss
        chosen = loss.weights == 1
        kept += int(chosen.sum())
        kept_noise += int((chosen & batch.replaced).sum())
        return total / loss.weights.sum()

    fit(model, range(steps), weighed_loss, steps, learning_rate, linear, weight_decay=0.0)
    return kept_noise / kept if kept else float("nan")


@torch.no_grad()
def _nll(model: LlamaForCausalLM, batch: ToyBatch) -> Float[Tensor, "batch seq"]:
    hidden = model.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    return token_nll(hidden, batch.labels, output_head(model), batch.signals.learnable)


@torch.no_grad()
def _measured(model: LlamaForCausalLM, batch: ToyBatch, noise_kept: float) -> ToyRun:
    nll = _nll(model, batch)
    hidden = model.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    likeliest = output_head(model).logits(predicting_rows(hidden, batch.mapped)).argmax(-1)
    return ToyRun(
        mapped_nll=float(nll[batch.mapped].mean()),
        response_nll=float(nll[batch.signals.learnable].mean()),
        mapped_accuracy=float((likeliest == batch.input_ids[batch.mapped]).float().mean()),
        noise_kept=noise_kept,
    )
