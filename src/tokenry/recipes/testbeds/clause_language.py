"""Sentences of two clauses in which every verb agrees with its noun, tiny encoders for them, and probes on frozen features.

A clause is `article adjective noun adverb verb article noun stop`; nouns and verbs come in classes, and the verb has the class of the noun
before it. A probe is a logistic regression on the mean and the maximum of an encoder's last hidden states:

    swapped     has one of the two verbs another class than its noun?
    alike       do the subjects of both clauses have one class?
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tokenizers import Tokenizer, models
from torch import Generator, Tensor, nn
from transformers import ElectraConfig, PreTrainedModel, PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PROBES = ("swapped", "alike")


@dataclass(frozen=True)
class ClauseSetting:
    """Size of the language, of the encoders and of the probes.

    Attributes:
        words: words of each class of nouns, and of verbs; articles, adjectives and adverbs have a class as large.
        classes: classes of nouns and of verbs.
        rows: sentences of a step.
        heads: attention heads.
        initializer_range: standard deviation of the initial weights; 0.02 is for wide models.
        probe: sentences that a probe is trained on, and as many that it is tested on.
    """

    words: int = 3
    classes: int = 2
    rows: int = 96
    layers: int = 2
    width: int = 48
    heads: int = 4
    initializer_range: float = 0.1
    probe: int = 1500


@dataclass(frozen=True)
class ProbedSentences:
    """Sentences with their labels for each probe."""

    input_ids: Int[Tensor, "rows tokens"]
    labels: dict[str, ndarray]


class ClauseLanguage:
    """The language of a setting."""

    def __init__(self, setting: ClauseSetting) -> None:
        self.setting = setting
        kinds = {"article": 1, "adjective": 1, "adverb": 1, "noun": setting.classes, "verb": setting.classes}
        first = len(SPECIAL) + 1  # the stop is a word of its own
        self._first: dict[str, int] = {}
        for kind, classes in kinds.items():
            self._first[kind] = first
            first += classes * setting.words
        self.vocabulary = first

    def batches(self, seed: int) -> Iterator[Int[Tensor, "rows tokens"]]:
        """Sentences without end, all of them grammatical."""
        generator = Generator().manual_seed(seed)
        while True:
            yield self._sentences(self._subjects(self.setting.rows, generator), generator)

    def labelled(self, seed: int) -> dict[str, ProbedSentences]:
        """Sentences of every probe: half of them swapped, half of them alike."""
        generator = Generator().manual_seed(seed)
        number, classes = 2 * self.setting.probe, self.setting.classes
        found = {}
        for probe in PROBES:
            labels = torch.arange(number) % 2
            subjects = self._subjects(number, generator)
            verbs = subjects.clone()
            others = torch.randint(1, classes, (number,), generator=generator)
            if probe == "alike":
                subjects[:, 1] = (subjects[:, 0] + torch.where(labels == 1, 0, others)) % classes
                verbs = subjects
            else:
                clause = torch.randint(2, (number,), generator=generator)
                verbs[torch.arange(number), clause] += others * labels
            ids = self._sentences(subjects, generator, verbs % classes)
            found[probe] = ProbedSentences(ids, {probe: labels.numpy()})
        return found

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A tokenizer whose tokens are the words."""
        words = [*SPECIAL, *(f"w{number}" for number in range(len(SPECIAL), self.vocabulary))]
        made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "[UNK]"))
        names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
        return PreTrainedTokenizerFast(tokenizer_object=made, **dict(zip(names, SPECIAL, strict=True)))

    def config(self) -> ElectraConfig:
        """The configuration of the encoders."""
        setting = self.setting
        return ElectraConfig(
            vocab_size=self.vocabulary,
            embedding_size=setting.width,
            hidden_size=setting.width,
            num_hidden_layers=setting.layers,
            num_attention_heads=setting.heads,
            intermediate_size=4 * setting.width,
            max_position_embeddings=32,
            initializer_range=setting.initializer_range,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )

    def _subjects(self, number: int, generator: Generator) -> Int[Tensor, "rows 2"]:
        return torch.randint(self.setting.classes, (number, 2), generator=generator)

    def _sentences(
        self,
        subjects: Int[Tensor, "rows 2"],
        generator: Generator,
        verbs: Int[Tensor, "rows 2"] | None = None,
    ) -> Int[Tensor, "rows tokens"]:
        """Fill clauses whose subjects and verbs have these classes; the verbs agree if none are given."""

        def draw(kind: str, classes: Tensor | int = 0) -> Int[Tensor, "rows 2"]:
            words = torch.randint(self.setting.words, subjects.shape, generator=generator)
            return self._first[kind] + classes * self.setting.words + words

        objects = torch.randint(self.setting.classes, subjects.shape, generator=generator)
        clause = [
            draw("article"),
            draw("adjective"),
            draw("noun", subjects),
            draw("adverb"),
            draw("verb", subjects if verbs is None else verbs),
            draw("article"),
            draw("noun", objects),
            torch.full_like(subjects, len(SPECIAL)),
        ]
        words = torch.stack(clause, dim=-1).flatten(1)
        begin, end = (torch.full_like(subjects[:, :1], SPECIAL.index(name)) for name in ("[CLS]", "[SEP]"))
        return torch.cat([begin, words, end], dim=1)


@torch.no_grad()
def features(encoder: nn.Module, ids: Int[Tensor, "rows tokens"]) -> Float[ndarray, "rows twice_width"]:
    """Mean and maximum of the last hidden states of each sentence."""
    hidden = torch.cat([encoder(input_ids=part).last_hidden_state for part in ids.split(500)])
    return torch.cat([hidden.mean(1), hidden.amax(1)], dim=1).numpy()


def probe(encoder: PreTrainedModel, sentences: dict[str, ProbedSentences]) -> dict[str, float]:
    """The accuracy of every probe on the second half of its sentences, in percent; the encoder stays as it is."""
    was_training, found = encoder.training, {}
    encoder.eval()
    for name, given in sentences.items():
        inputs, labels = features(encoder, given.input_ids), given.labels[name]
        half = len(labels) // 2
        fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(
            inputs[:half], labels[:half]
        )
        found[name] = 100 * float(np.mean(fitted.predict(inputs[half:]) == labels[half:]))
    encoder.train(was_training)
    return found
