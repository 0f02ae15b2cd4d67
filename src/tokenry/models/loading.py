"""Load a language model or its tokenizer by name: `embedded`, a local folder, or a name on the Hugging Face hub.

Every name leads to one local folder that is checked before loading: safetensors only, nothing missing.
A folder with a PEFT adapter gives its base model with the adapter merged in: a plain model from then on.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tokenry.core.errors import UserError
from tokenry.core.io.files import read_json
from tokenry.core.tensors.gate import embedding_rows, require_language_model_head
from tokenry.models.checkpoint import as_dtype, find_folder, first_sentence, require_config, require_weights
from tokenry.models.embedded import EMBEDDED, EMBEDDED_TITLE

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")

_TOKENIZER_PATTERNS = ("*.json", "*.jinja", "*.txt", "*.model")
MODEL_PATTERNS = ("*.json", "model.safetensors", "model-*.safetensors", _ADAPTER_WEIGHTS)
_CODE_PATTERN = "*.py"


def load_model(
    name: str | os.PathLike = EMBEDDED,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    encoder_decoder: bool = False,
    **kwargs: Any,
) -> PreTrainedModel:
    """Load a causal language model.

    Args:
        name: `embedded` (SmolLM2-135M-Instruct), a local folder, or a name on the Hugging Face hub.
        dtype: a torch dtype or its name; None keeps the type in which the weights are stored.
        revision: a branch, tag or commit; for names on the hub.
        trust_remote_code: run Python code that comes with the model.
        encoder_decoder: take a model that reads its prompt in an encoder (T5, BART) too, for `LocalText`.
        **kwargs: passed to transformers' `from_pretrained` (`attn_implementation`, `device_map`, …).

    Raises:
        UserError: no such model, weights missing, incomplete, damaged or pickled, an unknown architecture or dtype, a
            classifier or reward model, or an encoder-decoder where none is asked for.
    """
    wanted = as_dtype(dtype)
    patterns = MODEL_PATTERNS + ((_CODE_PATTERN,) if trust_remote_code else ())
    folder = find_folder(name, patterns, revision)
    if (folder / ADAPTER_CONFIG).is_file():
        base = load_model(
            _base_of_adapter(name, folder),
            wanted,
            trust_remote_code=trust_remote_code,
            encoder_decoder=encoder_decoder,
            **kwargs,
        )
        return _merge_adapter(base, name, folder)
    require_config(name, folder)
    require_weights(name, folder, WEIGHTS)
    kind, what = AutoModelForCausalLM, "a causal language model"
    if _has_encoder(name, folder, trust_remote_code):
        if not encoder_decoder:
            raise UserError(
                f"{name} is an encoder-decoder, which reads its prompt elsewhere than its answer: give a decoder-only model "
                "(encoder-decoders answer prompts only, as in `tokenry cascade`)."
            )
        kind, what = AutoModelForSeq2SeqLM, "an encoder-decoder"
    kwargs |= {"dtype": wanted, "trust_remote_code": trust_remote_code}
    model, loading = load_weights(kind, name, folder, what, **kwargs)
    require_language_model_head(model.config, str(name), loading["unexpected_keys"])
    require_complete(model, name, loading["missing_keys"])
    return _named(model, name, folder)


def _has_encoder(name: str | os.PathLike, folder: Path, trust_remote_code: bool) -> bool:
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError):
        return False  # said by the loader of its weights
    return bool(getattr(config, "is_encoder_decoder", False))


def load_weights(
    kind: Any, name: str | os.PathLike, folder: Path, what: str, **kwargs: Any
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """Load a model of one auto class from the safetensors of a folder.

    Args:
        kind: the auto class of transformers.
        name: name of the model in error messages.
        folder: its local folder.
        what: description of `kind` in error messages.
        **kwargs: passed to `from_pretrained`.

    Returns:
        The model, and the report of transformers on `missing_keys` and `unexpected_keys`.
    """
    try:
        model, loading = kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, **kwargs
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{name} cannot be loaded as {what}: {first_sentence(error)}") from error
    return model, loading


def require_complete(model: PreTrainedModel, name: str | os.PathLike, missing: Iterable[str]) -> None:
    """Raise `UserError` if tensors of the model are missing from its weights."""
    if lacking := sorted(missing):
        raise UserError(
            f"the weights of {name} lack {len(lacking)} of the tensors of {type(model).__name__} ({lacking[0]}, …): "
            "they belong to another kind of model, or the file is incomplete."
        )


def load_tokenizer(
    name: str | os.PathLike = EMBEDDED,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **kwargs: Any,
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of the model `name` (see `load_model`); an adapter without one uses that of its base model.

    Raises:
        UserError: no such model, or one without a tokenizer.
    """
    patterns = _TOKENIZER_PATTERNS + ((_CODE_PATTERN,) if trust_remote_code else ())
    folder = find_folder(name, patterns, revision)
    has_tokenizer = any((folder / file).is_file() for file in _TOKENIZER_FILES)
    if not has_tokenizer and (folder / ADAPTER_CONFIG).is_file():
        return load_tokenizer(_base_of_adapter(name, folder), trust_remote_code=trust_remote_code, **kwargs)
    if not has_tokenizer:
        raise UserError(
            f"{name} has no tokenizer (none of {', '.join(_TOKENIZER_FILES)}): save it beside the model with "
            "tokenizer.save_pretrained, or name the model it belongs to."
        )
    try:
        return AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True, **kwargs
        )
    except Exception as error:  # the tokenizers library raises bare exceptions on damaged files
        raise UserError(f"the tokenizer of {name} cannot be loaded: {first_sentence(error)}") from error


def preferred_device() -> torch.device:
    """The accelerator that torch finds, else the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def preferred_dtype(device: str | torch.device = "cpu") -> torch.dtype:
    """bfloat16 where the hardware computes in it natively, else float32."""
    native = {"cpu": _cpu_has_bfloat16, "cuda": _cuda_has_bfloat16}.get(torch.device(device).type)
    return torch.bfloat16 if native is not None and native() else torch.float32


def _cpu_has_bfloat16() -> bool:
    # torch has no public function for this; if the private one disappears, float32 is correct, only slower.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported and supported())


def _cuda_has_bfloat16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def _base_of_adapter(name: str | os.PathLike, folder: Path) -> str:
    base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not base:
        raise UserError(
            f"{name} is an adapter whose {ADAPTER_CONFIG} names no base model (base_model_name_or_path)."
        )
    # The embedded model is recorded as its folder in a cache, which another machine or a cleared cache does not have.
    is_embedded = not Path(base).is_dir() and Path(base).name.startswith(f"{EMBEDDED_TITLE}-")
    return EMBEDDED if is_embedded else str(base)


def _merge_adapter(base: PreTrainedModel, name: str | os.PathLike, folder: Path) -> PreTrainedModel:
    from peft import PeftConfig, PeftModel  # more than half a second, and few models are adapters

    require_weights(name, folder, (_ADAPTER_WEIGHTS,))
    try:
        config = PeftConfig.from_pretrained(folder)
        shapes = _token_shapes(base, folder / _ADAPTER_WEIGHTS)
        _resize_to_adapter(base, name, shapes)
        adapted = PeftModel.from_pretrained(base, folder, config=config)
        if any("lora_" in key for key in shapes):
            _untie(base)
        merged = adapted.merge_and_unload()
    except UserError:
        raise
    except AttributeError as error:
        raise UserError(
            f"{name} is a {config.peft_type.value} adapter, which cannot be merged into its base model: LoRA and its relatives can."
        ) from error
    except (OSError, ValueError, IndexError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"the adapter {name} does not fit its base model {base.name_or_path}: {_mismatch(error)}"
        ) from error
    return _named(merged, name, folder)


def _token_shapes(base: PreTrainedModel, weights: Path) -> dict[str, list[int]]:
    """Shapes of an adapter's tensors for the embeddings (`in.…`) and the output head (`out.…`) of its base model."""
    ends = {"in": base.get_input_embeddings(), "out": base.get_output_embeddings()}
    places = {
        f"base_model.model.{place}.": end
        for place, module in base.named_modules()
        for end, known in ends.items()
        if module is known
    }
    with safe_open(weights, framework="pt") as file:
        return {
            f"{end}.{key.removeprefix(place)}": file.get_slice(key).get_shape()
            for key in file.keys()  # noqa: SIM118  (it is no mapping)
            for place, end in places.items()
            if key.startswith(place)
        }


def _resize_to_adapter(
    base: PreTrainedModel, name: str | os.PathLike, shapes: Mapping[str, Sequence[int]]
) -> None:
    """Give `base` as many token rows as the adapter was trained with, where the adapter holds token rows."""
    whole = {key: shape[0] for key, shape in shapes.items() if key.endswith("weight") and "lora_" not in key}
    of_lora = {key: shape[1] for key, shape in shapes.items() if "lora_embedding_A" in key}
    of_lora |= {key: shape[0] for key, shape in shapes.items() if key.endswith("lora_B.weight")}
    found, rows = sorted({*whole.values(), *of_lora.values()}), embedding_rows(base)
    if not found or found == [rows]:
        return
    needed = {"in"} if _is_tied(base) else {"in", "out"}
    held = {key.partition(".")[0] for key in whole}
    if len(found) > 1 or (found[0] > rows and len(held) < len(needed)):
        raise UserError(
            f"the adapter {name} was trained with {' and '.join(map(str, found))} rows of tokens and its base model {base.name_or_path} has "
            f"{rows}, and it does not hold all rows that are lacking: merge it where it was "
            "trained (merge_and_unload) and save the whole model."
        )
    base.resize_token_embeddings(found[0], mean_resizing=False)


def _is_tied(model: PreTrainedModel) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _untie(base: PreTrainedModel) -> None:
    """Untie embeddings and head: merged into one of them, an adapter would change the other too."""
    if not _is_tied(base):
        return
    head = base.get_output_embeddings()
    plain = getattr(head, "base_layer", head)
    plain.weight = torch.nn.Parameter(plain.weight.detach().clone(), requires_grad=False)
    base.config.get_text_config().tie_word_embeddings = base.config.tie_word_embeddings = False


def _mismatch(error: Exception) -> str:
    """The message of a loading error; of tensors that do not fit, the first one with both its sizes."""
    lines = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
    return lines[0] if lines else first_sentence(error)


def _named(model: PreTrainedModel, name: str | os.PathLike, folder: Path) -> PreTrainedModel:
    """Set the name by which the model is found again: an adapter trained on it records that as its base."""
    is_local = name == EMBEDDED or Path(name).expanduser().is_dir()
    model.name_or_path = model.config._name_or_path = str(folder.resolve()) if is_local else str(name)
    return model
