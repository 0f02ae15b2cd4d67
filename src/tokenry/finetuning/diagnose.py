"""Diagnosis: would a weighing keep the right tokens? A cheap check before spending a run on it.

One epoch of plain fine-tuning, then every weighing scores the tokens once. With the class of each token known (recorded noise,
or any class the user marked), a signal is judged as a detector of the wanted class:

    auroc        probability that a wanted token scores higher than one of another class (0.5 = chance)
    share_kept   fraction of each class that the weighing would keep

It is a filter, not a ranking: a signal that cannot separate the classes is not worth a run; one that can may still lose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from sklearn.metrics import roc_auc_score
from torch import Tensor

from tokenry.core.chat.template import template_pieces
from tokenry.core.errors import UserError
from tokenry.core.tensors.gate import require_causal_lm
from tokenry.core.tensors.signals import Signals
from tokenry.finetuning.all_tokens import AllTokens
from tokenry.finetuning.dataset_pass import flat_signals, read_dataset, samples_of
from tokenry.finetuning.fold_training import out_of_fold_nll
from tokenry.finetuning.folds import Folds
from tokenry.finetuning.refusals import refuse_reference, refuse_unreadable
from tokenry.finetuning.token_store import TokenStore
from tokenry.finetuning.trainer import TokenWeighingTrainer
from tokenry.finetuning.weighing import TokenWeighing


@dataclass(frozen=True)
class Diagnosis:
    """The tokens that one weighing would keep, by class.

    Attributes:
        auroc: AUROC of the wanted class against each other class, and against all of them as `all`.
        share_kept: share of each class that would be kept.
        unwanted_share: share of other classes among the kept tokens; compare with `unwanted_share_of_all`.
        unwanted_share_of_all: their share among all response tokens, which plain fine-tuning learns from.
    """

    weighing: str
    auroc: dict[str, float]
    share_kept: dict[str, float]
    unwanted_share: float
    unwanted_share_of_all: float


def judge(
    name: str,
    score: Float[Tensor, "tokens"],
    kept: Bool[Tensor, "tokens"],
    token_class: Int[Tensor, "tokens"],
    classes: Sequence[str],
    wanted: str,
) -> Diagnosis:
    """Judge a score and a choice against the classes of the tokens.

    Args:
        score: score of each token; higher = more worth keeping.
        kept: whether each token would be kept.
        token_class: index into `classes`.
        wanted: the class that should be kept.

    Raises:
        UserError: `wanted` is not a class, or every token is of one class.
    """
    if wanted not in classes:
        raise UserError(f"there is no token class {wanted!r}: the data has {', '.join(classes)}.")
    is_wanted = token_class == classes.index(wanted)
    if bool(is_wanted.all()) or not bool(is_wanted.any()):
        raise UserError(
            "all tokens are of one class, so there is nothing to tell apart: mark some in `spans`."
        )
    groups = {"all": ~is_wanted} | {
        other: token_class == number for number, other in enumerate(classes) if other != wanted
    }
    auroc = {}
    for other, of_other in groups.items():
        if bool(of_other.any()):
            either = is_wanted | of_other
            auroc[other] = float(roc_auc_score(is_wanted[either].numpy(), score[either].numpy()))
    shares = {
        other: float(kept[token_class == number].float().mean())
        for number, other in enumerate(classes)
        if bool((token_class == number).any())
    }
    return Diagnosis(
        weighing=name,
        auroc=auroc,
        share_kept=shares,
        unwanted_share=float((~is_wanted)[kept].float().mean()),
        unwanted_share_of_all=float((~is_wanted).float().mean()),
    )


def diagnose(
    trainer_arguments: Mapping[str, Any],
    weighings: Mapping[str, TokenWeighing],
    classes: Sequence[str],
    wanted: str = "clean",
) -> list[Diagnosis]:
    """Train one epoch on all tokens, then judge the choice of each weighing.

    Args:
        trainer_arguments: arguments of `TokenWeighingTrainer` (`model`, `args`, `train_dataset`, …); the data carries
            `token_class`. The model is trained for an epoch, in place.
        weighings: the weighings to judge, by name. If one needs a reference, `trainer_arguments` holds `reference_model`.
        classes: names of the token classes.
        wanted: the class that should be kept.

    Returns:
        One `Diagnosis` per weighing, in their order.

    Raises:
        UserError: the data has no token classes, or a weighing cannot be judged with what was given.
    """
    arguments = dict(trainer_arguments)
    reference = arguments.pop("reference_model", None)
    trainer = TokenWeighingTrainer(**arguments, weighing=AllTokens(), record_signals=True)
    if "token_class" not in trainer.store.columns:
        raise UserError(
            "the training data has no column token_class: mark spans in the rows, see `encode_rows`."
        )
    samples = list(samples_of(trainer.train_dataset))
    store, size = trainer.store, trainer.store.size
    require_causal_lm(trainer.model)
    refuse_unreadable(trainer.model, trainer.train_dataset)
    needed = frozenset().union(*(weighing.needs for weighing in weighings.values()))
    columns = {"base_nll": trainer.model, "reference_nll": reference}
    before = TokenStore(size)
    for name, model in columns.items():
        if name in needed or (name == "base_nll" and "history_nll" in needed):
            if model is None:
                raise UserError("a weighing compares with a reference model: pass reference_model.")
            if model is reference:
                refuse_reference(model, trainer.processing_class, samples, "the reference model")
            read_dataset(model, samples, before, title=name)
            store.add(name, before.columns.pop("nll"))
    out_of_fold: dict[Folds, Tensor] = {}
    for weighing in weighings.values():
        if "out_of_fold_nll" in weighing.needs and weighing.cross_fit not in out_of_fold:
            folds = weighing.cross_fit
            out_of_fold[folds] = out_of_fold_nll(trainer, samples, folds)
    trainer.train()
    read_dataset(trainer.model, samples, store, needed & {"nll", "entropy"} | {"nll"}, title="nll")
    if "base_nll" in store.columns:
        store.add("history_nll", store.columns["base_nll"])
    token_class = store.columns["token_class"]
    template = template_pieces(trainer.processing_class)
    judged = []
    for name, weighing in weighings.items():
        if "prompt_attention" in weighing.needs:
            read_dataset(
                trainer.model,
                samples,
                store,
                frozenset({"prompt_attention"}),
                probe=weighing.attention_probe,
                template=template,
                title=name,
            )
        if "out_of_fold_nll" in weighing.needs:
            store.add("out_of_fold_nll", out_of_fold[weighing.cross_fit])
        if "uniform" in weighing.needs:
            store.add("uniform", torch.rand(size, generator=torch.Generator().manual_seed(0)))
        flat = flat_signals(samples, store)
        signals = Signals(flat.labels, flat.segments, flat.values, progress=1.0, epoch=float("inf"))
        learnable = signals.learnable[0]
        judged.append(
            judge(
                name,
                weighing.score(signals)[0][learnable],
                weighing.choose(signals)[0][learnable],
                token_class[learnable].long(),
                classes,
                wanted,
            )
        )
    return judged
