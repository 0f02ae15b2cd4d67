"""Numbers about the tokens of a training set, kept in flat columns and found by the token's index.

A signal computed before training, a weight given in the data or last epoch's choice is a flat column. A batch carries the
indices of its tokens, so the right number is found after shuffling, packing, filtering and any number of epochs.
"""

from collections.abc import Container, Iterable, Mapping
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int, Num, Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tokenry.core.errors import UserError
from tokenry.core.io.files import atomic_write


class TokenStore:
    """Named columns over the tokens of a training set: float32, or bool for a choice."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.columns: dict[str, Tensor] = {}
        self.recorded: set[str] = set()
        # Per column, the tokens that this rank has recorded since the ranks last shared their numbers.
        self._fresh: dict[str, Tensor] = {}

    def add(self, name: str, values: Shaped[Tensor, "tokens"]) -> None:
        """Add or replace a column.

        Raises:
            UserError: the column has another length than the data.
        """
        if values.numel() != self.size:
            raise UserError(
                f"{name} has {values.numel()} values but the training data {self.size} tokens: "
                "it was made for other data, another tokenizer or another maximum length."
            )
        self.columns[name] = values if values.dtype == torch.bool else values.float()

    def look_up(
        self, names: Iterable[str], token_index: Int[Tensor, "batch seq"]
    ) -> dict[str, Float[Tensor, "batch seq"]]:
        """Read columns for the tokens of a batch, on its device; nan where the index is -1 (padding)."""
        if not self.size:
            return {}
        index = token_index.cpu()
        missing = index < 0
        return {
            name: self.columns[name][index.clamp(min=0)]
            .float()
            .masked_fill(missing, float("nan"))
            .to(token_index.device)
            for name in names
            if name in self.columns
        }

    def record(
        self,
        name: str,
        token_index: Int[Tensor, "batch seq"],
        values: Num[Tensor, "batch seq"],
        where: Bool[Tensor, "batch seq"],
    ) -> None:
        """Write one number per token of a batch; tokens never recorded are nan."""
        column = self.columns.setdefault(name, torch.full((self.size,), float("nan")))
        self.recorded.add(name)
        places = where & (token_index >= 0)
        index = token_index[places].cpu()
        column[index] = values[places].float().cpu()
        if torch.distributed.is_initialized():
            self._fresh.setdefault(name, torch.zeros(self.size, dtype=torch.bool))[index] = True

    def share_between_ranks(self, device: torch.device) -> None:
        """Under torch.distributed, give every rank the numbers that others recorded since the last call; otherwise do nothing."""
        fresh, self._fresh = self._fresh, {}
        if not torch.distributed.is_initialized():
            return
        told: list[list[str]] = [[] for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(told, list(fresh))
        for name in sorted({name for names in told for name in names}):
            column = self.columns.get(name, torch.full((self.size,), float("nan")))
            here = fresh.get(name, torch.zeros(self.size, dtype=torch.bool))
            ranks = here.float().to(device)
            total = torch.where(here, column, 0.0).nan_to_num(0.0).to(device)
            torch.distributed.all_reduce(ranks)
            torch.distributed.all_reduce(total)
            self.columns[name] = torch.where(ranks.cpu() > 0, (total / ranks.clamp(min=1)).cpu(), column)

    def save(self, path: Path, names: Iterable[str], others: Mapping[str, Tensor]) -> None:
        """Write the columns `names` and `others` to a safetensors file, atomically."""
        columns = {name: self.columns[name] for name in names if name in self.columns}
        with atomic_write(path) as partial:
            save_file({**columns, **others}, partial)

    def load(self, path: Path, others: Container[str]) -> dict[str, Tensor]:
        """Read columns back; return the `others` of the file.

        Raises:
            UserError: the file is damaged or belongs to other data.
        """
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is damaged ({error}): resume from an earlier checkpoint.") from error
        for name in [name for name in tensors if name not in others]:
            self.add(name, tensors.pop(name))
            self.recorded.add(name)
        return tensors
