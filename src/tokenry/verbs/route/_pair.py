"""The two models of a verb that routes tokens, the rule between them, and texts written by both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress, named
from tokenry.core.plans import option
from tokenry.report.blocks import Column, Table, Token
from tokenry.verbs._hardware import Hardware

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tokenry.core.tensors.generation import Continuation
    from tokenry.decoding.r2r import RoutingRule
    from tokenry.models.identity import ModelIdentity

ROUTER_FILE, LABELS_FILE = "router.safetensors", "labels.safetensors"
BATCH_SIZE = 8


@dataclass(frozen=True)
class ModelPair:
    """Two models of one tokenizer.

    Attributes:
        small: small model: `embedded`, a folder, or a hub name.
        large: large model, likewise.
    """

    small: str = option(metavar="MODEL")
    large: str = option(metavar="MODEL")

    def load(self, hardware: Hardware) -> "LoadedPair":
        """Load both models."""
        from tokenry.models import load_tokenizer, require_causal_lm, require_same_tokenizer

        tokenizers = load_tokenizer(self.small), load_tokenizer(self.large)
        require_same_tokenizer(*tokenizers, what="the large model")
        models = hardware.load(self.small), hardware.load(self.large)
        for name, model in zip((self.small, self.large), models, strict=True):
            require_causal_lm(model, name)
        return LoadedPair(*models, *tokenizers, self.small, self.large)


@dataclass(frozen=True)
class LoadedPair:
    """Two loaded models with their tokenizers and names."""

    small: "PreTrainedModel"
    large: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    tokenizer_of_large: "PreTrainedTokenizerBase"
    name_of_small: str
    name_of_large: str

    @property
    def identity(self) -> "ModelIdentity":
        """The small model, as files remember it."""
        return identity_of(self.small, self.tokenizer, self.name_of_small)

    @property
    def parameters(self) -> tuple[int, int]:
        """Parameters of both."""
        return self.small.num_parameters(), self.large.num_parameters()

    def rule(self, described: str) -> "RoutingRule":
        """A router from its file, or a rule by its description."""
        from tokenry.decoding.r2r import ROUTING_RULES, TokenRouter

        path = Path(described)
        file = path / ROUTER_FILE if path.is_dir() else path
        if file.is_file():
            return TokenRouter.load(file, self.small, self.identity)
        if path.suffix:
            raise UserError(f"{described} does not exist: give a router's file, or a rule such as entropy.")
        return ROUTING_RULES.make(described)

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        rule: "RoutingRule",
        max_new_tokens: int,
        progress: Progress,
        threshold: float | None = None,
        rate: float | None = None,
    ) -> "list[Continuation]":
        """Continue prompts with both models, greedily."""
        from tokenry.core.tensors.generation import continue_prompts, greedy_config, require_answers
        from tokenry.decoding.r2r import RoutedDecoding

        for model in (self.small, self.large):
            require_answers(model, prompts, max_new_tokens)
        tokenizers = self.tokenizer, self.tokenizer_of_large
        decoder = RoutedDecoding(
            self.small, self.large, rule, threshold=threshold, rate=rate, tokenizers=tokenizers
        )
        config = greedy_config(self.small, self.tokenizer, max_new_tokens)
        told = named(progress, "writing")
        return continue_prompts(self.small, prompts, config, BATCH_SIZE, decoder, told)


def identity_of(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", name: str) -> "ModelIdentity":
    """A model and its tokenizer, as files remember them."""
    from tokenry.models import LocalText
    from tokenry.models.identity import ModelIdentity

    return ModelIdentity.of(LocalText(model, tokenizer, name=name))


def account_of(written: "Sequence[Continuation]", parameters: Sequence[int], router: int) -> dict[str, Any]:
    """Who wrote how many tokens, and the parameters at work for a token by both conventions."""
    from tokenry.decoding.r2r import activated_parameters

    sources = [source for text in written for source in text.sources or ()]
    large, total = sum(sources), len(sources)
    small_size, large_size = parameters
    counts = total - large, large, small_size, large_size
    return {
        "tokens": total,
        "large_tokens": large,
        "rate": large / max(1, total),
        "activated_code": activated_parameters(*counts),
        "activated_full": activated_parameters(*counts, "full", router),
    }


def router_size(rule: "RoutingRule") -> int:
    """Parameters of a router; 0 for a rule that has none."""
    weights = rule.parameters() if hasattr(rule, "parameters") else ()
    return sum(weight.numel() for weight in weights if weight.requires_grad)


def account_table(account: Mapping[str, Any], parameters: Sequence[int]) -> Table:
    """What was written by whom, and at what cost."""
    return Table(
        "cost",
        ("what", "value"),
        [
            ("tokens", f"{account['tokens']:,}, {account['rate']:.1%} of them by the large model"),
            ("parameters", f"{parameters[0] / 1e6:,.1f} M small, {parameters[1] / 1e6:,.1f} M large"),
            ("activated per token", f"{account['activated_code'] / 1e6:,.1f} M: the model that wrote it"),
            ("", f"{account['activated_full'] / 1e6:,.1f} M: the small model and the router always"),
        ],
    )


def trace(tokens: Sequence[str], sources: Sequence[int]) -> list[Token]:
    """The tokens of a text, marked where the large model wrote them."""
    return [
        Token(
            text, "large" if source else "open", {"large model": float(source)}, token_class=WRITERS[source]
        )
        for text, source in zip(tokens, sources, strict=True)
    ]


WRITERS = ("small", "large")
COST_COLUMNS = (
    Column("by the large model", "%", ".1f"),
    Column("activated", "million, code", ",.1f"),
    Column("activated", "million, full", ",.1f"),
)
