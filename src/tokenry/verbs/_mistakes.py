"""What is the user's to put right, wherever it shows: a package that is not installed, a path that cannot be used."""

import contextlib
from collections.abc import Iterator

from tokenry.core.errors import UserError

EXTRAS = {
    "reasoning_gym": "demo",
    "gguf": "demo",
    "gradio": "app",
    "wordfreq": "words",
    "english_words": "words",
    "ray": "ray",
    "lm_eval": "lm-eval",
    "bitsandbytes": "quantize",
}
"""The extra that installs a package."""


@contextlib.contextmanager
def mistakes_named() -> Iterator[None]:
    """Turn both into one sentence.

    Raises:
        UserError: in place of both.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "tokenry"):
            raise
        install = f"'tokenry[{EXTRAS[package]}]'" if package in EXTRAS else package
        raise UserError(
            f"the package {package} is needed and not installed: `pip install {install}`."
        ) from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        if error.filename is None:
            raise
        raise UserError(f"{error.filename} cannot be used ({error.strerror}): name another path.") from error
