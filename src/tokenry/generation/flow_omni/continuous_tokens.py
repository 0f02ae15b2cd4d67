"""A causal language model that reads and writes continuous tokens beside text, such as speech: Flow-Omni around any model of transformers.

    input at t       text embedding + pre-net(speech token), a learned blank where a stream says nothing
    hidden at t − 1  → text token t: the model's own head;   speech token t: the flow head;   whether it is the last: one linear layer
    loss             text NLL + flow_weight · flow loss + stop_weight · BCE(stop)

    model = ContinuousTokenLM.around(load_model("embedded"), channels=160)
    model.train_stage("alignment")                        # the language model is frozen; then "everything"
    Trainer(model, args, train_dataset=samples, data_collator=StreamCollator(group=2)).train()

Sources: Flow-Omni (arXiv 2412.04917), of which no code was released; pre-net and stop as in MELLE (arXiv 2407.08551); what the paper leaves
open is a field of the config.
"""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from tokenry.core.errors import UserError, require_one_of
from tokenry.core.tensors.alignment import check_labels, learnable_tokens, predicting_rows, segment_ids
from tokenry.core.tensors.output_head import backbone, causal_lm, check_output_head, output_head
from tokenry.generation.flow_omni.continuous_token_config import ContinuousTokenConfig
from tokenry.generation.flow_omni.flow_head import FlowHead, conditional_flow_loss, sample_flow
from tokenry.generation.flow_omni.speech_frames import FrameScale
from tokenry.generation.flow_omni.speech_generation import SpeechSampling, SpeechStep, Spoken, write_streams
from tokenry.generation.flow_omni.stream_losses import ContinuousTokenOutput, joint_loss, stop_loss, text_loss
from tokenry.generation.flow_omni.streams import HEARD

Stage = Literal["alignment", "everything"]
_AS_GIVEN = SpeechSampling()


class PreNet(nn.Module):
    """Three linear layers that bring a continuous token to the width of the language model, at the size of its embeddings.

    Args:
        channels: channels of a token.
        width: width of the language model.
        dropout: in training.
        size: standard deviation of the embeddings.
    """

    def __init__(self, channels: int, width: int, dropout: float, size: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
        )
        last = [layer for layer in self.layers if isinstance(layer, nn.Linear)][-1]
        nn.init.normal_(last.weight, std=size * width**-0.5)
        nn.init.zeros_(last.bias)

    def forward(self, tokens: Float[Tensor, "rows channels"]) -> Float[Tensor, "rows width"]:
        """Embed tokens, in the precision of the layers."""
        found: Tensor = self.layers(tokens.to(next(self.parameters()).dtype))
        return found


class ContinuousTokenLM(PreTrainedModel):
    """A causal language model with a stream of continuous tokens beside its text.

    Args:
        config: the model.
        language_model: any causal language model; made from the config where it is not given.
        encoder: hears: any encoder of `input_features` with half as many states, such as Whisper's; frozen.
    """

    config_class = ContinuousTokenConfig
    config: ContinuousTokenConfig
    main_input_name = "input_ids"
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    # The streams of real numbers keep their precision where the language model is loaded in a lower one.
    _keep_in_fp32_modules_strict = ["speech_head", "prenet", "stop", "scale", "null_condition"]  # noqa: RUF012

    def __init__(
        self,
        config: ContinuousTokenConfig,
        language_model: nn.Module | None = None,
        encoder: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config)
        self.language_model: Any = language_model
        if language_model is None:
            self.language_model = AutoModelForCausalLM.from_config(config.text_config)
            _add_adapters(self.language_model, config.lora)
        if encoder is None and config.encoder_config is not None:
            encoder = _hearing(AutoModel.from_config(config.encoder_config))
        self.encoder = encoder
        table = self.language_model.get_input_embeddings().weight
        width = table.shape[1]
        size = 0.02 if table.is_meta else float(table.detach().float().std())
        self.prenet = PreNet(config.channels, width, config.prenet_dropout, size)
        # Zero leaves prompts as the language model knows them; but both blanks at zero would be divided by their norm.
        self.speech_blank, self.text_blank = (
            nn.Parameter(torch.zeros(width)),
            nn.Parameter(size * torch.randn(width)),
        )
        state_width = config.text_config.hidden_size
        self.speech_head: Any = FlowHead(config.channels, state_width, config.width, config.depth)
        self.null_condition = nn.Parameter(torch.zeros(state_width))
        self.stop = nn.Linear(state_width, 1)
        self.scale = FrameScale(config.channels)
        if encoder is not None:
            heard = encoder.config.hidden_size * config.stack
            self.adapter = nn.Sequential(nn.Linear(heard, width), nn.GELU(), nn.Linear(width, width))
            self.heard_begin, self.heard_end = (nn.Parameter(size * torch.randn(width)) for _ in range(2))
        self._is_checked = False
        self.post_init()

    @classmethod
    def around(
        cls, language_model: nn.Module, encoder: PreTrainedModel | None = None, **settings: Any
    ) -> "ContinuousTokenLM":
        """Put the streams around a language model, trained or not, with adapters of PEFT or without.

        Args:
            language_model: the model; it is changed where `lora` is among the settings.
            encoder: a speech encoder, or a model that has one.
            **settings: fields of `ContinuousTokenConfig`.

        Raises:
            UserError: no causal language model.
        """
        inner = causal_lm(language_model)
        if hasattr(language_model, "peft_config"):
            settings["lora"] = _adapters_of(language_model)
        else:
            _add_adapters(inner, settings.get("lora"))
        heard = None if encoder is None else _hearing(encoder)
        config = ContinuousTokenConfig(
            inner.config, encoder_config=None if heard is None else heard.config, **settings
        )
        model = cls(config, inner, heard)
        return model.to(next(inner.parameters()).device)

    def _init_weights(self, module: nn.Module) -> None:
        """Every part begins as its own constructor says."""

    def get_input_embeddings(self) -> nn.Module:
        """The text embeddings of the language model."""
        embeddings: nn.Module = self.language_model.get_input_embeddings()
        return embeddings

    def train_stage(self, stage: str) -> None:
        """Choose what is trained.

        Args:
            stage: alignment trains the streams around a frozen language model; everything trains the language model too, of which
                adapters alone where it has them. The encoder stays frozen.
        """
        require_one_of(stage, get_args(Stage), "stage")
        self.requires_grad_(True)
        if self.encoder is not None:
            self.encoder.requires_grad_(False)
        for name, parameter in self.language_model.named_parameters():
            parameter.requires_grad_(stage == "everything" and (self.config.lora is None or "lora_" in name))

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Int[Tensor, "batch seq"] | None = None,
        labels: Int[Tensor, "batch seq"] | None = None,
        speech: Float[Tensor, "batch tokens channels"] | None = None,
        speech_lengths: Int[Tensor, "batch"] | None = None,
        speech_starts: Int[Tensor, "batch"] | None = None,
        element_mask: Float[Tensor, "batch tokens elements"] | None = None,
        input_features: Float[Tensor, "heard features time"] | None = None,
    ) -> ContinuousTokenOutput:
        """The losses of a batch as `StreamCollator` makes it, padded on the right.

        Args:
            input_ids: the text stream; `BLANK` and `HEARD` stand for no token.
            attention_mask: 1 for positions that are real.
            labels: text tokens that are learned, −100 elsewhere.
            speech: continuous tokens, not normalised.
            speech_lengths: of each row.
            speech_starts: position of the first token of each row.
            element_mask: 0 for the elements of a token that are padding.
            input_features: speech that is heard, one for each row with `HEARD` in it.

        Raises:
            UserError: lengths, starts or labels that do not fit, or tokens that are not finite.
        """
        self._check_head()
        stands = self._stands(input_ids, speech, speech_lengths, speech_starts)
        scaled = None if speech is None else self._real_tokens(speech, speech_lengths)
        embedded = self._embed(input_ids, scaled, stands, input_features)
        hidden = self._read(embedded, attention_mask).last_hidden_state
        text = hidden.new_zeros((), dtype=torch.float32) + 0.0 * hidden.sum().float()
        if input_features is None and self.encoder is not None:
            heard = (self.heard_begin, self.heard_end, *self.adapter.parameters())
            text = text + _nothing_of(heard)
        if labels is not None:
            check_labels(input_ids, labels, self.config.text_config.vocab_size)
            learned = learnable_tokens(labels, segment_ids(input_ids, attention_mask))
            text = text + text_loss(hidden, labels, learned, output_head(self.language_model))
        if scaled is None or speech_lengths is None or not len(scaled):
            # Every parameter has a gradient in every batch, which several processes need.
            flow = stop = _nothing_of(self._speech_parameters())
        else:
            real = torch.arange(speech.shape[1], device=speech.device) < speech_lengths[:, None]  # type: ignore[union-attr]
            elements = None if element_mask is None else element_mask[real]
            is_last = (real.cumsum(1) == speech_lengths[:, None]) & real
            rows = self._conditions(predicting_rows(hidden, stands))
            with torch.autocast(hidden.device.type, enabled=False):
                flow = self.speech_loss(scaled, self._with_dropped(rows), elements)
                every = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
                stop = stop_loss(
                    self.stop(rows)[:, 0], is_last[real].to(rows), every, self.config.stop_positive_weight
                )
        loss = joint_loss(text, flow, stop, self.config)
        return ContinuousTokenOutput(loss, text.detach(), flow.detach(), stop.detach())

    def speech_loss(
        self,
        tokens: Float[Tensor, "rows channels"],
        hidden: Float[Tensor, "rows condition"],
        elements: Float[Tensor, "rows channels"] | None,
    ) -> Float[Tensor, ""]:
        """The loss of normalised tokens under the hidden states before them; a model with another head has another one."""
        return conditional_flow_loss(
            self.speech_head,
            tokens,
            hidden,
            sigma_min=self.config.sigma_min,
            draws=self.config.draws,
            element_mask=elements,
        )

    def draw_speech(
        self,
        hidden: Float[Tensor, "rows condition"],
        noise: Float[Tensor, "rows channels"],
        sampling: SpeechSampling,
    ) -> Float[Tensor, "rows channels"]:
        """Draw a normalised token for each hidden state."""
        return sample_flow(
            self.speech_head,
            hidden,
            sampling.steps,
            sampling.solver,
            sampling.temperature,
            sampling.guidance,
            self.null_condition,
            noise,
        )

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SpeechSampling = _AS_GIVEN,
        texts: Sequence[Sequence[int]] | None = None,
        input_features: Float[Tensor, "batch features time"] | None = None,
        heard_states: Sequence[int] | None = None,
        ends: Sequence[int] = (),
    ) -> Iterator[SpeechStep]:
        """Write answers to a batch of prompts step by step: a text token and a continuous token of each row at a time.

        Args:
            prompts: token ids of each prompt; an empty one is allowed.
            sampling: how both streams are written.
            texts: what the rows say; None to let the model choose.
            input_features: speech that each row hears.
            heard_states: how many states of it belong to each row, see `heard_states`.
            ends: tokens that end a text.

        Raises:
            UserError: inputs that do not fit together or do not fit into the model.
        """
        return write_streams(self, prompts, sampling, texts, input_features, heard_states, ends)

    def generate(self, prompts: Sequence[Sequence[int]], *args: Any, **options: Any) -> list[Spoken]:
        """Write whole answers; arguments as for `stream`."""
        return Spoken.gather(len(prompts), self.stream(prompts, *args, **options))

    # --- the streams as inputs -----------------------------------------------------------------------------------------------------

    def _stands(
        self, input_ids: Tensor, speech: Tensor | None, lengths: Tensor | None, starts: Tensor | None
    ) -> Bool[Tensor, "batch seq"]:
        """The positions at which speech tokens stand."""
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        if speech is None:
            return torch.zeros_like(input_ids, dtype=torch.bool)
        if lengths is None or starts is None:
            raise UserError("speech needs speech_lengths and speech_starts: StreamCollator makes them.")
        if bool((lengths > speech.shape[1]).any()) or bool((lengths < 0).any()):
            raise UserError(
                f"speech_lengths must be from 0 to the {speech.shape[1]} tokens that there are, got {lengths.tolist()}."
            )
        has = lengths > 0
        if bool(((starts < 1) | (starts + lengths > input_ids.shape[1]))[has].any()):
            raise UserError(
                f"speech must stand at positions 1 to {input_ids.shape[1] - 1}, as each token is said by the state before it: got starts "
                f"{starts.tolist()} with lengths {lengths.tolist()}."
            )
        return (place >= starts[:, None]) & (place < (starts + lengths)[:, None])

    def _real_tokens(self, speech: Tensor, lengths: Tensor | None) -> Float[Tensor, "rows channels"]:
        """The normalised tokens that are real, row by row."""
        if speech.shape[2] != self.config.channels:
            raise UserError(
                f"the speech has {speech.shape[2]} channels and the model has {self.config.channels}: group frames as it was trained."
            )
        assert lengths is not None
        real = torch.arange(speech.shape[1], device=speech.device) < lengths[:, None]
        tokens = self.scale(speech[real].to(self.scale.mean.dtype))
        if not bool(tokens.isfinite().all()):
            raise UserError("the speech holds nan or inf: leave out the waves that it comes from.")
        return tokens

    def _embed(
        self,
        input_ids: Int[Tensor, "batch seq"],
        tokens: Float[Tensor, "rows channels"] | None,
        stands: Bool[Tensor, "batch seq"],
        input_features: Tensor | None = None,
    ) -> Float[Tensor, "batch seq width"]:
        table = self.get_input_embeddings()
        text = table(input_ids.clamp(min=0))
        dtype = text.dtype
        text = torch.where((input_ids >= 0)[..., None], text, self.text_blank.to(dtype))
        if input_features is not None or bool((input_ids == HEARD).any()):
            text = text.masked_scatter(
                (input_ids == HEARD)[..., None], self._heard(input_ids, input_features).to(dtype)
            )
        speech = self.speech_blank.to(dtype).expand_as(text)
        if tokens is not None:
            with torch.autocast(text.device.type, enabled=False):
                said = self.prenet(tokens).to(dtype)
            speech = speech.masked_scatter(stands[..., None], said)
        both = text + speech
        return both / 2 if self.config.combine == "average" else both

    def _heard(self, input_ids: Tensor, input_features: Tensor | None) -> Float[Tensor, "states width"]:
        """What stands at `HEARD`, row by row: begin, the states of the encoder, stacked and adapted, end."""
        counts = (input_ids == HEARD).sum(1)
        counts = counts[counts > 0]
        if self.encoder is None:
            raise UserError("this model hears nothing: make it with a speech encoder.")
        if input_features is None or len(input_features) != len(counts):
            given = 0 if input_features is None else len(input_features)
            raise UserError(
                f"{len(counts)} rows of the batch hear speech, and input_features holds {given}: give one for each of them."
            )
        is_frozen = not any(parameter.requires_grad for parameter in self.encoder.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen):
            features = input_features.to(next(self.encoder.parameters()).dtype)
            states = self.encoder(features).last_hidden_state
        stack = self.config.stack
        whole = states.shape[1] - states.shape[1] % stack
        stacked = states[:, :whole].reshape(len(states), whole // stack, -1)
        if int(counts.max()) - 2 > stacked.shape[1]:
            raise UserError(
                f"a row hears {int(counts.max()) - 2} states and the encoder gives {stacked.shape[1]}: count them with heard_states."
            )
        adapted = self.adapter(stacked.to(self.adapter[0].weight.dtype))
        rows = [
            torch.cat([self.heard_begin[None], row[: count - 2], self.heard_end[None]])
            for row, count in zip(adapted, counts.tolist(), strict=True)
        ]
        return torch.cat(rows)

    def heard_states(self, frames: int) -> int:
        """Number of stacked states that belong to that many frames of `input_features`, of which the encoder keeps every second."""
        return max(1, (frames // 2) // self.config.stack)

    def _read(self, embedded: Tensor, attention_mask: Tensor | None, **options: Any) -> Any:
        body = backbone(self.language_model)
        known = inspect.signature(body.forward).parameters
        takes_all = any(value.kind is inspect.Parameter.VAR_KEYWORD for value in known.values())
        options = {name: value for name, value in options.items() if name in known or takes_all}
        return body(inputs_embeds=embedded, attention_mask=attention_mask, **{"use_cache": False, **options})

    # --- conditions of the heads ---------------------------------------------------------------------------------------------------

    def _conditions(self, rows: Tensor) -> Float[Tensor, "rows condition"]:
        """Hidden states in the precision of the heads."""
        return rows.to(self.stop.weight.dtype)

    def _with_dropped(self, rows: Tensor) -> Float[Tensor, "rows condition"]:
        share = self.config.condition_dropout
        if not share:
            return rows + 0.0 * self.null_condition
        if not self.training:
            return rows
        dropped = torch.rand(len(rows), 1, device=rows.device) < share
        return torch.where(dropped, self.null_condition.to(rows), rows)

    def _speech_parameters(self) -> list[nn.Parameter]:
        parts = (self.prenet, self.speech_head, self.stop)
        return [self.null_condition, *(value for part in parts for value in part.parameters())]

    def _check_head(self) -> None:
        """How the language model makes logits of hidden states is found out once."""
        if not self._is_checked:
            check_output_head(self.language_model)
            self._is_checked = True


def _nothing_of(parameters: Iterable[nn.Parameter]) -> Tensor:
    """0, with a gradient of 0 for each parameter."""
    return torch.stack([0.0 * value.float().sum() for value in parameters]).sum()


def _hearing(model: PreTrainedModel) -> PreTrainedModel:
    """The encoder of a model that has one."""
    encoder: PreTrainedModel = model.get_encoder() if hasattr(model, "get_encoder") else model
    return encoder


def _add_adapters(language_model: nn.Module, lora: dict[str, Any] | None) -> None:
    if lora is not None:
        from peft import LoraConfig, inject_adapter_in_model

        inject_adapter_in_model(LoraConfig(**lora), language_model)


def _adapters_of(language_model: nn.Module) -> dict[str, Any]:
    """The arguments that make the adapters of a PEFT model again.

    Raises:
        UserError: adapters of another kind than LoRA, or several.
    """
    adapters = list(language_model.peft_config.values())  # type: ignore[operator]
    if len(adapters) != 1 or str(adapters[0].peft_type.value) != "LORA":
        raise UserError(
            "the language model must have one LoRA adapter at most: merge the others (merge_and_unload)."
        )
    known = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora", "use_dora")
    values = {name: getattr(adapters[0], name) for name in known}
    targets = values["target_modules"]
    return values | {"target_modules": targets if isinstance(targets, str) else sorted(targets)}
