"""Hypernetwork transfer from names to folders: train and save a hypernetwork; transfer and save a model."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokenry.core.bits_per_byte import TextLoss, first_token, text_loss
from tokenry.core.files import require_new, write_json
from tokenry.core.progress import Progress
from tokenry.models import load_model, load_tokenizer, preferred_device, require_causal_lm
from tokenry.runs.texts import passages, read_texts
from tokenry.tokenization.model_rows import set_special_ids, write_rows
from tokenry.tokenization.probes import require_encodable, texts_back
from tokenry.tokenization.special_roles import take_roles
from tokenry.tokenization.tokenizer_files import load_fast_tokenizer
from tokenry.tokenization.zett.hypernetwork import EmbeddingHyperNetwork
from tokenry.tokenization.zett.training import (
    HyperNetworkTrainer,
    HyperNetworkTrainingConfig,
    hypernetwork_for,
)
from tokenry.tokenization.zett.transfer import predict_vocabulary, save_transfer

TRAINING_FILE = "training.json"

_CHARACTERS_PER_TOKEN = 4
_BEGINNING_AND_END = 20


def train_hypernetwork(
    model: str | os.PathLike,
    text_files: Sequence[Path],
    output: Path,
    progress: Progress,
    config: HyperNetworkTrainingConfig,
    *,
    by_language: bool = False,
    hypernetwork: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Train a hypernetwork for a model and save it, with what was recorded, to a folder.

    Args:
        model: `embedded`, a folder, or a name on the hub.
        text_files: to train on; longer texts are cut into passages of about one block.
        output: a new folder; with `resume` that of a training that was begun.
        progress: told what is being done.
        config: of the training.
        by_language: each file is a language of its own, which the hypernetwork is told.
        hypernetwork: settings of its size, see `HyperNetworkConfig`.
        dtype: of the model's weights; None for as they are stored.
        resume: go on from the last checkpoint.

    Returns:
        Losses at the beginning and the end of each stage, the sizes, and whether the model's tokenizer gives the texts back.

    Raises:
        UserError: any of it cannot be read, used or written.
    """
    stems = [file.stem for file in text_files]
    texts = {
        file.stem if stems.count(file.stem) == 1 else str(file): _read(file, config.drawing.block_size)
        for file in text_files
    }
    progress("loading", 0.0)
    tokenizer = load_tokenizer(model)
    loaded = load_model(model, dtype).to(preferred_device())
    if config.objective == "causal":
        require_causal_lm(loaded, str(model))
    settings = {**(hypernetwork or {}), "languages": len(texts) if by_language else 0}
    network = hypernetwork_for(loaded, tokenizer, seed=config.seed, **settings)
    given = texts if by_language else [text for each in texts.values() for text in each]
    trainer = HyperNetworkTrainer(loaded, tokenizer, given, config, network)
    trainer.train(output, resume, progress)
    back, notes = texts_back({"model's": tokenizer}, [text for each in texts.values() for text in each])
    result = {
        "model": str(model),
        "texts": {name: len(each) for name, each in texts.items()},
        "text_back": back["model's"].as_json(),
        "notes": notes,
        "parameters": sum(each.numel() for each in network.parameters() if each.requires_grad),
        "stages": _stages(trainer.history, config),
        "config": asdict(network.config),
        "training": {**asdict(config), "drawing": _finite(asdict(config.drawing))},
    }
    write_json(output / TRAINING_FILE, {**result, "history": _without_nan(trainer.history)})
    return result


def transfer_model(
    model: str | os.PathLike,
    hypernetwork: Path,
    new_tokenizer: str | os.PathLike,
    output: Path,
    progress: Progress,
    *,
    base: str | os.PathLike | None = None,
    language: int | None = None,
    text_files: Sequence[Path] = (),
    most_characters: int = 20_000,
    dtype: str | None = None,
) -> dict[str, Any]:
    """Give a model another tokenizer with a trained hypernetwork, and save it to a new folder.

    Args:
        model: the hypernetwork's own, or a fine-tuned variant: `embedded`, a folder, or a name on the hub.
        hypernetwork: its folder.
        new_tokenizer: a folder, a name on the hub, or a `tokenizer.json`.
        output: a folder that does not exist.
        progress: told what is being done.
        base: the model whose rows the hypernetwork reads; None for `model`.
        language: for a hypernetwork that tells languages apart.
        text_files: measured in bits per byte before and after; a text ends at an empty line.
        most_characters: of each file, from its beginning.
        dtype: of the weights; None for as they are stored.

    Returns:
        The report on the tokens, bits per byte, and whether the old and the new tokenizer give texts back: these, or else sample texts.

    Raises:
        UserError: any of it cannot be read, used or written.
    """
    require_new(output)
    texts = [text for file in text_files for text in read_texts(file, most_characters)]
    network = EmbeddingHyperNetwork.load(hypernetwork)
    progress("loading", 0.0)
    old, new = load_tokenizer(model), load_fast_tokenizer(new_tokenizer)
    take_roles(new, old)
    for tokenizer in (old, new) if texts else ():
        first_token(tokenizer)
    require_encodable({"old": old, "new": new}, texts)
    loaded = load_model(model, dtype)
    of_base = None if base is None else load_model(base, dtype)
    before = _loss(loaded, old, texts)
    progress("predicting rows", 0.4)
    predicted = predict_vocabulary(loaded, network, new, base=of_base, language=language)
    write_rows(loaded, predicted.rows)
    set_special_ids(loaded, new)
    progress("measuring and saving", 0.7)
    after = _loss(loaded, new, texts)
    back, notes = texts_back({"old": old, "new": new}, texts or None)
    measured = {
        "bits_per_byte": {"before": before, "after": after},
        "text_back": {which: found.as_json() for which, found in back.items()},
        "notes": notes,
    }
    save_transfer(loaded, new, predicted.report, output, measured)
    return {**predicted.report.as_json(), **measured}


def _read(file: Path, block_size: int) -> list[str]:
    return passages(read_texts(file), _CHARACTERS_PER_TOKEN * block_size)


def _loss(model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> dict[str, Any] | None:
    if not texts:
        return None
    measured: TextLoss = text_loss(model, tokenizer, texts)
    estimate = measured.bits_per_byte
    error = None if len(texts) == 1 else estimate.standard_error
    return {"value": estimate.value, "standard_error": error, "tokens": int(measured.tokens.sum())}


def _stages(
    history: Mapping[str, list[float]], config: HyperNetworkTrainingConfig
) -> dict[str, dict[str, float]]:
    """The mean loss over the first and the last steps of each stage."""
    middle = min(config.identity_steps, config.steps)
    parts = {"warm-up": history["loss"][:middle], "main": history["loss"][middle:]}
    found = {}
    for name, losses in parts.items():
        if losses:
            few = min(_BEGINNING_AND_END, max(1, len(losses) // 2))
            found[name] = {"first": sum(losses[:few]) / few, "last": sum(losses[-few:]) / few}
    return found


def _finite(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value == float("inf") else value for name, value in settings.items()}


def _without_nan(history: Mapping[str, list[float]]) -> dict[str, list[float | None]]:
    return {name: [None if each != each else each for each in values] for name, values in history.items()}
