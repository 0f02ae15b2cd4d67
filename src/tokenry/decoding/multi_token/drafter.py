"""A drafter: what is learned beside a frozen language model so that masks after a text predict the tokens behind the next one.

    rows    = tokens and blocks of k masks (`layout`)                    masks have embeddings of their own
    hidden  = model(rows), with gated LoRA on masks alone (`gated_lora`)
    draft   = y₁ from mask 1 and the token before, y₂ from mask 2 and y₁, …          (`sampler`)
    loss    = NLL of the head on all rows + NLL of the sampler on masks + consistency · latent consistency / width

The base model is never changed: without masks it computes what it always did, and its layers keep their names.

Source: Your LLM Knows the Future (arXiv 2507.11851).
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import atomic_write, read_json, write_json
from tokenry.core.tensors.alignment import IGNORED
from tokenry.core.tensors.chunked_loss import CHUNK_ELEMENTS, matrix_loss, module_loss
from tokenry.core.tensors.gate import embedding_rows, name_of
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.output_head import (
    OutputHead,
    accumulation_dtype,
    backbone,
    causal_lm,
    check_output_head,
    output_head,
)
from tokenry.core.tensors.row_losses import cross_entropy
from tokenry.core.tensors.tree_attention import attention_masks, attention_windows, require_tree_attention
from tokenry.decoding.multi_token.gated_lora import ALL_LINEAR, add_gated_lora
from tokenry.decoding.multi_token.layout import MaskLayout, block_layout
from tokenry.decoding.multi_token.sampler import SamplerHead, latent_consistency

SETTINGS_FILE, WEIGHTS_FILE = "drafter.json", "drafter.safetensors"
_SEEN = 1024
_PEFT = "base_model.model."


class DraftLosses(NamedTuple):
    """Losses of a batch, each a mean.

    Attributes:
        base: NLL of the plain head on all rows, in nats.
        sampler: NLL of the sampler on masks, in nats.
        consistency: squared distance of masks from the token row that predicts the same token, summed over the width.
        accuracy: share of masks whose most probable token by the sampler is the right one.
    """

    base: Float[Tensor, ""]
    sampler: Float[Tensor, ""]
    consistency: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]


class Drafted(NamedTuple):
    """Texts that were written with a drafter.

    Attributes:
        tokens: prompts and new tokens, padded.
        tokens_per_step: new tokens over steps.
        blocks: number of tokens that each step added to each text; the last of them is the model's own, those before it were drafted.
    """

    tokens: Int[Tensor, "batch length"]
    tokens_per_step: float
    blocks: list[list[int]]


class Drafter(nn.Module):
    """Mask embeddings, gated LoRA and a sampler for one base model, which is not part of this module.

    Args:
        model: causal language model, wrapped or not.
        k: number of masks in a block: tokens drafted at once.
        alpha: scales what they add by alpha / rank; twice the rank by default.
        targets: layers that are adapted, as of `add_gated_lora`.

    Attributes:
        masks: embeddings of the masks.
        lora: adapters on the model.
        sampler: from hidden states of masks to those that meet the head.

    Raises:
        UserError: a model that cannot be told what its rows see, or has no linear layers.
    """

    def __init__(
        self,
        model: nn.Module,
        k: int = 8,
        rank: int = 128,
        alpha: float | int | None = None,
        targets: str | Sequence[str] = ALL_LINEAR,
    ) -> None:
        super().__init__()
        require_at_least(1, k=k, rank=rank)
        require_tree_attention(model)
        check_output_head(model)
        inner = causal_lm(model)
        self._model = (inner,)
        self.k, self.rank, self.alpha = k, rank, 2 * rank if alpha is None else alpha
        self.targets = targets if isinstance(targets, str) else tuple(targets)
        self.lora = add_gated_lora(inner, rank, self.alpha, targets)
        with torch.no_grad():
            seen = torch.randperm(embedding_rows(inner))[:_SEEN]
            tokens = self.embed(seen.to(inner.device))
            dtype = accumulation_dtype(tokens.dtype)
            spread = torch.randn(k, tokens.shape[1], device=tokens.device, dtype=dtype)
            self.masks = nn.Parameter(tokens.to(dtype).mean(0) + spread * tokens.to(dtype).std(0))
        self.sampler = SamplerHead(tokens.shape[1])
        self.to(device=tokens.device, dtype=dtype)

    @property
    def model(self) -> PreTrainedModel:
        """The base model."""
        return self._model[0]

    @cached_property
    def head(self) -> OutputHead:
        """The base model's head."""
        return output_head(self.model)

    def embed(self, tokens: Int[Tensor, "*rows"]) -> Float[Tensor, "*rows width"]:
        """Embeddings of tokens, as the base model reads them."""
        embeddings: Tensor = self.model.get_input_embeddings()(tokens)
        return embeddings

    def rows(
        self, input_ids: Int[Tensor, "batch tokens"], layout: MaskLayout
    ) -> Float[Tensor, "batch rows width"]:
        """Embeddings of the rows of a layout."""
        group, slot, gate = (
            value.expand(len(input_ids), -1) for value in (layout.group, layout.slot, layout.gate)
        )
        tokens = self.embed(input_ids.gather(1, group))
        return torch.where(gate[..., None], self.masks[(slot - 1).clamp(min=0)].to(tokens.dtype), tokens)

    def hidden_states(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        layout: MaskLayout,
        body: Callable[..., Any] | None = None,
    ) -> Float[Tensor, "batch rows width"]:
        """Hidden states of the rows of a layout, as they would meet the head.

        Args:
            input_ids: texts, padded on the right if at all.
            layout: rows of one forward.
            body: the model without its head, where it is to be called by a wrapper's own forward.
        """
        inner, body = self.model, body or backbone(self.model)
        positions = layout.position_ids
        masks = attention_masks(
            layout.attn_allowed,
            positions,
            positions,
            attention_windows(inner.config.get_text_config()),
            inner.dtype,
        )
        with self.lora.gate.on(layout.gate.expand(len(input_ids), -1)):
            output = body(
                input_ids=None,
                inputs_embeds=self.rows(input_ids, layout),
                position_ids=positions.expand(len(input_ids), -1),
                attention_mask=masks,
                use_cache=False,
            )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def losses(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        labels: Int[Tensor, "batch tokens"] | None = None,
        real: Bool[Tensor, "batch tokens"] | None = None,
        anchors: Int[Tensor, "1 blocks"] | None = None,
        body: Callable[..., Any] | None = None,
    ) -> DraftLosses:
        """Read texts with blocks of masks and compute the losses.

        Args:
            input_ids: texts, padded on the right if at all.
            labels: tokens to be predicted, −100 for the others; by default all.
            real: tokens that are not padding; by default all.
            anchors: tokens that a block stands behind; by default all.
            body: as of `hidden_states`.
        """
        tokens = input_ids.shape[1]
        anchors = torch.arange(tokens, device=input_ids.device)[None] if anchors is None else anchors
        layout = block_layout(tokens, anchors, self.k)
        hidden = self.hidden_states(input_ids, layout, body)
        targets = _at(input_ids if labels is None else labels, layout.labels_index)
        previous = _at(input_ids, layout.sampler_prev_index)
        base, _ = _mean_nll(hidden, targets, self.head)
        drafted = (targets != IGNORED) & layout.gate
        read = self.sampler(self.embed(previous[drafted]), hidden[drafted])
        sampler, accuracy = _mean_nll(read, targets[drafted], self.head)
        anchor_row = layout.anchor_row.expand(len(input_ids), -1)
        if real is not None:
            anchor_row = anchor_row.masked_fill(_at(real.long(), layout.sampler_prev_index) != 1, -1)
        return DraftLosses(base, sampler, latent_consistency(hidden, anchor_row), accuracy)

    def draft(
        self, z: Float[Tensor, "batch k width"], last: Int[Tensor, "batch"], sampler: bool = True
    ) -> Int[Tensor, "batch k"]:
        """Choose the tokens after `last`, each the most probable given the one before.

        Args:
            z: hidden states of the masks behind it.
            last: the last token.
            sampler: whether the sampler reads the masks, or the head does by itself.
        """
        drafted, head, embeddings = [], self.head, self.model.get_input_embeddings()
        for mask in z.unbind(1):
            last = head.logits(self.sampler(embeddings(last), mask) if sampler else mask).argmax(-1)
            drafted.append(last)
        return torch.stack(drafted, 1)

    def generate(
        self, input_ids: Int[Tensor, "batch prompt"], mode: str = "quadratic", **options: Any
    ) -> Drafted:
        """Write what the base model writes.

        Args:
            input_ids: prompts, padded on the left; then give `attention_mask` too.
            mode: as of `MultiTokenDecoding`.
            **options: passed to `generate`, such as `max_new_tokens` and `do_sample`.
        """
        from tokenry.decoding.multi_token.decode import MultiTokenDecoding

        decoder: Any = MultiTokenDecoding(self, mode)
        with evaluation_mode(self.model):
            tokens: Any = self.model.generate(input_ids, custom_generate=decoder, **options)
        return Drafted(tokens, decoder.account.tokens_per_step, decoder.account.blocks)

    def remove(self) -> None:
        """Take the adapters off the model."""
        self.lora.remove()

    def save(self, folder: str | Path) -> None:
        """Write settings and weights; the adapters under the names that PEFT gives to LoRA."""
        folder, inner = Path(folder), self.model
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / WEIGHTS_FILE) as file:
            save_file({name: value.contiguous() for name, value in self._named_weights().items()}, file)
        write_json(
            folder / SETTINGS_FILE,
            {
                "kind": "multi-token drafter",
                "k": self.k,
                "rank": self.rank,
                "alpha": self.alpha,
                "targets": self.targets,
                "base": {"name": name_of(inner), **_identity(inner)},
            },
        )

    @classmethod
    def load(cls, folder: str | Path, model: nn.Module) -> "Drafter":
        """Put a saved drafter on its base model.

        Raises:
            UserError: no drafter there, or one of a model with another vocabulary, width or other layers.
        """
        folder = Path(folder)
        if not (folder / SETTINGS_FILE).is_file():
            raise UserError(
                f"{folder} holds no drafter ({SETTINGS_FILE}): train one with tokenry draft train."
            )
        settings = read_json(folder / SETTINGS_FILE)
        identity, theirs = _identity(causal_lm(model)), settings["base"]
        for name, value in identity.items():
            if theirs[name] != value:
                raise UserError(
                    f"the drafter in {folder} was trained for {theirs['name']} with {name} {theirs[name]}, and this model has {value}: "
                    "give the model that it was trained on."
                )
        drafter = cls(model, settings["k"], settings["rank"], settings["alpha"], settings["targets"])
        drafter.load_weights(folder)
        return drafter

    def load_weights(self, folder: str | Path) -> None:
        """Read the weights that `save` wrote.

        Raises:
            UserError: they are damaged, or of other layers.
        """
        file = Path(folder) / WEIGHTS_FILE
        try:
            saved = load_file(file)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{file} cannot be read: {error}") from error
        own = self._named_weights()
        other = sorted(saved.keys() ^ own.keys()) or sorted(
            name for name, value in own.items() if value.shape != saved[name].shape
        )
        if other:
            raise UserError(
                f"the weights in {file} belong to a drafter of other layers or sizes ({other[0]})."
            )
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(saved[name])

    def _named_weights(self) -> dict[str, Tensor]:
        """Weights by their names in files."""
        names = {
            name: f"{_PEFT}{name.removeprefix('lora.layers.').replace('/', '.')}"
            if name.startswith("lora.")
            else name
            for name, _ in self.named_parameters()
        }
        return {names[name]: value.detach() for name, value in self.named_parameters()}


def _identity(inner: PreTrainedModel) -> dict[str, int]:
    """What a base model must share with the one that a drafter was trained on, besides its layers."""
    return {"vocabulary": embedding_rows(inner), "width": inner.get_input_embeddings().embedding_dim}


def _at(tokens: Int[Tensor, "batch tokens"], index: Int[Tensor, "texts rows"]) -> Int[Tensor, "batch rows"]:
    """The token at each index, ignored where it is −1."""
    index = index.expand(len(tokens), -1)
    return tokens.gather(1, index.clamp(min=0)).masked_fill(index < 0, IGNORED)


def _mean_nll(
    hidden: Float[Tensor, "*rows width"], targets: Int[Tensor, "*rows"], head: OutputHead
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean NLL of the targets that are not ignored, and the share of them that are the most probable token."""
    learned = targets != IGNORED
    rows, targets = hidden[learned], targets[learned]
    if not targets.numel():
        return hidden.sum() * 0.0, hidden.new_zeros(())
    weights = torch.full(
        targets.shape, 1 / len(targets), dtype=accumulation_dtype(rows.dtype), device=rows.device
    )
    form = module_loss if head.linear is None else matrix_loss
    total, _, _, accuracy, _ = form(rows, targets, weights, head, cross_entropy, CHUNK_ELEMENTS)
    return total, accuracy.mean()
