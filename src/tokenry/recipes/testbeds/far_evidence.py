"""Documents whose one clue stands d tokens before the one token that must agree with it, tiny Longformers for them, and a probe of detection.

A document is `<s>`, one and the same filler word many times, a clue of one of several values, d − 1 fillers, its echo of the same value, more
fillers, `</s>`. Nothing but the clue says which echo is right:

    detection AUC at d      how often a wrong echo has a higher score than a right one, the clue being d tokens away
    score                   the logit of the detector, or the NLL of the echo under a masked language model that has it masked
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from sklearn.metrics import roc_auc_score
from tokenizers import Tokenizer, models
from torch import Generator, Tensor
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
BEGIN, END, MASK = (SPECIAL.index(name) for name in ("<s>", "</s>", "<mask>"))
FILLER = len(SPECIAL)


@dataclass(frozen=True)
class FarEvidenceSetting:
    """Size of the documents and of the encoders.

    Attributes:
        length: tokens of a document.
        values: values of a clue and of its echo.
        distances: from the clue to its echo, in training as often as one another.
        probed: documents of every distance that are probed, half of them with a wrong echo.
        layers: layers of the encoders.
        width: their width.
        heads: attention heads.
        initializer_range: standard deviation of the initial weights; 0.02 is for wide models.
    """

    length: int = 16
    values: int = 4
    distances: tuple[int, ...] = (1, 2, 3, 4, 6, 8)
    probed: int = 3000
    layers: int = 2
    width: int = 48
    heads: int = 2
    initializer_range: float = 0.1

    def reach(self, window: int) -> int:
        """The number of tokens over which evidence arrives, half a window a layer."""
        return self.layers * window // 2


@dataclass(frozen=True)
class EvidenceDocuments:
    """Documents with the places and the values of their echoes."""

    input_ids: Int[Tensor, "rows tokens"]
    echo: Int[Tensor, "rows"]
    value: Int[Tensor, "rows"]


class FarEvidence:
    """The documents of a setting."""

    def __init__(self, setting: FarEvidenceSetting) -> None:
        self.setting = setting
        self._clue = FILLER + 1
        self._echo = self._clue + setting.values
        self.vocabulary = self._echo + setting.values

    def batches(self, rows: int, seed: int) -> Iterator[Int[Tensor, "rows tokens"]]:
        """Documents without end, all of them right."""
        generator = Generator().manual_seed(seed)
        distances = torch.tensor(self.setting.distances)
        while True:
            drawn = distances[torch.randint(len(distances), (rows,), generator=generator)]
            yield self._documents(drawn, generator).input_ids

    def detection(
        self,
        score: Callable[[EvidenceDocuments], Float[Tensor, "rows"]],
        seed: int,
        distances: tuple[int, ...] | None = None,
    ) -> dict[int, float]:
        """The AUC of a score for wrong echoes, by distance."""
        generator, rows, values = Generator().manual_seed(seed), self.setting.probed, self.setting.values
        found = {}
        for distance in distances or self.setting.distances:
            right = self._documents(torch.full((rows,), distance), generator)
            wrong = torch.arange(rows) % 2
            other = (right.value + wrong * torch.randint(1, values, (rows,), generator=generator)) % values
            ids = right.input_ids.clone()
            ids[torch.arange(rows), right.echo] = self._echo + other
            given = EvidenceDocuments(ids, right.echo, other)
            found[distance] = float(roc_auc_score(wrong.numpy(), score(given).numpy()))
        return found

    def sizes(self, window: int) -> dict[str, Any]:
        """The settings of the encoders, for `longformer_config` and `longformer_rtd`."""
        setting = self.setting
        return {
            "window": window,
            "positions": setting.length,
            "num_hidden_layers": setting.layers,
            "hidden_size": setting.width,
            "num_attention_heads": setting.heads,
            "intermediate_size": 4 * setting.width,
            "initializer_range": setting.initializer_range,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A tokenizer whose tokens are the words."""
        words = [*SPECIAL, *(f"w{number}" for number in range(len(SPECIAL), self.vocabulary))]
        made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
        names = ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token")
        return PreTrainedTokenizerFast(tokenizer_object=made, **dict(zip(names, SPECIAL, strict=True)))

    def _documents(self, distance: Int[Tensor, "rows"], generator: Generator) -> EvidenceDocuments:
        rows, length = torch.arange(len(distance)), self.setting.length
        ids = torch.full((len(distance), length), FILLER)
        ids[:, 0], ids[:, -1] = BEGIN, END
        places = torch.rand(len(distance), generator=generator) * (length - 2 - distance)
        clue = 1 + places.long()
        value = torch.randint(self.setting.values, distance.shape, generator=generator)
        ids[rows, clue] = self._clue + value
        ids[rows, clue + distance] = self._echo + value
        return EvidenceDocuments(ids, clue + distance, value)
