"""Which model a fitted file belongs to: the name, a fingerprint of the weights, and one of the tokenizer.

A model behind an endpoint shows neither weights nor tokenizer, so its name must do.
"""

import json
from dataclasses import dataclass
from typing import Any

from torch import nn

from tokenry.core.errors import UserError
from tokenry.core.io.workspace import fingerprint
from tokenry.core.tensors.fingerprints import model_fingerprint


@dataclass(frozen=True)
class ModelIdentity:
    """A model as a file remembers it.

    Attributes:
        name: its name when the file was made.
        weights: fingerprint of its weights, adapters included; None behind an endpoint and for logged answers.
        tokenizer: fingerprint of its tokenizer; None likewise.
    """

    name: str
    weights: str | None = None
    tokenizer: str | None = None

    @classmethod
    def of(cls, model: Any) -> "ModelIdentity":
        """The identity of a text model, or of a model of transformers in a wrapper with `model` and `tokenizer`."""
        module, tokenizer = getattr(model, "model", None), getattr(model, "tokenizer", None)
        weights = model_fingerprint(module, adapters=True) if isinstance(module, nn.Module) else None
        return cls(model.name, weights, None if tokenizer is None else tokenizer_fingerprint(tokenizer))

    def require(
        self,
        other: "ModelIdentity",
        what: str,
        made: str = "the rule was fitted",
        again: str = "fit a rule",
    ) -> None:
        """Raise `UserError` unless the other is the same model with the same tokenizer; names of the same weights may differ.

        Args:
            other: the model that is to be used now.
            what: its part, for the error message.
            made: what happened to the model in the file.
            again: what to do for another model.
        """
        if None in (self.weights, other.weights):
            if self.name != other.name:
                raise UserError(
                    f"{what} is {other.name}, but {made} for {self.name}: {again} for this model."
                )
            return
        if self.weights != other.weights:
            raise UserError(
                f"{what} {other.name} has other weights than {self.name}, for which {made} "
                f"(another model, another adapter, or another dtype): {again} for this model."
            )
        if self.tokenizer != other.tokenizer:
            raise UserError(
                f"the tokenizer of {what} {other.name} is not the one for which {made}: {again} for this tokenizer."
            )


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Hash what a tokenizer does to a text and a conversation: vocabulary, rules, special tokens, template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else {}
    rules |= {"padding": None, "truncation": None}  # they follow the last call
    known = [tokenizer.get_vocab(), tokenizer.special_tokens_map, getattr(tokenizer, "chat_template", None)]
    return fingerprint([known, rules], length=24)
