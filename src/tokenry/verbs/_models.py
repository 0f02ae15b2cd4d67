"""Models by name, and their names in results."""

from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError
from tokenry.verbs._hardware import Hardware

if TYPE_CHECKING:
    from tokenry.models.text_model import TextModel


def model_title(name: str) -> str:
    """The name of a model; the embedded one has a name of its own."""
    if name != "embedded":
        return name
    from tokenry.models.embedded import EMBEDDED_TITLE

    return EMBEDDED_TITLE


def text_model(name: str, hardware: Hardware, **options: Any) -> "TextModel":
    """Load a model, or speak to an endpoint: `http://localhost:8000/v1#MODEL`.

    Args:
        name: the model or endpoint.
        hardware: where a loaded model runs.
        **options: of `LocalText`, for a model that is loaded.
    """
    if name.startswith(("http://", "https://")):
        url, hash_, model = name.partition("#")
        if not hash_ or not model:
            raise UserError(
                f"an endpoint is given as URL#MODEL, such as http://localhost:8000/v1#my-model, got {name!r}."
            )
        from tokenry.models.endpoint import Endpoint

        return Endpoint(url, model)
    from tokenry.models import load_tokenizer
    from tokenry.models.text_model import LocalText

    model = hardware.load(name, encoder_decoder=True)
    return LocalText(model, load_tokenizer(name), name=name, **options)
