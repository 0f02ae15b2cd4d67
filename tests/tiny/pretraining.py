"""Tiny pairs of generator and discriminator of every kind of encoder, a tokenizer with a mask token, and texts in ids."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    LongformerConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from tokenry.pretraining import ReplacedTokenConfig, ReplacedTokenPretrainer, generator_config

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY = 40
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "pad_token_id": 0,
}
_ENDS = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
_WIDE = {"max_position_embeddings": 40}
_CONFIGS = {
    "electra": (ElectraConfig, {**_SIZES, **_WIDE, "embedding_size": 12}),
    "bert": (BertConfig, {**_SIZES, **_WIDE}),
    "roberta": (RobertaConfig, {**_SIZES, **_WIDE}),
    "modernbert": (ModernBertConfig, {**_SIZES, **_WIDE, **_ENDS}),
    "deberta": (
        DebertaV2Config,
        {**_SIZES, **_WIDE, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    ),
    "longformer": (LongformerConfig, {**_SIZES, **_WIDE, "attention_window": [4, 4]}),
    "distilbert": (
        DistilBertConfig,
        {
            "vocab_size": VOCABULARY,
            "dim": 16,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 32,
            "pad_token_id": 0,
        },
    ),
}
KINDS = tuple(_CONFIGS)


def encoder_config(kind: str = "electra", **settings: object) -> PreTrainedConfig:
    config_class, sizes = _CONFIGS[kind]
    return config_class(**{**sizes, **settings})


def mask_tokenizer(size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Words `w5`, `w6`, … of which each is its id, between [CLS] and [SEP]."""
    words = [*SPECIAL, *(f"w{number}" for number in range(len(SPECIAL), size))]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=made, **dict(zip(names, SPECIAL, strict=True)))


def pretrainer(
    kind: str = "electra",
    fraction: float = 0.5,
    tie: str = "embeddings",
    seed: int = 0,
    rtd: ReplacedTokenConfig | None = None,
    **settings: object,
) -> ReplacedTokenPretrainer:
    config = encoder_config(kind, **settings)
    torch.manual_seed(seed)
    generator = AutoModelForMaskedLM.from_config(generator_config(config, fraction))
    return ReplacedTokenPretrainer(
        generator, AutoModel.from_config(config), mask_tokenizer(), tie, rtd or ReplacedTokenConfig()
    ).eval()


def text_rows(
    lengths: tuple[int, ...] = (14, 9, 5), seed: int = 1, left: bool = False
) -> dict[str, torch.Tensor]:
    """Texts between [CLS] and [SEP], padded to the longest."""
    generator, width = torch.Generator().manual_seed(seed), max(lengths)
    ids, mask = (
        torch.zeros(len(lengths), width, dtype=torch.long),
        torch.zeros(len(lengths), width, dtype=torch.long),
    )
    for row, length in enumerate(lengths):
        words = torch.randint(len(SPECIAL), VOCABULARY, (length - 2,), generator=generator)
        text = torch.cat([torch.tensor([2]), words, torch.tensor([3])])
        where = slice(width - length, None) if left else slice(length)
        ids[row, where], mask[row, where] = text, 1
    return {"input_ids": ids, "attention_mask": mask}
