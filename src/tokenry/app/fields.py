"""The fields of a form: each shows one component, and turns what stands in it into an option of the form's verb.

Texts and uploads become files in the folder of the job, so that nothing that is typed is ever taken for a path; a field that is left
empty leaves the option at its default.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenry.app.uploads import Kind, take
from tokenry.core.errors import UserError
from tokenry.core.io.files import atomic_write

MOST_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class Desk:
    """Where a job gets what its fields ask for.

    Attributes:
        folder: folder of the job.
        last: the folder of the last finished run of a verb on this page; None where there is none.
    """

    folder: Path
    last: Callable[[str], Path | None]


@dataclass(frozen=True)
class Shown:
    """What the server allows on its pages.

    Attributes:
        models: names of models that are offered.
        any_model: whether other names may be typed.
    """

    models: Sequence[str]
    any_model: bool


@dataclass(frozen=True)
class Field:
    """One field.

    Attributes:
        option: name of the option that it fills.
        label: what it is called on the page.
        info: a sentence below it; None for the documentation of the option.
        more: whether it is folded under *More options*.
    """

    option: str
    label: str
    info: str | None = None
    more: bool = False

    def component(self, gradio: Any, shown: Shown, **said: Any) -> Any:
        """The component, or several, whose values `options` then takes as a list; `said` holds its label and its sentence."""
        raise NotImplementedError(f"{type(self).__name__} must define `component`.")

    def options(self, value: Any, desk: Desk) -> dict[str, Any]:
        """The options by name that a value gives."""
        return {} if value in (None, "", [], ()) else {self.option: value}


@dataclass(frozen=True)
class Passage(Field):
    """A text of any length; the option takes a file.

    Attributes:
        value: the example that stands in it at first.
        lines: height.
        file: name of the file.
    """

    value: str = ""
    lines: int = 8
    file: str = "text.txt"

    def component(self, gradio: Any, shown: Shown, **said: Any) -> Any:
        """A box of several lines."""
        return gradio.Textbox(value=self.value, lines=self.lines, max_lines=18, **said)

    def options(self, value: Any, desk: Desk) -> dict[str, Any]:
        """The file with the text."""
        return {self.option: write_text(desk.folder / self.file, value, self.label)}


def write_text(file: Path, text: str | None, label: str) -> Path:
    """Write what was typed.

    Raises:
        UserError: it is empty, too long, or no text.
    """
    if not (text or "").strip():
        raise UserError(f"{label} is empty: write or paste a text.")
    assert text is not None
    if len(text) > MOST_CHARACTERS:
        raise UserError(
            f"{label} has {len(text):,} characters, and a page takes {MOST_CHARACTERS:,}: shorten it, or use the command line."
        )
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{label} holds half of a character at {error.start:,}: remove it.") from error
    with atomic_write(file) as partial:
        partial.write_bytes(content)
    return file


@dataclass(frozen=True)
class Line(Field):
    """A short text, which is the value of the option itself.

    Attributes:
        value: what stands in it at first.
        placeholder: an example.
    """

    value: str = ""
    placeholder: str = ""

    def component(self, gradio: Any, shown: Shown, **said: Any) -> Any:
        """A box of one line."""
        return gradio.Textbox(value=self.value, placeholder=self.placeholder, max_length=2000, **said)


@dataclass(frozen=True)
class Model(Field):
    """A model, or several.

    Attributes:
        many: whether several can be chosen.
        offered: whether the models of the server are offered; else a name must be typed.
        before: what is offered before them.
    """

    many: bool = False
    offered: bool = True
    before: Sequence[str] = ()

    def component(self, gradio: Any, shown: Shown, **said: Any) -> Any:
        """A list that can be typed into where the server allows it."""
        choices = [*self.before, *shown.models]
        first = choices[:1] if self.offered else []
        return gradio.Dropdown(
            choices=choices,
            value=first if self.many else (first[0] if first else None),
            multiselect=self.many,
            allow_custom_value=shown.any_model,
            **said,
        )


@dataclass(frozen=True)
class OneOf(Field):
    """One of several values: a word, or a label and its value.

    Attributes:
        choices: the values.
        value: what is chosen at first.
    """

    choices: Sequence[Any] = ()
    value: Any = None

    @property
    def by_label(self) -> dict[str, Any]:
        """The values by what they are called on the page."""
        return dict((choice, choice) if isinstance(choice, str) else choice for choice in self.choices)

    def component(self, gradio: Any, shown: Shown, **said: Any) -> Any:
        """Buttons for a few, else a list."""
        kind = gradio.Radio if len(self.choices) <= 4 else gradio.Dropdown
        first = next((label for label, value in self.by_label.items() if value == self.value), None)
        return kind(choices=list(self.by_label), value=first, **said)

    def options(self, value: Any, desk: Desk) -> dict[str, Any]:
        """The chosen one."""
        if value not in self.by_label:
            raise UserError(f"{self.label} must be one of {', '.join(self.by_label)}, got {value!r}.")
        return {self.option: self.by_label[value]}


@dataclass(frozen=True)
class SomeOf(Field):
    """Several of some values.

    Attributes:
        choices: the values, or labels and values.
        value: what is chosen at first.
    """

    choices: Sequence[Any] = ()
    value: Sequence[str] = ()

    def component(self, gradio: Any, shown: Shown, **said: Any) -> Any:
        """Boxes to tick."""
        return gradio.CheckboxGroup(choices=list(self.choices), value=list(self.value), **said)

    def options(self, value: Any, desk: Desk) -> dict[str, Any]:
        """The chosen ones."""
        if not value:
            raise UserError(f"{self.label} is empty: tick at least one.")
        return {self.option: tuple(value)}


@dataclass(frozen=True)
class Slider(Field):
    """A number.

    Attributes:
        low: its smallest value.
        high: its largest.
        step: its steps.
        value: where it stands at first.
        power: whether the option is ten to this power; at zero it is left at its default.
        written: how a setting of the form `name=value` is written, such as `max_steps={}`; empty for the number itself.
    """

    low: float | int = 0.0
    high: float | int = 1.0
    step: float | int = 0.05
    value: float | int = 0.5
    power: bool = False
    written: str = ""

    def component(self, gradio: Any, shown: Shown, **said: Any) -> Any:
        """A slider with its number."""
        return gradio.Slider(
            minimum=self.low, maximum=self.high, step=self.step, value=self.value, buttons=[], **said
        )

    def options(self, value: Any, desk: Desk) -> dict[str, Any]:
        """The number; whole where its steps are.

        Raises:
            UserError: there is none.
        """
        if value is None or not self.low <= value <= self.high:
            raise UserError(f"{self.label} must be from {self.low:g} to {self.high:g}, got {value}.")
        if self.power and value == 0:
            return {}
        number: float | int = int(value) if isinstance(self.step, int) else float(value)
        if self.power:
            number = float(f"{10.0**value:.3g}")
        return {self.option: self.written.format(number) if self.written else number}


@dataclass(frozen=True)
class Switch(Field):
    """Yes or no.

    Attributes:
        value: how it stands at first.
    """

    value: bool = False

    def component(self, gradio: Any, shown: Shown, **said: Any) -> Any:
        """A box to tick."""
        return gradio.Checkbox(value=self.value, **said)


@dataclass(frozen=True)
class Upload(Field):
    """Files of one kind; the option takes them, or their folder.

    Attributes:
        kind: what they must be, by their content.
        many: whether several can be given.
        as_folder: whether the option takes the folder that holds them.
        required: whether there must be one.
    """

    kind: Kind = Kind.TEXT
    many: bool = False
    as_folder: bool = False
    required: bool = False

    def component(self, gradio: Any, shown: Shown, **said: Any) -> Any:
        """A place to drop files on; it has no sentence of its own below it."""
        info = said.pop("info", "")
        label = f"{said.pop('label')}: {info}" if info else said.pop("label")
        return gradio.File(
            file_count="multiple" if self.many else "single",
            file_types=list(self.kind.endings),
            type="filepath",
            label=label,
            **said,
        )

    def options(self, value: Any, desk: Desk) -> dict[str, Any]:
        """The files, copied into the folder of the job once their content was checked."""
        given = [value] if isinstance(value, str) else list(value or ())
        if not given and self.required:
            raise UserError(f"{self.label} is empty: choose {self.kind.noun}.")
        if not given:
            return {}
        folder = desk.folder / self.option if self.as_folder else desk.folder
        taken = tuple(take(Path(file), self.kind, folder) for file in given)
        return {self.option: folder if self.as_folder else taken}


@dataclass(frozen=True)
class QuestionAndAnswer(Passage):
    """A question and its answer; the option takes a conversation.

    Attributes:
        question: the example of a question.
    """

    question: str = ""
    file: str = "conversation.jsonl"

    def component(self, gradio: Any, shown: Shown, **said: Any) -> Any:
        """Two boxes."""
        return [
            gradio.Textbox(value=self.question, lines=3, label="Question"),
            gradio.Textbox(value=self.value, lines=self.lines, max_lines=18, **said),
        ]

    def options(self, value: Any, desk: Desk) -> dict[str, Any]:
        """The file with the conversation."""
        question, answer = value
        for label, text in (("Question", question), (self.label, answer)):
            write_text(desk.folder / self.file, text, label)
        row = json.dumps({"prompt": question, "completion": answer}, ensure_ascii=False)
        return {self.option: write_text(desk.folder / self.file, row + "\n", self.label)}


@dataclass(frozen=True)
class Documents(Passage):
    """Documents with an empty line between them; the option takes rows with `text`."""

    file: str = "documents.jsonl"

    def options(self, value: Any, desk: Desk) -> dict[str, Any]:
        """The file of the rows."""
        texts = [text.strip() for text in (value or "").replace("\r\n", "\n").split("\n\n") if text.strip()]
        rows = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        return {self.option: write_text(desk.folder / self.file, rows, self.label)}


@dataclass(frozen=True)
class Scores(Field):
    """Models and what each of them scored, one a line: `embedded, 0.61`; fills two options.

    Attributes:
        value: what stands in it at first.
        models: name of the option that takes the names.
    """

    value: str = ""
    models: str = "models"

    def component(self, gradio: Any, shown: Shown, **said: Any) -> Any:
        """A box of several lines."""
        return gradio.Textbox(value=self.value, lines=4, max_length=5000, **said)

    def options(self, value: Any, desk: Desk) -> dict[str, Any]:
        """The names, and the table of the scores."""
        rows = [line.split(",") for line in (value or "").splitlines() if line.strip()]
        for row in rows:
            if len(row) != 2 or not row[0].strip():
                raise UserError(f"{self.label}: write a model, a comma and its score, got {','.join(row)!r}.")
        pairs = [(name.strip(), score.strip()) for name, score in rows]
        table = "".join(f"{name},{score}\n" for name, score in pairs)
        file = write_text(desk.folder / "scores.csv", f"model,score\n{table}" if table else "", self.label)
        return {self.models: tuple(name for name, _ in pairs), self.option: file}


@dataclass(frozen=True)
class LastRun(Field):
    """What the last run of another form wrote; it shows nothing.

    Attributes:
        verb: verb of that form.
        file: name of the file.
    """

    verb: str = ""
    file: str = ""

    def component(self, gradio: Any, shown: Shown, **said: Any) -> Any:
        """A sentence."""
        return gradio.Markdown(said.get("info") or "")

    def options(self, value: Any, desk: Desk) -> dict[str, Any]:
        """The file.

        Raises:
            UserError: nothing was run yet.
        """
        folder = desk.last(self.verb)
        if folder is None or not (folder / self.file).exists():
            raise UserError(f"{self.label} are not there yet: run `{self.verb}` on this page first.")
        return {self.option: folder / self.file}
