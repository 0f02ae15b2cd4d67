"""What a `ContinuousTokenLM` is made of, and how its losses are weighed; what Flow-Omni's paper (arXiv 2412.04917) leaves open is a field."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from tokenry.core.errors import UserError, require_at_least, require_fraction, require_one_of
from tokenry.generation.flow_omni.speech_frames import MelConfig


class ContinuousTokenConfig(PreTrainedConfig):
    """A `ContinuousTokenLM`; the defaults are ours where the paper says nothing.

    Args:
        text_config: of the language model.
        channels: channels of a continuous token.
        encoder_config: of the speech encoder; None for a model that hears nothing.
        lora: arguments of `peft.LoraConfig` for adapters inside the language model; None to train it whole.
        mel: fields of `MelConfig`, where the tokens are speech frames.
        group: frames of a token.
        delay: positions from the begin of an answer to its first continuous token.
        width: width of the flow head.
        depth: blocks of the flow head.
        sigma_min: width that is left around the data.
        draws: draws of noise and time per token and step.
        flow_weight: weight of the flow loss.
        stop_weight: weight of the stop loss.
        stop_positive_weight: weight of the last token in it, which is one of many.
        prenet_dropout: dropout of the pre-net in training.
        condition_dropout: share of the hidden states that are replaced by the vector for no condition, which guidance needs.
        combine: how the streams meet at the input: sum or average.
        stack: neighbouring states of the encoder that become one.
        **kwargs: of any config.

    Raises:
        UserError: a value that is not allowed.
    """

    model_type = "continuous-tokens"

    def __init__(
        self,
        text_config: Any = None,
        channels: int = 160,
        encoder_config: Any = None,
        lora: dict[str, Any] | None = None,
        mel: dict[str, Any] | None = None,
        group: int = 2,
        delay: int = 1,
        width: int = 1024,
        depth: int = 3,
        sigma_min: float = 1e-4,
        draws: int = 4,
        flow_weight: float = 1.0,
        stop_weight: float = 1.0,
        stop_positive_weight: float = 5.0,
        prenet_dropout: float = 0.5,
        condition_dropout: float = 0.1,
        combine: str = "sum",
        stack: int = 4,
        **kwargs: Any,
    ) -> None:
        require_at_least(
            1, channels=channels, group=group, width=width, depth=depth, draws=draws, stack=stack
        )
        require_at_least(0, delay=delay, flow_weight=flow_weight, stop_weight=stop_weight)
        for name, share in (
            ("sigma_min", sigma_min),
            ("prenet_dropout", prenet_dropout),
            ("condition_dropout", condition_dropout),
        ):
            require_fraction(share, name)
        require_one_of(combine, ("sum", "average"), "combine")
        if not stop_positive_weight > 0:
            raise UserError(f"stop_positive_weight must be above 0, got {stop_positive_weight}.")
        if mel is not None and channels != group * mel["n_mels"]:
            raise UserError(
                f"tokens of {group} frames with {mel['n_mels']} bins have {group * mel['n_mels']} channels, got channels={channels}."
            )
        self.text_config: Any = _config(text_config)
        self.encoder_config: Any = _config(encoder_config)
        self.channels, self.lora, self.mel, self.group, self.delay = channels, lora, mel, group, delay
        self.width, self.depth, self.sigma_min, self.draws = width, depth, sigma_min, draws
        self.flow_weight, self.stop_weight = flow_weight, stop_weight
        self.stop_positive_weight = stop_positive_weight
        self.prenet_dropout, self.condition_dropout = prenet_dropout, condition_dropout
        self.combine, self.stack = combine, stack
        super().__init__(**kwargs)

    @property
    def frames(self) -> MelConfig:
        """The speech frames.

        Raises:
            UserError: the tokens are no speech.
        """
        if self.mel is None:
            raise UserError("the tokens of this model are no speech frames: it was made without `mel`.")
        return MelConfig(**self.mel)


def _config(given: Any) -> PreTrainedConfig | None:
    return AutoConfig.for_model(**given) if isinstance(given, dict) else given
