"""What each output of a model depends on, bit by bit, and how much room behind the input a causal mask asks for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenry.core.errors import require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, plan_settings
from tokenry.report.blocks import Block, Column, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._models import model_title
from tokenry.verbs._output import OptionalOutput


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Find which outputs of a model change when a token is changed, and whether any depth could put a list in order under its mask.

    Attributes:
        model: `embedded`, a folder, or a hub name; causal or masked.
        tokens: tokens of the input.
        seed: random seed of the input.
    """

    model: str = argument("embedded")
    tokens: int = 12
    seed: int = 0
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        require_at_least(2, tokens=self.tokens)
        require_at_least(0, seed=self.seed)


def run(plan: Plan, progress: Progress) -> Result:
    """Change one token at a time."""
    import torch

    from tokenry.models.masked_model import load_language_model
    from tokenry.theory import dependency_matrix, reachable

    device = plan.hardware.place()
    progress("reading the model", 0.0)
    model = load_language_model(plan.model, plan.hardware.dtype or "float32").model
    vocabulary = model.config.get_text_config().vocab_size
    draw = torch.Generator().manual_seed(plan.seed)
    ids = torch.randint(vocabulary, (1, plan.tokens), generator=draw).to(device)
    progress("changing tokens", 0.2)
    depends = dependency_matrix(model.to(device), ids).cpu()
    # Reversing the input is the permutation that needs most: output row t needs row T − 1 − t.
    reversal = reachable([[plan.tokens - 1 - row] for row in range(plan.tokens)], depends)
    data = {
        "kind": "theory reach",
        "model": plan.model,
        "tokens": plan.tokens,
        "depends": depends.int().tolist(),
        "later": int(depends.triu(1).sum()),
        "earlier": int(depends.tril(-1).sum()),
        "scratch_tokens": reversal.scratch_tokens,
        "settings": plan_settings(plan),
    }
    return Result(f"What outputs depend on, {model_title(plan.model)}", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the tokens that each output depends on."""
    tokens, later = data["tokens"], data["later"]
    pairs = tokens * (tokens - 1) // 2
    causal = (
        "No output depends on a later token, to the bit: the model is causal. "
        f"To say its input in reverse order where it stands, {data['scratch_tokens']} of {tokens} outputs would need a token that they cannot "
        "see, at any depth: each must be said behind the input."
        if later == 0
        else f"{later:,} of {pairs:,} pairs of an output and a later token depend: the model is not causal, and order is no obstacle."
    )
    rows = [
        (str(place), "".join("●" if seen else "·" for seen in row), sum(row[:place]), sum(row[place + 1 :]))
        for place, row in enumerate(data["depends"])
    ]
    table = Table(
        f"outputs of {tokens} tokens, and the tokens (●) that change them",
        ("output", "tokens", Column("earlier", "", "d"), Column("later", "", "d")),
        rows,
    )
    return [Text(causal, "lead"), table]
