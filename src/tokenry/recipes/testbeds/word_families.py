"""Two tiny BERTs that tell of which of two families of words a sentence has more; one scores the words, the other reads what is left.

    w12 w88 w53 w231 …      24 words, most of them fillers; 2 or 3 of the family that is the label, fewer of the other

Half of the training sentences lose four words in ten, so that both models can read shortened text. They differ in weights and order of
training alone.

Source: the testbed is ours, after the small-scale check of prompt compression by attribution.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Generator, Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from tokenry.models import TextClassifier
from tokenry.recipes.kit import fit, linear

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
LABELS = ("first family", "second family")


@dataclass(frozen=True)
class FamilySetting:
    """Sentences, models and their training.

    Attributes:
        family: words of each family.
        length: words of a sentence.
        width: width of their hidden states.
        heads: attention heads.
        feed_forward: width of the feed-forward layers.
        steps: training steps.
        batch_size: sentences per step.
        learning_rate: highest learning rate.
    """

    words: int = 300
    family: int = 20
    length: int = 24
    layers: int = 2
    width: int = 48
    heads: int = 4
    feed_forward: int = 96
    train: int = 3000
    steps: int = 260
    batch_size: int = 32
    learning_rate: float = 2e-3


@dataclass(frozen=True)
class FamilySentences:
    """Sentences as texts, with their labels."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]


def draw_sentences(number: int, setting: FamilySetting, generator: Generator) -> FamilySentences:
    """Draw sentences of both labels."""
    texts, labels = [], []
    for label in torch.randint(2, (number,), generator=generator).tolist():
        more = 2 + int(torch.randint(2, (1,), generator=generator))
        fewer = int(torch.randint(more, (1,), generator=generator))
        fillers = setting.length - more - fewer
        places = torch.cat([
            torch.randint(setting.family, (more,), generator=generator) + label * setting.family,
            torch.randint(setting.family, (fewer,), generator=generator) + (1 - label) * setting.family,
            torch.randint(2 * setting.family, setting.words, (fillers,), generator=generator),
        ])  # fmt: skip
        shuffled = places[torch.randperm(setting.length, generator=generator)]
        texts.append(" ".join(f"w{word}" for word in shuffled.tolist()))
        labels.append(label)
    return FamilySentences(tuple(texts), tuple(labels))


def family_tokenizer(setting: FamilySetting) -> PreTrainedTokenizerFast:
    """One token per word."""
    words = [*SPECIAL, *(f"w{number}" for number in range(setting.words))]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )


def train_reader(
    sentences: FamilySentences,
    setting: FamilySetting,
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
) -> TextClassifier:
    """Train one of the models from nothing."""
    tokenizer = family_tokenizer(setting)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=setting.width,
        num_hidden_layers=setting.layers,
        num_attention_heads=setting.heads,
        intermediate_size=setting.feed_forward,
        max_position_embeddings=setting.length + 2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
        problem_type="single_label_classification",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config)
    generator = Generator().manual_seed(seed)
    ids = torch.tensor(tokenizer(list(sentences.texts))["input_ids"])
    labels = torch.tensor(sentences.labels)

    def loss(places: Tensor) -> Tensor:
        batch, mask = shortened(ids[places], generator)
        return model(input_ids=batch, attention_mask=mask, labels=labels[places]).loss

    batches = (
        torch.randint(len(ids), (setting.batch_size,), generator=generator) for _ in range(setting.steps)
    )
    fit(model.train(), batches, loss, setting.steps, setting.learning_rate, linear, progress=progress)
    return TextClassifier(model.eval(), tokenizer, setting.length + 2)


def shortened(ids: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """A batch in which half of the sentences lose four words in ten, and its mask."""
    lost = torch.rand(ids.shape, generator=generator) < 0.4
    lost &= torch.rand(len(ids), 1, generator=generator) < 0.5
    lost[:, 0] = lost[:, -1] = False
    order = lost.long().argsort(dim=1, stable=True)
    mask = ~lost.gather(1, order)
    return ids.gather(1, order) * mask, mask.long()
