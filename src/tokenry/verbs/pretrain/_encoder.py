"""The encoder of a pretraining: a model that goes on, or a configuration that begins from nothing; and how long a text it reads."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tokenry.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


class PretrainedEncoder(NamedTuple):
    """An encoder with its tokenizer.

    Attributes:
        model: the encoder, without a head.
        tokenizer: of its vocabulary.
        is_new: whether its weights are random.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    is_new: bool


def load_encoder(name: str, tokenizer: str | None, seed: int) -> PretrainedEncoder:
    """Load an encoder, or make one of a configuration: a folder without weights, or a JSON file.

    Raises:
        UserError: there is none, transformers has no masked language model of its kind, or there is no tokenizer.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

    from tokenry.models import load_tokenizer
    from tokenry.models.checkpoint import find_folder, require_config
    from tokenry.models.loading import MODEL_PATTERNS, WEIGHTS, load_weights

    path = Path(name).expanduser()
    folder = path.parent if path.is_file() else find_folder(name, MODEL_PATTERNS, None)
    if not path.is_file():
        require_config(name, folder)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            path if path.is_file() else folder, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{name} is no configuration that transformers knows: name a config.json or its folder."
        ) from error
    if type(config) not in AutoModelForMaskedLM._model_mapping:
        raise UserError(
            f"{name} is a {config.model_type} model, and transformers has no masked language model of this kind: take an encoder, such as "
            "BERT, RoBERTa, ModernBERT, DeBERTa-v2, ELECTRA or Longformer."
        )
    is_new = path.is_file() or not any((folder / file).is_file() for file in WEIGHTS)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if is_new:
            model = AutoModel.from_config(config)
        else:
            model, _ = load_weights(AutoModel, name, folder, "an encoder", dtype=torch.float32)
    return PretrainedEncoder(model.float(), load_tokenizer(tokenizer or folder), is_new)


def longest_text(model: "PreTrainedModel") -> int | None:
    """How many tokens an encoder can read; None where its positions have no end."""
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if table is None:
        most: int | None = getattr(model.config, "max_position_embeddings", None)
        return most
    # RoBERTa and its relatives begin to count after the padding token.
    reserved = 0 if table.padding_idx is None else table.padding_idx + 1
    return int(table.num_embeddings) - reserved
