"""A language model that learns to speak, and to hear: continuous tokens beside its text, in two stages."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import UserError, require_at_least, require_fraction
from tokenry.core.io.files import require_new
from tokenry.core.io.progress import Progress, part
from tokenry.core.plans import argument, embedded, plan_settings
from tokenry.report.blocks import Block, Column, Findings, Section, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._course_of_training import course_figures, course_table
from tokenry.verbs._environment import environment
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._models import model_title
from tokenry.verbs._step_training import StepTraining

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from tokenry.generation import ContinuousTokenLM, SpokenSample
    from tokenry.verbs.speech._clips import ClipRow

_PARTS = {
    "text": Column("text", "nats a token", ".3f"),
    "flow": Column("flow", "", ".3f"),
    "stop": Column("stop", "nats", ".3f"),
}


@dataclass(frozen=True, kw_only=True)
class Plan(StepTraining):
    """Train a language model to write speech frames beside its text, and to hear; a stopped run can be resumed.

    Attributes:
        data: metadata.csv or .jsonl with `audio` and `text` (and `prompt`, `question`), a folder with it, or NAME.wav beside NAME.txt.
        model: `embedded`, a folder or a hub name; or the folder model of an earlier run, for the next stage.
        encoder: a Whisper-like model that hears the waves under `question`.
        stage: alignment trains the streams around a frozen language model, everything trains all but the encoder.
        lora_rank: rank of adapters inside the language model, the only part of it that then learns; 0 for none.
        sample_rate: samples a second of the waves.
        n_fft: samples of a window.
        hop: samples from one frame to the next.
        n_mels: mel bins of a frame.
        fmax: highest frequency in Hz.
        group: frames of a token.
        head_width: width of the flow head.
        head_depth: blocks of the flow head.
        resample: bring waves of another rate to this one.
        mix: take the mean of several channels.
        max_seconds: longest clip; longer ones are left out.
        batch_size: clips of a step in each process.
        learning_rate: highest learning rate; it falls to 0 along a cosine.
        warmup: share of the steps in which the learning rate rises.
        held_out: share of the clips that measure what was learned.
    """

    data: Path = argument()
    model: str = "embedded"
    encoder: str | None = None
    stage: Literal["alignment", "everything"] = "alignment"
    lora_rank: int = 0
    sample_rate: int = 22_050
    n_fft: int = 1024
    hop: int = 256
    n_mels: int = 80
    fmax: float = 8000.0
    group: int = 2
    head_width: int = 1024
    head_depth: int = 3
    resample: bool = False
    mix: bool = False
    max_seconds: float = 20.0
    steps: int = 2000
    batch_size: int = 8
    learning_rate: float = 3e-4
    warmup: float = 0.02
    held_out: float = 0.05
    hardware: Hardware = embedded(Hardware(), only=("device", "dtype"))
    output: Path = Path("runs/speech-train")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(1, group=self.group, head_width=self.head_width, head_depth=self.head_depth)
        require_at_least(0, lora_rank=self.lora_rank)
        require_fraction(self.warmup, "warmup")
        if not self.max_seconds > 0:
            raise UserError(f"max_seconds must be above 0, got {self.max_seconds}.")


def run(plan: Plan, progress: Progress) -> Result:
    """Read, train or resume, measure, speak, save."""
    require_new(plan.output / "model")
    device = plan.hardware.place()
    progress("reading the model", 0.0)
    found = _trained(plan, progress)
    data = {
        "kind": "speech train",
        "model": plan.model,
        "data": str(plan.data),
        **found,
        "settings": plan_settings(plan),
        "environment": environment(device),
    }
    return Result(f"{model_title(plan.model)} learns to speak", data, lay_out(data))


def _trained(plan: Plan, progress: Progress) -> dict[str, Any]:
    import torch
    from transformers import Trainer

    from tokenry.generation import StreamCollator
    from tokenry.verbs._stages import Stages
    from tokenry.verbs._training import logged_curve, remove_checkpoints, save_parts, take_steps
    from tokenry.verbs.speech._clips import ClipReader, read_clips

    rows = read_clips(plan.data)
    train_rows, held_rows = _split(rows, plan.held_out)
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        model, tokenizer, features = _model(plan)
    reader = ClipReader(model, tokenizer, features, plan.max_seconds, plan.resample, plan.mix)
    train, notes = reader.samples(train_rows, part(progress, 0.0, 0.1))
    held_out, _ = reader.samples(held_rows, part(progress, 0.1, 0.11))
    _require_fit(model, [*train, *held_out])
    if not bool(model.scale.is_fitted):
        _fit_scale(model, train)
    model.train_stage(plan.stage)
    collate = StreamCollator(model.config.group, model.config.delay)
    parts = _parts_of_the_loss(model)
    trainer = Trainer(model, _arguments(plan), train_dataset=train, data_collator=collate, callbacks=[parts])
    stages = Stages(part(progress, 0.11, 1.0), [1.0])
    take_steps(plan, trainer, stages)
    stages.say("measuring")
    measured = _measured(model, held_out, collate, plan)
    spoken = _spoken(plan, model, tokenizer, held_out)
    save_parts(plan.output / "model", model, tokenizer, *([] if features is None else [features]))
    remove_checkpoints(plan.output / "checkpoints")
    return {
        "parameters": model.num_parameters(),
        "trained_parameters": model.num_parameters(only_trainable=True),
        "clips": [len(train), len(held_out)],
        "seconds_of_speech": sum(len(row.frames) for row in train if row.frames is not None)
        / model.config.frames.frames_per_second,
        "steps": trainer.state.global_step,
        "curve": logged_curve(trainer, {name: name for name in ("loss", *_PARTS)}),
        "held_out_losses": measured,
        "spoken": spoken,
        "notes": notes,
    }


def _split(rows: "list[ClipRow]", share: float) -> "tuple[list[ClipRow], list[ClipRow]]":
    apart = max(1, round(share * len(rows)))
    if apart >= len(rows):
        raise UserError(f"{plural(len(rows), 'clip')} cannot be trained on and held out: give at least 2.")
    every = len(rows) // apart  # evenly over the data, which may be sorted
    is_held = [number % every == 0 and number // every < apart for number in range(len(rows))]
    held = [row for row, out in zip(rows, is_held, strict=True) if out]
    return [row for row, out in zip(rows, is_held, strict=True) if not out], held


def _model(plan: Plan) -> "tuple[ContinuousTokenLM, Any, Any]":
    """The model with its tokenizer and what makes the inputs of its encoder."""
    from transformers import AutoFeatureExtractor

    from tokenry.generation import ContinuousTokenLM, MelConfig
    from tokenry.models import load_tokenizer
    from tokenry.verbs.speech._speaker import is_speaker, load_encoder, load_speaker

    if is_speaker(Path(plan.model)):
        return load_speaker(Path(plan.model), plan.hardware)
    mel = MelConfig(plan.sample_rate, plan.n_fft, plan.hop, plan.n_mels, 0.0, plan.fmax)
    lora = None
    if plan.lora_rank:
        lora = {"r": plan.lora_rank, "lora_alpha": 2 * plan.lora_rank, "target_modules": "all-linear"}
    encoder = None if plan.encoder is None else load_encoder(plan.encoder)
    model = ContinuousTokenLM.around(
        plan.hardware.load(plan.model),
        encoder,
        channels=plan.group * plan.n_mels,
        group=plan.group,
        mel=asdict(mel),
        lora=lora,
        width=plan.head_width,
        depth=plan.head_depth,
    )
    features = None if encoder is None else AutoFeatureExtractor.from_pretrained(plan.encoder)
    return model, load_tokenizer(plan.model), features


def _require_fit(model: "ContinuousTokenLM", samples: "list[SpokenSample]") -> None:
    from tokenry.core.tensors.gate import require_readable
    from tokenry.generation import StreamCollator

    collate = StreamCollator(model.config.group, model.config.delay)
    lengths = [collate.length(sample) for sample in samples]
    ids = [token for sample in samples for token in (*sample.prompt, *sample.text)]
    require_readable(model.language_model, ids, lengths, "the clips")


def _fit_scale(model: "ContinuousTokenLM", samples: "list[SpokenSample]") -> None:
    from tokenry.generation import group_frames
    from tokenry.generation.flow_omni.speech_frames import pad_frames

    spoken = [sample.frames for sample in samples if sample.frames is not None]
    if not spoken:
        raise UserError("no clip has audio to say: a model that is to speak needs some.")
    grouped = group_frames(*pad_frames(spoken), model.config.group)
    model.scale.fit(grouped.tokens.to(model.device), grouped.element_mask.bool().to(model.device))


def _parts_of_the_loss(model: "ContinuousTokenLM") -> Any:
    """A callback that puts the parts of the loss into the log, as means since the last entry."""
    import torch
    from transformers import TrainerCallback

    class Parts(TrainerCallback):
        def __init__(self) -> None:
            self.sums, self.count = dict.fromkeys(_PARTS, 0.0), 0
            model.register_forward_hook(self.add)

        def add(self, module: Any, given: Any, output: Any) -> None:
            if module.training and torch.is_grad_enabled():
                self.sums = {name: value + float(output[f"{name}_loss"]) for name, value in self.sums.items()}
                self.count += 1

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.count:
                state.log_history[-1].update({name: value / self.count for name, value in self.sums.items()})
                self.sums, self.count = dict.fromkeys(_PARTS, 0.0), 0

    return Parts()


def _measured(
    model: "ContinuousTokenLM", samples: "list[SpokenSample]", collate: Any, plan: Plan
) -> dict[str, float]:
    """The losses of the held-out clips, clip by clip."""
    import torch

    from tokenry.core.tensors.modes import evaluation_mode

    found: dict[str, list[float]] = {name: [] for name in _PARTS}
    with evaluation_mode(model), torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        for sample in samples:
            batch = {name: value.to(model.device) for name, value in collate([sample]).items()}
            output = model(**batch)
            for name in _PARTS:
                if sample.text if name == "text" else sample.frames is not None:
                    found[name].append(float(output[f"{name}_loss"]))
    return {name: sum(values) / len(values) for name, values in found.items() if values}


def _spoken(
    plan: Plan, model: "ContinuousTokenLM", tokenizer: Any, samples: "list[SpokenSample]"
) -> dict[str, Any] | None:
    """A held-out text as the model says it, with the picture of its frames beside that of the real ones."""
    import torch

    from tokenry.generation import SpeechSampling, ungroup_frames
    from tokenry.verbs.speech._speaker import mel_picture

    sample = next((sample for sample in samples if sample.frames is not None and sample.text), None)
    if sample is None or sample.frames is None:
        return None
    group = model.config.group
    most = 2 * -(-len(sample.frames) // group)
    features = None if sample.heard is None else sample.heard[None]
    states = None if sample.heard is None else [sample.heard_states]
    answer = model.generate(
        [sample.prompt], SpeechSampling(max_tokens=most, seed=plan.seed), [sample.text], features, states
    )[0]
    said = ungroup_frames(answer.tokens[None], torch.tensor([group * len(answer.tokens)]), group)[0]
    return {
        "text": tokenizer.decode(sample.text, skip_special_tokens=True).strip(),
        "frames": [len(sample.frames), len(said)],
        "stopped": answer.stopped,
        "real": mel_picture(sample.frames),
        "said": mel_picture(said),
    }


def _arguments(plan: Plan) -> "TrainingArguments":
    from tokenry.verbs._training import step_arguments

    return step_arguments(plan, lr_scheduler_type="cosine", warmup_steps=round(plan.warmup * plan.steps))


# --- layout --------------------------------------------------------------------------------------------------------------------------


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """What was learned, its course, and a held-out text as it is said."""
    from tokenry.verbs.speech._speaker import shown_mel

    curve, held_out = data["curve"], data["held_out_losses"]
    train, apart = data["clips"]
    lead = (
        f"{plural(data['steps'], 'step')} on {plural(train, 'clip')} ({data['seconds_of_speech'] / 60:.1f} minutes of speech), "
        f"{data['trained_parameters']:,} of {data['parameters']:,} parameters learned. Held out: "
        + ", ".join(f"{name} {value:.3f}" for name, value in held_out.items())
        + "."
    )
    blocks: list[Block] = [Text(lead, "lead")]
    table = course_table(curve, _PARTS, (f"held out ({plural(apart, 'clip')})", held_out))
    figures = [
        figure
        for name, column in _PARTS.items()
        for figure in course_figures(
            f"Loss: {name}", curve, {name: name}, column.unit or "squared error of the velocity"
        )
    ]
    blocks.append(Section("Training", [table, *figures]))
    spoken = data["spoken"]
    if spoken is not None:
        blocks.append(
            Section(
                f"“{spoken['text']}”",
                [
                    *shown_mel("as it was recorded", spoken["real"]),
                    *shown_mel("as the model says it", spoken["said"]),
                ],
            )
        )
        if not spoken["stopped"]:
            blocks.insert(
                1,
                Text(
                    "The held-out text was not ended by the model itself: it has not learned yet where speech stops; train longer.",
                    "warning",
                ),
            )
    if data["notes"]:
        blocks.append(Section("Noted", [Findings([("", note) for note in data["notes"]])]))
    return blocks
