"""Speech with its text, as users have it: a table of files, or waves beside texts of the same name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokenry.generation import ContinuousTokenLM, SpokenSample

_TABLES = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class ClipRow:
    """A row of the data.

    Attributes:
        name: of the row in messages.
        text: what is said or answered; empty where there is none.
        audio: the wave that says it.
        prompt: text before it.
        question: a wave that is heard before it.
    """

    name: str
    text: str
    audio: Path | None
    prompt: str
    question: Path | None


def read_clips(source: Path) -> list[ClipRow]:
    """Read rows with `audio`, `text`, `prompt` and `question` from a table, or a folder of NAME.wav with NAME.txt.

    Raises:
        UserError: no data, a row without text and audio, or a file that is not there.
    """
    if source.is_dir():
        table = next((source / name for name in _TABLES if (source / name).is_file()), None)
        if table is None:
            return _beside(source)
        source = table
    from tokenry.core.chat.reading import read_rows

    return [_row(row, number, source.parent) for number, row in enumerate(read_rows(str(source)), start=1)]


def _beside(folder: Path) -> list[ClipRow]:
    from tokenry.core.io.reading import read_text
    from tokenry.generation.flow_omni.waves import SUFFIXES

    waves = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    if not waves:
        raise UserError(
            f"{folder} holds no speech: give metadata.csv or metadata.jsonl with audio and text, or waves beside .txt files of the same name."
        )
    silent = [wave for wave in waves if not wave.with_suffix(".txt").is_file()]
    if silent:
        raise UserError(
            f"{silent[0]} has no text: write what it says into {silent[0].with_suffix('.txt').name}."
        )
    return [ClipRow(wave.name, read_text(wave.with_suffix(".txt")).strip(), wave, "", None) for wave in waves]


def _row(row: dict[str, Any], number: int, folder: Path) -> ClipRow:
    values = {name: row.get(name) or "" for name in ("text", "audio", "prompt", "question")}
    odd = next((name for name, value in values.items() if not isinstance(value, str)), None)
    if odd is not None:
        raise UserError(f"row {number}: {odd} must be a text, got {type(values[odd]).__name__}.")
    if not values["text"].strip() and not values["audio"]:
        known = ", ".join(sorted(map(str, row)))
        raise UserError(
            f"row {number} has neither text nor audio: name the columns text and audio, got {known}."
        )
    paths = {name: folder / values[name] if values[name] else None for name in ("audio", "question")}
    return ClipRow(
        f"row {number}", values["text"].strip(), paths["audio"], values["prompt"], paths["question"]
    )


@dataclass(frozen=True)
class ClipReader:
    """Makes samples of rows.

    Attributes:
        model: for which they are made.
        tokenizer: of its language model.
        features: makes the inputs of its encoder; None where it hears nothing.
        max_seconds: longest speech; longer clips are left out.
        resample: whether waves of other rates are brought to that of the frames.
        mix: whether several channels are mixed.
    """

    model: "ContinuousTokenLM"
    tokenizer: "PreTrainedTokenizerBase"
    features: Any
    max_seconds: float
    resample: bool
    mix: bool

    def samples(self, rows: Sequence[ClipRow], progress: Progress) -> "tuple[list[SpokenSample], list[str]]":
        """The samples, and notes about what was left out.

        Raises:
            UserError: nothing is left, or something cannot be read.
        """
        found: list[SpokenSample] = []
        long: list[ClipRow] = []
        for number, row in enumerate(rows):
            sample = self._sample(row)
            if sample is None:
                long.append(row)
            else:
                found.append(sample)
            progress("reading speech", (number + 1) / len(rows))
        if not found:
            raise UserError(
                f"all {len(rows)} clips are longer than {self.max_seconds:g} seconds: raise max_seconds, or cut them."
            )
        notes = []
        if long:
            notes.append(
                f"{len(long)} of {len(rows)} clips are longer than {self.max_seconds:g} seconds and were left out."
            )
        return found, notes

    def _sample(self, row: ClipRow) -> "SpokenSample | None":
        from tokenry.generation import SpokenSample, log_mel, read_wave

        mel = self.model.config.frames
        frames = None
        if row.audio is not None:
            wave = read_wave(row.audio, mel.sample_rate, self.resample, self.mix)
            if len(wave) > self.max_seconds * mel.sample_rate:
                return None
            frames = log_mel(wave, mel)
        heard, states = self.heard(row.question, row.name)
        text = [*self.ids(row.text, row.name), *self.ends] if row.text else []
        return SpokenSample(tuple(self.ids(row.prompt, row.name)), text, frames, heard, states)

    def ids(self, text: str, name: str) -> list[int]:
        """The tokens of a text; raises `UserError` where it has none."""
        if not text:
            return []
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if not ids:
            raise UserError(f"{name}: {text!r} has no tokens.")
        return ids

    @property
    def ends(self) -> list[int]:
        """The token that ends a text, where the tokenizer has one."""
        return [] if self.tokenizer.eos_token_id is None else [int(self.tokenizer.eos_token_id)]

    def heard(self, wave: Path | None, name: str) -> tuple[Any, int]:
        """The input of the encoder for a wave, and the number of its states; nothing where there is no wave.

        Raises:
            UserError: the model hears nothing, or the wave cannot be read.
        """
        if wave is None:
            return None, 0
        if self.features is None:
            raise UserError(
                f"{name} is to be heard, and the model has no speech encoder: train it with --encoder."
            )
        from tokenry.generation import read_wave

        rate = self.features.sampling_rate
        samples = read_wave(wave, rate, self.resample, self.mix)
        heard = self.features(samples.numpy(), sampling_rate=rate, return_tensors="pt")["input_features"][0]
        return heard, self.model.heard_states(min(len(samples) // self.features.hop_length, heard.shape[1]))
