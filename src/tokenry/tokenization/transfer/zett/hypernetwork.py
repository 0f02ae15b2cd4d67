"""The hypernetwork of zero-shot tokenizer transfer: from how the old tokenizer spells a token to the rows of its embeddings.

    pieces     source rows of the old ids that spell the token ([in ; out] where the model is untied), or fallback rows
    rows       = rescale(head(first position of encoder(projected(rescale(pieces)))))
    residual   = mean of the pieces' source rows + std of the source columns · head(…), the head's last layer zero at first

Source: Zero-Shot Tokenizer Transfer (arXiv 2405.07883), section 3.2, and the released code; the residual form follows tokenkit.

The forward does each piece of work once, and gives what the padded form gives: one projection per source id, one encoding per distinct
spelling, no position of padding.
"""

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from tokenry.core.errors import UserError
from tokenry.core.io.files import atomic_write, read_json, write_json
from tokenry.tokenization.transfer.zett.encoder import PieceEncoder, ProjectorBlock, Rescaler, by_length

_INPUT_STD = 0.02
_CONFIG_FILE, _WEIGHTS_FILE, _TOKENIZER_FILE = "config.json", "model.safetensors", "tokenizer.json"


@dataclass(frozen=True)
class HyperNetworkConfig:
    """What a hypernetwork reads and writes, and its size.

    Attributes:
        vocabulary: number of tokens of the source tokenizer; larger ids are fallback rows.
        embedding_size: width of the model's embeddings.
        pad_id: source id that pads a surface form.
        tied: whether the model has one matrix for input and output; else it reads and predicts both.
        max_length: pieces of a surface form.
        hidden_size: width of the encoder; 0 for `embedding_size`.
        intermediate_size: width of the feed-forward blocks; 0 for twice `hidden_size`.
        heads: attention heads of the encoder; 0 for one per 64 of `hidden_size`, at least one.
        fallback_rows: number of trainable rows for ids without a row in the source model.
        rescale: whether rows are scaled and shifted by fixed numbers at both ends.
        single_head: whether one head of twice the width serves input and output.
        predict_bias: whether an output bias is predicted.
        languages: number of languages that an extra position tells apart; 0 for none.
        residual: whether the difference to the mean of the pieces' rows (FVT) is predicted, which begins at zero.
    """

    vocabulary: int
    embedding_size: int
    pad_id: int
    tied: bool = True
    max_length: int = 7
    hidden_size: int = 0
    intermediate_size: int = 0
    layers: int = 3
    heads: int = 0
    fallback_rows: int = 0
    rescale: bool = True
    single_head: bool = False
    predict_bias: bool = False
    languages: int = 0
    residual: bool = False

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise UserError(
                f"max_length must be at least 1, got {self.max_length}: a token is spelled by one piece or more."
            )
        if self.vocabulary < 1:
            raise UserError("the source vocabulary is empty: give the tokenizer the model was trained with.")
        for name in ("embedding_size", "layers"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("fallback_rows", "languages"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be 0 or more, got {getattr(self, name)}.")
        if not 0 <= self.pad_id < self.vocabulary + self.fallback_rows:
            raise UserError(
                f"pad_id must be a token of the source vocabulary (0 to {self.vocabulary - 1}), got {self.pad_id}."
            )
        hidden = self.hidden_size or self.embedding_size
        heads = self.heads or max(1, hidden // 64)
        inner = self.intermediate_size or 2 * hidden
        for name, value in (("hidden_size", hidden), ("intermediate_size", inner), ("heads", heads)):
            if value < 1:
                raise UserError(f"{name} must be at least 1 (or 0 for the default), got {value}.")
            object.__setattr__(self, name, value)
        if hidden % heads:
            raise UserError(
                f"hidden_size must be divisible by heads, got {hidden} and {heads}: choose heads that divide it."
            )

    @property
    def source_size(self) -> int:
        """Width of a source row: [in ; out] where the model is untied."""
        return self.embedding_size * (1 if self.tied else 2)


class PredictedEmbeddings(NamedTuple):
    """Rows for a vocabulary.

    Attributes:
        input: rows of the input matrix.
        output: rows of the output matrix; None for a tied model.
        bias: output bias; zeros where none is predicted.
    """

    input: Float[Tensor, "tokens dim"]
    output: Float[Tensor, "tokens dim"] | None
    bias: Float[Tensor, "tokens"]


class EmbeddingHyperNetwork(nn.Module):
    """Predicts embeddings from surface forms.

    `source_tokenizer` is the (byte-level) tokenizer that spells the surface forms; it is saved and loaded with the weights.

    Source: arXiv 2405.07883, section 3.2.
    """

    def __init__(
        self, config: HyperNetworkConfig, source_tokenizer: PreTrainedTokenizerFast | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.source_tokenizer = source_tokenizer
        hidden, inner, heads = config.hidden_size, config.intermediate_size, config.heads
        # The released checkpoints have one row even where none is used.
        self.fallback_embeddings = nn.Embedding(max(1, config.fallback_rows), config.source_size)
        self.input_projection = nn.Sequential(
            nn.Linear(config.source_size, hidden), ProjectorBlock(hidden, inner)
        )
        self.model = PieceEncoder(hidden, inner, heads, config.layers, config.max_length)
        width = config.source_size if config.single_head else config.embedding_size
        self.output_projection = nn.Sequential(ProjectorBlock(hidden, inner), nn.Linear(hidden, width))
        if not config.tied and not config.single_head:
            self.output_projection_out = nn.Sequential(
                ProjectorBlock(hidden, inner), nn.Linear(hidden, config.embedding_size)
            )
        if config.languages:
            self.lang_embeddings = nn.Embedding(config.languages, hidden)
        if config.predict_bias:
            self.bias_projection = nn.Linear(hidden, 1)
        self.in_scaler = Rescaler(config.source_size)
        self.scaler = Rescaler(config.embedding_size)
        if not config.tied:
            self.out_scaler = Rescaler(config.embedding_size)
        self._initialise()

    def forward(
        self,
        surface_forms: Int[Tensor, "tokens pieces"],
        source_embeddings: Float[Tensor, "vocabulary width"],
        language: int | None = None,
    ) -> PredictedEmbeddings:
        """Predict the embeddings of tokens.

        Args:
            surface_forms: source ids of each token's pieces, then the pad id.
            source_embeddings: rows of the source model by id, [in ; out] where it is untied.
            language: number of the language, where the hypernetwork tells languages apart.

        Raises:
            UserError: no tokens, surface forms of another length, ids without a row, rows of another width, a missing language.
        """
        self._check(surface_forms, source_embeddings, language)
        forms, inverse = surface_forms.unique(dim=0, return_inverse=True)
        ids, places = forms.unique(return_inverse=True)
        projected = self.input_projection(self._piece_rows(ids, source_embeddings))
        tells = None if language is None else self.lang_embeddings.weight[language]
        mask = forms != self.config.pad_id
        encoded, groups = [], by_length(mask)
        for length, rows in groups:
            there = mask[rows, :length]
            masked = None if bool(there.all()) else there
            encoded.append(self.model(projected[places[rows, :length]], masked, tells))
        order = torch.cat([rows for _, rows in groups]).argsort()
        heads = self._heads(torch.cat(encoded)[order])
        if self.config.residual:
            heads = _added(heads, self._mean_of_pieces(forms, source_embeddings))
        output = None if heads.output is None else heads.output[inverse]
        return PredictedEmbeddings(heads.input[inverse], output, heads.bias[inverse])

    def _piece_rows(self, ids: Tensor, source_embeddings: Tensor) -> Tensor:
        """The rescaled source rows of ids; fallback rows, which are not rescaled, for those beyond."""
        known = ids < self.config.vocabulary
        rows = self.in_scaler(source_embeddings[ids.clamp(max=self.config.vocabulary - 1)])
        if bool(known.all()):
            return rows
        fallback = self.fallback_embeddings((ids - self.config.vocabulary).clamp(min=0))
        return torch.where(known[:, None], rows, fallback.to(rows.dtype))

    def _heads(self, encoded: Tensor) -> PredictedEmbeddings:
        config = self.config
        made, output = self.output_projection(encoded), None
        if not config.tied:
            output = (
                made[:, config.embedding_size :]
                if config.single_head
                else self.output_projection_out(encoded)
            )
            output = self.out_scaler(output)
            made = made[:, : config.embedding_size]
        bias = self.bias_projection(encoded)[:, 0] if config.predict_bias else made.new_zeros(len(made))
        return PredictedEmbeddings(self.scaler(made), output, bias)

    def _mean_of_pieces(self, forms: Tensor, source_embeddings: Tensor) -> Tensor:
        """FVT: the mean of the pieces that have a source row; the mean row where none has."""
        counts = (forms != self.config.pad_id) & (forms < self.config.vocabulary)
        # A token whose only piece is the pad token is that token.
        counts[:, 0] |= forms[:, 0] == self.config.pad_id
        weights = counts.to(source_embeddings.dtype)
        ids = forms.clamp(max=self.config.vocabulary - 1)
        summed = functional.embedding_bag(
            ids, source_embeddings, mode="sum", per_sample_weights=weights.contiguous()
        )
        number = weights.sum(dim=1, keepdim=True)
        return torch.where(number > 0, summed / number.clamp(min=1), source_embeddings.mean(dim=0))

    @torch.no_grad()
    def fit_rescalers(
        self,
        source_embeddings: Float[Tensor, "vocabulary width"],
        generator: torch.Generator | None = None,
        tokens: int = 2048,
        untrained: Collection[int] = (),
    ) -> None:
        """Set the fixed scales: pieces get std 0.02 and mean 0, predictions the std and mean of the source rows.

        Predictions are made for at most `tokens` source tokens, each its own surface form. In the residual form the scale of what
        is added is the std of the source columns. Rows of `untrained` ids take no part.

        Source: arXiv 2405.07883, appendix; released code, `Rescaler.scale_to`.
        """
        config = self.config
        if not config.rescale:
            return
        trained = torch.ones(config.vocabulary, dtype=torch.bool)
        trained[[number for number in untrained if number < config.vocabulary]] = False
        real = source_embeddings[trained.to(source_embeddings.device)]
        columns = real.std(dim=0, unbiased=False, keepdim=True), real.mean(0, True)
        scalers = [self.scaler] if config.tied else [self.scaler, self.out_scaler]
        std, mean = (list(statistic.split(config.embedding_size, dim=1)) for statistic in columns)
        for scaler in scalers:
            scaler.reset()
        self.in_scaler.fit(real, _INPUT_STD, 0.0)
        if config.residual:
            for scaler, scale in zip(scalers, std, strict=True):
                scaler.w.copy_(scale)
            return
        drawn = torch.randperm(config.vocabulary, generator=generator)
        ids = drawn[trained[drawn]][:tokens].to(source_embeddings.device)
        made = self(own_forms(ids, config), source_embeddings, 0 if config.languages else None)
        for scaler, rows, scale, shift in zip(scalers, made[: len(scalers)], std, mean, strict=True):
            scaler.fit(rows, scale, shift)

    # --- files -----------------------------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike) -> None:
        """Write config, weights and source tokenizer to a folder."""
        folder = Path(folder)
        write_json(folder / _CONFIG_FILE, asdict(self.config))
        with atomic_write(folder / _WEIGHTS_FILE) as partial:
            save_file(
                {name: weight.contiguous().cpu() for name, weight in self.state_dict().items()}, partial
            )
        if self.source_tokenizer is not None:
            self.source_tokenizer.save_pretrained(folder)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "EmbeddingHyperNetwork":
        """Read what `save` wrote."""
        folder = Path(folder)
        if not (folder / _WEIGHTS_FILE).is_file() or not (folder / _CONFIG_FILE).is_file():
            raise UserError(
                f"{folder} holds no hypernetwork ({_CONFIG_FILE}, {_WEIGHTS_FILE}): train one with "
                "`tokenry tokenizer zett train`."
            )
        written = read_json(folder / _CONFIG_FILE)
        try:
            config = HyperNetworkConfig(**written)
        except TypeError as error:
            raise UserError(
                f"{folder / _CONFIG_FILE} describes no hypernetwork: name its folder, not a model's."
            ) from error
        network = cls(config)
        with safe_open(folder / _WEIGHTS_FILE, framework="pt") as opened:
            network.load_weights({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
        if (folder / _TOKENIZER_FILE).is_file():
            network.source_tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        return network.eval()

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights by the names of the released PyTorch checkpoints.

        What this hypernetwork does not use is left out: the word embeddings of the encoder, positions beyond `max_length`, fallback rows.

        Raises:
            UserError: weights are missing or of another shape.
        """
        own = self.state_dict()
        cut = {
            name: weight[: len(own[name])] if name.endswith("embeddings.weight") else weight
            for name, weight in weights.items()
            if name in own
        }
        optional = set() if self.config.fallback_rows else {"fallback_embeddings.weight"}
        if not self.config.rescale:
            optional |= {name for name in own if "scaler." in name}
        for name in own.keys() - cut.keys() - optional:
            raise UserError(
                f"the weights of the hypernetwork lack {name}: they belong to another configuration."
            )
        for name, weight in cut.items():
            if weight.shape != own[name].shape:
                raise UserError(
                    f"{name} has the shape {tuple(weight.shape)} but {tuple(own[name].shape)} is wanted: the weights belong to another "
                    "configuration."
                )
        self.load_state_dict({**own, **cut})

    # --- inside ----------------------------------------------------------------------------------------------------------------------

    def _check(self, surface_forms: Tensor, source_embeddings: Tensor, language: int | None) -> None:
        config = self.config
        if not len(surface_forms):
            raise UserError("the vocabulary is empty: there is no token to predict embeddings for.")
        if not 1 <= surface_forms.shape[1] <= config.max_length:
            raise UserError(
                f"surface forms have {surface_forms.shape[1]} pieces, but this hypernetwork reads 1 to {config.max_length}: make them "
                f"with max_length={config.max_length}."
            )
        if source_embeddings.shape[1] != config.source_size or len(source_embeddings) < config.vocabulary:
            wanted = "input" if config.tied else "input and output side by side"
            raise UserError(
                f"the source embeddings are {tuple(source_embeddings.shape)}, but {config.vocabulary} rows of {config.source_size} are "
                f"wanted ({wanted})."
            )
        highest, lowest = int(surface_forms.max()), int(surface_forms.min())
        if lowest < 0 or highest >= config.vocabulary + config.fallback_rows:
            raise UserError(
                f"surface forms hold the id {lowest if lowest < 0 else highest}, but there are {config.vocabulary} source rows and "
                f"{config.fallback_rows} fallback embeddings: give fallback_rows=the number of tokens that the byte-level conversion "
                "added."
            )
        if (language is None) == bool(config.languages) or not 0 <= (language or 0) < max(
            1, config.languages
        ):
            raise UserError(
                f"language must be one of 0 to {config.languages - 1}, got {language}."
                if config.languages
                else f"this hypernetwork tells no languages apart, got language={language}: leave it out."
            )

    @torch.no_grad()
    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=_INPUT_STD)
        if self.config.residual:
            for name in ("output_projection", "output_projection_out"):
                if hasattr(self, name):
                    nn.init.zeros_(getattr(self, name)[1].weight)


def own_forms(ids: Int[Tensor, "tokens"], config: HyperNetworkConfig) -> Int[Tensor, "tokens pieces"]:
    """Surface forms of source tokens: each spelled by itself."""
    forms = ids.new_full((len(ids), config.max_length), config.pad_id)
    forms[:, 0] = ids
    return forms


def _added(made: PredictedEmbeddings, base: Tensor) -> PredictedEmbeddings:
    """Add [in ; out] rows to predictions."""
    sides = base.split(made.input.shape[1], dim=1)
    output = None if made.output is None else made.output + sides[1]
    return PredictedEmbeddings(made.input + sides[0], output, made.bias)
