"""The regime in which ssToken pays: one factor at a time around a middle cell, several seeds each.

    python experiments/regimes.py --data FOLDER                  go on where the last run ended
    nice -n 19 python experiments/regimes.py --data FOLDER --minutes 60

A cell is a regime (kind and share of noise, learning rate, share of tokens kept, number of samples), a seed and a weighing: one epoch
of LoRA on the embedded model. Measured are the NLL of held-out answers, of text that no cell trains on (forgetting), and the accuracy of
generated answers. Every finished cell is kept in docs/results/regimes.json, the most telling come first, and what was not reached
stays empty. No seed is chosen by its result.

The map compares each weighing with plain fine-tuning on the same samples in the same order; its unit is the seed.
"""

import argparse
import gc
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mixture import Mixture, Row
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, set_seed
from trl import SFTConfig

from tokenry.core.chat.conversations import encode_rows
from tokenry.core.io.files import read_json, write_json
from tokenry.core.stats import paired_difference
from tokenry.evaluation import generate_answers, held_out_nll, verifier_accuracy
from tokenry.finetuning import TokenWeighingTrainer
from tokenry.finetuning.weighing import make_weighing
from tokenry.models import load_model, load_tokenizer, preferred_dtype

STORED = Path(__file__).parents[1] / "docs" / "results" / "regimes.json"
CONTROL = "full"
# The first three of every regime are run before the others of any.
WEIGHINGS = {
    CONTROL: "full",
    "ssToken": "sstoken",
    "random": "random",
    "ssToken, sink-aware, dropped 0.1": "sstoken:attention=content,layers=deep,dropped_weight=0.1",
    "ssToken, out-of-fold progress": "sstoken:history=crossfit,dropped_weight=0.1",
    "cross-fitted": "cross-fitted",
    "cross-fitted, relative": "cross-fitted:progress=relative",
}
MAX_LENGTH = 160
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Regime:
    """What is varied."""

    noise: str = "documentation"
    noise_share: float = 0.2
    learning_rate: float = 3e-4
    share: float = 0.6
    samples: int = 400


@dataclass(frozen=True)
class Sizes:
    """What is the same in every cell."""

    batch_size: int = 8
    lora_rank: int = 16
    first_layer: int = 10
    held_out: int = 40
    retained: int = 40
    answers: int = 16
    answer_tokens: int = 64


MIDDLE = Regime()
REGIMES = {
    "middle": MIDDLE,
    "learning rate 1e-4": replace(MIDDLE, learning_rate=1e-4),
    "no noise": replace(MIDDLE, noise_share=0.0),
    "natural prose": replace(MIDDLE, noise="prose"),
    "wrong facts": replace(MIDDLE, noise="wrong"),
    "40 % noise": replace(MIDDLE, noise_share=0.4),
    "learning rate 1e-3": replace(MIDDLE, learning_rate=1e-3),
    "share 0.8": replace(MIDDLE, share=0.8),
    "1,000 samples": replace(MIDDLE, samples=1000),
    "2,000 samples": replace(MIDDLE, samples=2000),
}


@dataclass(frozen=True)
class Cell:
    """One run of the map."""

    regime: str
    weighing: str
    seed: int


def cells(seeds: int) -> Iterator[Cell]:
    """All runs, the most telling first: control, random and ssToken of all regimes, then the other weighings."""
    names = list(WEIGHINGS)
    for part in (names[:3], names[3:]):
        for regime in REGIMES:
            for seed in range(seeds):
                yield from (Cell(regime, weighing, seed) for weighing in part)


class Experiment:
    """Runs cells with one model on one mixture.

    Args:
        model: name or path of the model.
        mixture: the data.
        sizes: what is the same in every cell.
    """

    def __init__(self, model: str, mixture: Mixture, sizes: Sizes) -> None:
        self.name, self.mixture, self.sizes = model, mixture, sizes
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(model)
        held_out = mixture.held_out(sizes.held_out)
        self.tests = {source: self._encode(rows) for source, rows in held_out.items()}
        self.tests["retained"] = self._encode(mixture.retained(sizes.retained))
        self.items = [row for row in held_out["gsm8k"] if "verifier" in row][: sizes.answers]

    def untrained(self) -> dict[str, Any]:
        """Measure the model before training."""
        return self._measured(self._load())

    def run(self, cell: Cell, folder: Path) -> dict[str, Any]:
        """Train one cell and measure it."""
        regime = REGIMES[cell.regime]
        rows = self.mixture.train(
            regime.samples, regime.noise, regime.noise_share, cell.seed, self.sizes.held_out
        )
        model = self._load()
        layers = range(self.sizes.first_layer, model.config.num_hidden_layers)
        options = {} if cell.weighing == CONTROL else {"share": regime.share}
        set_seed(cell.seed)
        started, cpu = time.perf_counter(), time.process_time()
        trainer = TokenWeighingTrainer(
            model,
            args=self._arguments(folder, regime, cell.seed),
            train_dataset=self._encode(rows),
            processing_class=self.tokenizer,
            peft_config=LoraConfig(
                r=self.sizes.lora_rank,
                lora_alpha=2 * self.sizes.lora_rank,
                target_modules=TARGETS,
                layers_to_transform=list(layers),
                task_type="CAUSAL_LM",
            ),
            weighing=make_weighing(WEIGHINGS[cell.weighing], **options),
            history_cache=folder / "losses",
            record_signals=True,  # plain fine-tuning then takes the same chunked loss as the others: half the time
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
        measured = self._measured(trainer.model)
        return {
            **asdict(cell),
            **measured,
            "steps": trainer.state.global_step,
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu_seconds, 1),
        }

    def _measured(self, model: torch.nn.Module) -> dict[str, Any]:
        """The mean NLL per token of each held-out part, and the accuracy."""
        nll = {
            part: round(held_out_nll(model, rows).nll_per_token.value, 5) for part, rows in self.tests.items()
        }
        if not self.items:
            return {"nll": nll, "accuracy": None}
        prompts = [row["messages"][:-1] for row in self.items]
        answers = generate_answers(model, self.tokenizer, prompts, max_new_tokens=self.sizes.answer_tokens)
        return {"nll": nll, "accuracy": round(verifier_accuracy(answers, self.items).value, 4)}

    def _load(self) -> PreTrainedModel:
        return load_model(self.name, dtype=preferred_dtype())

    def _encode(self, rows: Sequence[Row]) -> Any:
        plain = [{name: value for name, value in row.items() if name != "verifier"} for row in rows]
        return encode_rows(plain, self.tokenizer, MAX_LENGTH)

    def _arguments(self, folder: Path, regime: Regime, seed: int) -> SFTConfig:
        return SFTConfig(
            output_dir=str(folder),
            per_device_train_batch_size=self.sizes.batch_size,
            num_train_epochs=1,
            learning_rate=regime.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=0.03,
            weight_decay=0.0,
            max_length=None,
            bf16=False,  # the model itself has the dtype
            gradient_checkpointing=False,
            seed=seed,
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            log_level="error",
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=False,
        )


def task_nll(run: Mapping[str, Any]) -> float:
    """Mean of the three held-out tasks."""
    tasks = [value for part, value in run["nll"].items() if part != "retained"]
    return sum(tasks) / len(tasks)


METRICS = {
    "task NLL": task_nll,
    "forgetting": lambda run: run["nll"]["retained"],
    "accuracy": lambda run: run["accuracy"],
}


def make_map(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every regime beside every weighing: the mean over the seeds of its difference to plain fine-tuning, null where not reached."""
    by_cell = {(run["regime"], run["weighing"], run["seed"]): run for run in runs}
    table = []
    for regime in REGIMES:
        for weighing in WEIGHINGS:
            seeds = [
                seed
                for name, other, seed in by_cell
                if (name, other) == (regime, weighing) and (regime, CONTROL, seed) in by_cell
            ]
            row: dict[str, Any] = {"regime": regime, "weighing": weighing, "seeds": len(seeds)}
            for metric, value in METRICS.items():
                ours, theirs = (
                    [value(by_cell[regime, name, seed]) for seed in seeds] for name in (weighing, CONTROL)
                )
                row[metric] = _figures(ours, theirs, weighing == CONTROL)
            table.append(row)
    return table


def _figures(ours: list[Any], theirs: list[Any], is_control: bool) -> dict[str, Any] | None:
    if not ours or None in ours + theirs:
        return None
    figures: dict[str, Any] = {"mean": round(sum(ours) / len(ours), 4)}
    if not is_control and len(ours) > 1:
        difference = paired_difference(ours, theirs)
        figures |= {
            "difference": round(difference.value, 4),
            "low": round(difference.low, 4),
            "high": round(difference.high, 4),
        }
    elif not is_control:
        figures["difference"] = round(ours[0] - theirs[0], 4)
    return figures


def _goes_on(stored: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether stored cells are of this map: regimes and weighings may be added to it."""
    same = all(stored[name] == settings[name] for name in ("model", "sizes", "dtype"))
    return same and all(
        settings[group].get(name) == definition
        for group in ("regimes", "weighings")
        for name, definition in stored[group].items()
    )


def main() -> None:
    """Go on with the map until everything is there, or the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with gsm8k, self_instruct and nltk")
    parser.add_argument("--model", default="embedded", help="name or path of the model")
    parser.add_argument("--output", type=Path, default=STORED, help="file of the finished cells")
    parser.add_argument("--work", type=Path, default=Path("runs/regimes"), help="folder of caches")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell after this time")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, help="samples of every cell, for a trial of the script")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sizes = Sizes()
    if arguments.samples:
        REGIMES.update({name: replace(regime, samples=arguments.samples) for name, regime in REGIMES.items()})
        sizes = Sizes(batch_size=2, first_layer=0, held_out=4, retained=4, answers=2, answer_tokens=4)
    settings = {
        "model": arguments.model,
        "sizes": asdict(sizes),
        "regimes": {name: asdict(regime) for name, regime in REGIMES.items()},
        "weighings": WEIGHINGS,
        "dtype": str(preferred_dtype()).removeprefix("torch."),
    }
    record = read_json(arguments.output) if arguments.output.exists() else {"kind": "regimes", "runs": []}
    if not _goes_on(record.get("settings", settings), settings):
        raise SystemExit(
            f"{arguments.output} holds cells of other settings: name another --output, or delete it."
        )
    record["settings"] = settings
    experiment = Experiment(arguments.model, Mixture(arguments.data), sizes)
    started = time.monotonic()
    if "untrained" not in record:
        record["untrained"] = experiment.untrained()
    finished = {Cell(run["regime"], run["weighing"], run["seed"]) for run in record["runs"]}
    for cell in cells(arguments.seeds):
        if cell in finished:
            continue
        if time.monotonic() - started > 60 * arguments.minutes:
            break
        record["runs"].append(experiment.run(cell, arguments.work))
        record["map"] = make_map(record["runs"])
        write_json(arguments.output, record)
        print(f"{len(record['runs'])} {cell}: task NLL {task_nll(record['runs'][-1]):.4f}", flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
