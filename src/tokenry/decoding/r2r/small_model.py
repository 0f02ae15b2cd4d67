"""A small model out of a large one: some layers dropped, and the rest healed by distillation.

    loss = Σ p_large (log p_large − log p_small), the mean over tokens

Both models then have one tokenizer, as routing needs it, where no small sibling exists.

Source: dropping whole layers as in ShortGPT (arXiv 2403.03853), distillation as in Hinton et al. (arXiv 1503.02531).
"""

import copy
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenry.core.errors import UserError, require_above_zero, require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.io.workspace import fingerprint
from tokenry.core.tensors.fingerprints import model_fingerprint
from tokenry.core.tensors.generation import right_padded
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.train.adamw import AdamWSettings
from tokenry.core.train.numbered import step_generator
from tokenry.core.train.training import LoopConfig, Training

_LAYER = re.compile(r"((?:^|\.)(?:layers|h|blocks)\.)(\d+)(?=\.)")


@dataclass(frozen=True)
class HealingConfig:
    """The distillation of a model from which layers were dropped.

    Attributes:
        steps: steps of the optimiser; 0 for none.
        batch_size: texts per step.
        learning_rate: highest learning rate; it falls to nothing in a straight line.
        save_every: steps between checkpoints.
        seed: random seed of the order of the texts.
    """

    steps: int = 200
    batch_size: int = 4
    learning_rate: float = 2e-4
    save_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(0, steps=self.steps, seed=self.seed)
        require_at_least(1, batch_size=self.batch_size, save_every=self.save_every)
        require_above_zero(learning_rate=self.learning_rate)


def drop_layers(model: PreTrainedModel, dropped: Collection[int]) -> PreTrainedModel:
    """Copy a model without some of its layers, which are numbered from 0.

    Raises:
        UserError: a layer that it has not, all of its layers, or a model whose layers are not known by their names.
    """
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    count = int(text.num_hidden_layers)
    kept = [number for number in range(count) if number not in dropped]
    if not dropped or not kept or not set(dropped) <= set(range(count)):
        raise UserError(
            f"layers to drop are some of 0 … {count - 1}, but not all, got {', '.join(map(str, sorted(dropped))) or 'none'}."
        )
    weights = model.state_dict()
    known = {int(found[2]) for name in weights if (found := _LAYER.search(name))}
    if known != set(range(count)):
        raise UserError(
            f"the layers of {type(model).__name__} are not known by the names of its weights: none can be dropped."
        )
    text.num_hidden_layers = len(kept)
    if getattr(text, "layer_types", None):
        text.layer_types = [text.layer_types[number] for number in kept]
    small = type(model)(config).to(model.device, model.dtype)
    numbers = {number: place for place, number in enumerate(kept)}
    small.load_state_dict(
        {
            _LAYER.sub(lambda found: f"{found[1]}{numbers[int(found[2])]}", name): weight
            for name, weight in weights.items()
            if not (found := _LAYER.search(name)) or int(found[2]) in numbers
        }
    )
    small.generation_config = copy.deepcopy(model.generation_config)
    return small.eval()


class Healing:
    """The distillation of a small model from a large one on texts.

    Args:
        small: the model that learns.
        large: the model that it was cut out of.
        texts: token ids of texts.
    """

    def __init__(
        self,
        small: PreTrainedModel,
        large: PreTrainedModel,
        texts: Sequence[Sequence[int]],
        config: HealingConfig,
    ) -> None:
        require_at_least(1, texts=len(texts))
        self._small, self._large, self._texts, self._config = small, large, texts, config
        self.losses: list[float] = []

    def seconds(self) -> float:
        """How long it will take, from the gradients of one batch."""
        if not self._config.steps:
            return 0.0
        self._small.train()
        started = time.perf_counter()
        self._loss(self._batch(0))["loss"].backward()
        self._small.zero_grad()
        self._small.eval()
        return (time.perf_counter() - started) * self._config.steps

    def run(
        self, folder: Path | None = None, resume: bool = False, progress: Progress = lambda what, share: None
    ) -> PreTrainedModel:
        """Train the small model, and return it.

        Args:
            folder: folder of the checkpoints; None to keep none.
            resume: resume from the last checkpoint in the folder, if there is one.
            progress: called before each step.
        """
        config = self._config
        if not config.steps:
            return self._small
        made_of = fingerprint(
            [asdict(config), [list(text) for text in self._texts]], model_fingerprint(self._large), length=24
        )
        loop = LoopConfig(
            config.steps,
            lambda step: config.learning_rate * (1 - step / config.steps),
            AdamWSettings(max_gradient_norm=1.0),
            seed=config.seed,
            save_every=config.save_every,
        )
        training = Training(
            self._small, lambda number: self._loss(self._batch(number)), range(config.steps), loop, made_of
        )
        with evaluation_mode(self._large):
            training.run(folder, resume, progress, lambda step: "healing")
        self.losses = training.history["loss"]
        return self._small.eval()

    def _batch(self, number: int) -> tuple[Tensor, Tensor]:
        drawn = torch.randint(
            len(self._texts),
            (self._config.batch_size,),
            generator=step_generator(self._config.seed, number, "heal"),
        )
        return right_padded([self._texts[int(text)] for text in drawn], device=self._small.device)

    def _loss(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        ids, real = batch
        inputs = {"input_ids": ids, "attention_mask": real.long(), "use_cache": False}
        with torch.no_grad():
            wanted = self._large(**inputs).logits[real].float().log_softmax(-1)
        found = self._small(**inputs).logits[real].float().log_softmax(-1)
        return {"loss": distance(wanted, found).mean()}


def distance(
    wanted: Float[Tensor, "rows vocabulary"], found: Float[Tensor, "rows vocabulary"]
) -> Float[Tensor, "rows"]:
    """KL divergence in nats of the distributions with these log-probabilities."""
    return nn.functional.kl_div(found, wanted, reduction="none", log_target=True).sum(-1)
