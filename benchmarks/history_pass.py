"""What is computed before training (the history of ssToken, cross-fitting), relative to one epoch of training on the same data.

SmolLM2-135M-Instruct in the dtype it is trained in here; samples of equal length, and of lengths spread as in chat data (half of
each is prompt); ssToken with batches of 2 and AdamW. The pass is paid once: other epochs and other runs on the same data read it from
the cache, and `history="previous_epoch"` needs none. Cross-fitting is two passes and half an epoch of training. A pass is a forward of what training does forward and backward, so the ratio is
lowest where training does most: gradient checkpointing, which is on by default in TRL, adds a forward; LoRA leaves out the
gradients of most weights. Spread lengths should cost a pass no more, against an epoch, than equal ones.
"""

import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from _measure import Step, interleaved
from _report import Result, dtype_name, note, result, run
from _steps import IGNORED, SSTOKEN, TINY, Shape, config, load, model_name, tokenizer
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel

from tokenry.finetuning import Folds, TokenWeighingTrainer
from tokenry.finetuning.dataset_pass import dataset_nll, samples_of
from tokenry.finetuning.fold_training import out_of_fold_nll
from tokenry.models.loading import preferred_dtype

TARGET, CROSS_FITTING_TARGET, SPREAD_TARGET = 0.25, 1.25, 1.1
CHECKPOINTING = {"gradient_checkpointing": True}
LORA = LoraConfig(r=64, lora_alpha=16, lora_dropout=0.1, target_modules="all-linear")


def measure(smoke: bool) -> Iterator[Result]:
    """Every kind of data with every kind of training."""
    shape = Shape(model=TINY) if smoke else Shape(dtype=preferred_dtype())
    longest, samples = (32, 12) if smoke else (512, 24)
    lengths = {
        "equal lengths": [longest] * (samples // 3),
        "spread lengths": spread_lengths(samples, longest),
    }
    trainings = {
        "all parameters, TRL's checkpointing": (None, CHECKPOINTING),
        "all parameters": (None, {}),
        "LoRA": (LORA, {}),
    }
    passes: dict[str, dict[str, float]] = {training: {} for training in trainings}
    for data, of_samples in lengths.items():
        for training, (adapter, options) in trainings.items():
            note(f"{data}, {training}")
            model = load(shape)
            steps = pass_and_epoch(model, rows(of_samples, model.config.vocab_size), adapter, options)
            rounds = 1 if smoke else 2
            seconds = interleaved(steps, rounds, threads=1)
            epoch = seconds["epoch"]
            passes[training][data] = seconds["history pass"].cpu / epoch.cpu
            for what, target in (("history pass", TARGET), ("cross-fitting", CROSS_FITTING_TARGET)):
                yield result(
                    f"{what} / one epoch, {data}, {training}",
                    seconds[what].cpu / epoch.cpu,
                    target,
                    model=model_name(shape),
                    dtype=dtype_name(shape.dtype),
                    samples=len(of_samples),
                    tokens=sum(of_samples),
                    longest=longest,
                    train_batch_size=2,
                    threads=1,
                    rounds=rounds,
                    cpu_seconds={name: round(seconds[name].cpu, 3) for name in (what, "epoch")},
                    wall_seconds={name: round(seconds[name].wall, 3) for name in (what, "epoch")},
                )
    for training, by_data in passes.items():
        equal, spread = by_data.values()
        yield result(
            f"history pass / one epoch, spread lengths / equal lengths, {training}",
            spread / equal,
            SPREAD_TARGET,
        )


def spread_lengths(samples: int, longest: int) -> list[int]:
    """Lengths of chat data: log-normal around a third of the longest (sigma 0.7), cut at the longest."""
    generator = torch.Generator().manual_seed(0)
    lengths = longest / 3 * torch.exp(0.7 * torch.randn(samples, generator=generator))
    return lengths.clamp(8, longest).long().tolist()


def rows(lengths: list[int], vocabulary: int) -> Dataset:
    """Random tokens; the second half of every sample is learned from."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for length in lengths:
        tokens = torch.randint(10, vocabulary, (length,), generator=generator).tolist()
        made.append({"input_ids": tokens, "labels": [IGNORED] * (length // 2) + tokens[length // 2 :]})
    return Dataset.from_list(made)


def pass_and_epoch(
    model: PreTrainedModel, data: Dataset, adapter: LoraConfig | None, options: dict[str, bool]
) -> dict[str, Step]:
    """The three things to be timed. The learning rate is 0, so that every epoch is the same."""

    def trainer(folder: str) -> TokenWeighingTrainer:
        once = {"num_train_epochs": 1, "learning_rate": 0.0, "logging_strategy": "no"}
        return TokenWeighingTrainer(
            model=model,
            args=config(folder, 2, **once, **options),
            train_dataset=data,
            processing_class=tokenizer(),
            weighing=SSTOKEN,
            history_cache=folder,
            peft_config=adapter,
        )

    with tempfile.TemporaryDirectory() as folder:
        training = trainer(folder)
    samples = list(samples_of(training.train_dataset))

    def history_pass() -> None:
        with training.model.disable_adapter() if adapter else nullcontext():
            dataset_nll(training.model, samples, training.store.size, progress=False)

    def cross_fitting() -> None:
        history_pass()
        with tempfile.TemporaryDirectory() as empty:
            training.history_cache = Path(empty)
            out_of_fold_nll(training, samples, Folds())

    def epoch() -> None:
        training.train()

    return {"history pass": history_pass, "cross-fitting": cross_fitting, "epoch": epoch}


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
