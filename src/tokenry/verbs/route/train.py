"""A router trained on labelled tokens, with its threshold, in one file that belongs to one small model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import require_folder_name
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Figure, Series, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._hardware import Hardware
from tokenry.verbs.route._pair import LABELS_FILE, ROUTER_FILE, identity_of, router_size


@dataclass(frozen=True)
class Plan:
    """Train a router on labelled tokens, and set its threshold for a recall or for a share of the tokens.

    Attributes:
        labels: folder or file of `tokenry route label`.
        small: small model, if it stands elsewhere than when tokens were labelled.
        width: width of the router.
        blocks: blocks of the router.
        learning_rate: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        batch_size: tokens per step.
        epochs: maximum number of passes over the tokens.
        patience: passes without a lower validation loss after which training stops.
        validation: share of the texts that stop the training and choose the threshold.
        recall_factor: further weight of the divergent tokens.
        recall: share of the divergent tokens that the threshold is to find.
        rate: share of the tokens that the large model is to write, in the place of a recall.
        seed: random seed of weights, split and order.
        output: folder for router.safetensors, result.json and report.html.
    """

    labels: Path = argument()
    small: str | None = option(None, metavar="MODEL")
    width: int = 1024
    blocks: int = 6
    learning_rate: float = 5e-5
    weight_decay: float = 5e-4
    batch_size: int = 1024
    epochs: int = 50
    patience: int = 10
    validation: float = 0.1
    recall_factor: float = 1.0
    recall: float = 0.95
    rate: float | None = None
    seed: int = 0
    hardware: Hardware = Hardware()
    output: Path = Path("runs/route")

    def __post_init__(self) -> None:
        require_folder_name(self.output, "the router")
        require_at_least(1, width=self.width, blocks=self.blocks)


def run(plan: Plan, progress: Progress) -> Result:
    """Train the router, choose its threshold, and save both."""
    import torch

    from tokenry.core.plans import values_for
    from tokenry.decoding.r2r import LabelledTokens, RouterTrainingConfig, TokenRouter, fit_router
    from tokenry.models import load_tokenizer

    config = RouterTrainingConfig(**values_for(RouterTrainingConfig, plan))
    labelled = LabelledTokens.load(plan.labels / LABELS_FILE if plan.labels.is_dir() else plan.labels)
    name = plan.small or labelled.small.name
    progress("loading the small model", 0.0)
    small, tokenizer = plan.hardware.load(name), load_tokenizer(name)
    identity = identity_of(small, tokenizer, name)
    if identity.weights != labelled.small.weights:
        raise UserError(
            f"the labels are of {labelled.small.name}, and {name} has other weights or another dtype: label tokens with it "
            "(`tokenry route label`)."
        )
    torch.manual_seed(plan.seed)
    router = TokenRouter.from_small_model(
        small, top_k=labelled.features.top_logits.shape[1], widths=[plan.width] * plan.blocks
    )
    router, report = fit_router(router, labelled.features, labelled.divergent, config, progress=progress)
    router.save(plan.output / ROUTER_FILE, identity, {**asdict(report), "large": labelled.large.name})
    data = {
        "kind": "route train",
        "small": name,
        "large": labelled.large.name,
        "parameters": router_size(router),
        **asdict(report),
        "losses": list(report.losses),
        "settings": plan_settings(plan),
    }
    return Result(f"Router for {name}", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the router, its threshold, and how the loss fell."""
    rows = [
        ("small model", data["small"]),
        ("large model", data["large"]),
        ("parameters", f"{data['parameters'] / 1e6:,.2f} M"),
        ("trained on", f"{data['trained_on']:,} tokens; {data['held_out']:,} of other texts held out"),
        ("passes", f"{data['epochs']}, the best one {data['best_epoch']}"),
        ("threshold", f"{data['threshold']:.3f}"),
        ("routes", f"{data['rate']:.1%} of the tokens held out; {data['divergent']:.1%} are divergent"),
        ("recall", f"{data['recall']:.1%} of the divergent ones"),
    ]
    blocks: list[Block] = []
    if not data["reached"]:
        blocks.append(
            Text(
                "No threshold finds the share of divergent tokens that was asked for; this one finds the most.",
                "warning",
            )
        )
    epochs = list(range(1, len(data["losses"]) + 1))
    return [
        *blocks,
        Table("the router", ("what", "value"), rows),
        Figure(
            "validation loss",
            "lines",
            [Series("loss", epochs, data["losses"])],
            x_label="pass over the tokens",
            y_label="loss",
            summary=f"The loss falls from {data['losses'][0]:.3f} to {min(data['losses']):.3f}.",
        ),
    ]
