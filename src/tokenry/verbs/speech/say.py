"""A text spoken by a model that has learned to, or an answer that it gives in text and speech."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import is_result_file, require_output_file
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, embedded, option, plan_settings
from tokenry.report.blocks import Block, Column, Section, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._hardware import Hardware

WAVE_FILE = "speech.wav"


@dataclass(frozen=True)
class Plan:
    """Speak a text with a model that `tokenry speech train` wrote, or let it answer.

    Attributes:
        run: folder of the run, or of its model.
        text: what is said; with --answer, what is answered.
        answer: take the text as a prompt, and let the model choose its words.
        hear: a wave that the model hears before.
        steps: steps of the flow; 4 to 10 are usual.
        solver: euler, or midpoint with two evaluations a step.
        temperature: of the noise that frames begin as.
        guidance: how far frames go beyond what the text asks for; 0 takes half the time.
        stop_threshold: probability above which a token is taken for the last.
        max_seconds: longest speech.
        vocoder: folder of a SpeechT5HifiGan or UnivNetModel for such frames; by default Griffin–Lim.
        resample: bring the heard wave to the rate of the encoder.
        seed: random seed.
        to: a .wav file, or a folder for speech.wav, result.json and report.html.
    """

    run: Path = argument(metavar="RUN")
    text: str = argument()
    answer: bool = False
    hear: Path | None = None
    steps: int = 10
    solver: str = "euler"
    temperature: float = 1.0
    guidance: float = 0.0
    stop_threshold: float = 0.5
    max_seconds: float = 20.0
    vocoder: Path | None = None
    resample: bool = False
    seed: int = 0
    hardware: Hardware = embedded(Hardware(), only=("device", "dtype"))
    to: Path = option(default=Path("runs/speech-say"), flag="--output")

    def __post_init__(self) -> None:
        require_at_least(1, steps=self.steps)
        require_at_least(0, temperature=self.temperature, seed=self.seed)
        if not self.max_seconds > 0:
            raise UserError(f"max_seconds must be above 0, got {self.max_seconds}.")
        if not self.text.strip() and self.hear is None:
            raise UserError("there is nothing to say: give a text.")
        if is_result_file(self.to):
            raise UserError(f"output must name a .wav file, or a folder, got {self.to}.")

    @property
    def output(self) -> Path | None:
        """Where the result is saved: nowhere if the wave alone is asked for."""
        return None if self.to.suffix == ".wav" else self.to


def run(plan: Plan, progress: Progress) -> Result:
    """Load the model, write frames, make the wave."""
    import torch

    from tokenry.generation import (
        GriffinLim,
        SpeechSampling,
        Spoken,
        load_vocoder,
        ungroup_frames,
        write_wave,
    )
    from tokenry.verbs.speech._clips import ClipReader
    from tokenry.verbs.speech._speaker import load_speaker, mel_picture

    target = plan.to if plan.output is None else plan.to / WAVE_FILE
    require_output_file(target)
    progress("reading the model", 0.0)
    model, tokenizer, features = load_speaker(plan.run, plan.hardware)
    mel = model.config.frames
    vocoder = GriffinLim(mel) if plan.vocoder is None else load_vocoder(plan.vocoder, mel)
    reader = ClipReader(model, tokenizer, features, plan.max_seconds, plan.resample, False)
    heard, states = reader.heard(plan.hear, "the wave of hear")
    ids = reader.ids(plan.text, "text")
    sampling = SpeechSampling(
        steps=plan.steps,
        solver=plan.solver,
        temperature=plan.temperature,
        guidance=plan.guidance,
        stop_threshold=plan.stop_threshold,
        max_tokens=max(1, round(plan.max_seconds * mel.frames_per_second / model.config.group)),
        seed=plan.seed,
    )
    started, steps = time.perf_counter(), []
    forced = None if plan.answer else [[*ids, *reader.ends]]
    written = model.stream(
        [ids if plan.answer else []], sampling, forced, None if heard is None else heard[None],
        None if heard is None else [states], reader.ends,
    )  # fmt: skip
    for step in written:
        steps.append(step)
        progress("writing frames", 0.9 * len(steps) / (sampling.max_tokens + model.config.delay))
    spoken = Spoken.gather(1, steps)[0]
    seconds = time.perf_counter() - started
    if not len(spoken.tokens):
        raise UserError("the model said nothing: train it longer.")
    length = torch.tensor([len(spoken.tokens) * model.config.group])
    frames = ungroup_frames(spoken.tokens[None], length, model.config.group)[0]
    progress("making the wave", 0.9)
    wave = vocoder(frames)
    write_wave(target, wave, mel.sample_rate)
    data = {
        "kind": "speech say",
        "text": tokenizer.decode(spoken.text, skip_special_tokens=True) if plan.answer else plan.text,
        "wave": str(target),
        "seconds_of_speech": len(wave) / mel.sample_rate,
        "seconds": seconds,
        "tokens": len(spoken.tokens),
        "stopped": spoken.stopped,
        "mel": mel_picture(frames),
        "settings": plan_settings(plan),
    }
    return Result(f"{plan.run.name} speaks", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """What was said, how long it took, and its frames."""
    from tokenry.verbs.speech._speaker import shown_mel

    speech = data["seconds_of_speech"]
    lead = f"“{data['text']}”: {speech:.2f} seconds of speech in {data['seconds']:.2f} seconds, in {data['wave']}."
    blocks: list[Block] = [Text(lead, "lead")]
    if not data["stopped"]:
        blocks.append(
            Text(
                f"The model did not end its speech, which was cut off after {speech:.1f} seconds: lower --stop-threshold, or train longer.",
                "warning",
            )
        )
    row = ("speech", data["tokens"], speech, data["seconds"] / max(speech, 1e-9))
    columns = ("", "tokens", Column("length", "s", ".2f"), Column("time of writing", "s per s", ".2f"))
    blocks.append(Table("", columns, [row]))
    blocks.append(Section("Frames", shown_mel("log-mel frames", data["mel"])))
    return blocks
