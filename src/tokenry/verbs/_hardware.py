"""Device and type of the models that a verb runs: two options of every such verb."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tokenry.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Hardware:
    """Device and type of a model's weights.

    Attributes:
        device: where models run, such as cpu, cuda, cuda:1 or mps; by default an accelerator if there is one.
        dtype: type of the weights; by default bfloat16 where the hardware computes in it, else float32.
    """

    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None

    def place(self) -> "torch.device":
        """The device."""
        import torch

        from tokenry.models import preferred_device

        if self.device is None:
            return preferred_device()
        try:
            return torch.empty(0, device=self.device).device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            there = " and ".join(dict.fromkeys(("cpu", str(preferred_device()))))
            raise UserError(f"device {self.device!r} is not there: this machine has {there}.") from error

    def load(self, name: str, encoder_decoder: bool = False) -> "PreTrainedModel":
        """Load a causal language model, or an encoder-decoder where that will do, onto the device."""
        from tokenry.models import load_model, preferred_dtype

        device = self.place()
        dtype = self.dtype or preferred_dtype(device)
        return load_model(name, dtype=dtype, encoder_decoder=encoder_decoder).to(device)


@dataclass(frozen=True)
class StoredHardware(Hardware):
    """Device and type of a model's weights; by default the type in which they are stored.

    Attributes:
        device: where models run, such as cpu, cuda, cuda:1 or mps; by default an accelerator if there is one.
        dtype: type of the weights; by default as they are stored.
    """

    def load(self, name: str, encoder_decoder: bool = False) -> "PreTrainedModel":
        """Load a causal language model, or an encoder-decoder where that will do, onto the device."""
        from tokenry.models import load_model

        device = self.place()
        return load_model(name, dtype=self.dtype, encoder_decoder=encoder_decoder).to(device)


AS_STORED = StoredHardware()
