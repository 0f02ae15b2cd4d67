"""A form fills the plan of one verb from its fields, and runs it; a tab is one form or several under a question."""

import hashlib
import importlib
import json
import re
import shutil
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenry.app.command import command_line
from tokenry.app.fields import Desk, Field
from tokenry.core.errors import UserError
from tokenry.core.io.files import atomic_write
from tokenry.core.io.progress import Progress
from tokenry.core.plans import as_typed, build_plan, plan_options
from tokenry.report.result import PAGE_FILE, RESULT_FILE, Result
from tokenry.verbs._catalogue import all_verbs


@dataclass(frozen=True)
class Form:
    """One form.

    Attributes:
        verb: words of the verb that it runs, such as `tokenizer compare`.
        fields: its fields.
        title: what it is called beside the other forms of its tab.
        button: what the button says.
        fixed: options that have no field, by name.
        resumes: whether its runs have folders that stay, so that a run that was stopped goes on where it was.
        at_once: whether it runs when its tab is opened, and whenever a slider is let go.
    """

    verb: str
    fields: tuple[Field, ...] = ()
    title: str = ""
    button: str = "Run"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    resumes: bool = False
    at_once: bool = False

    @property
    def is_there(self) -> bool:
        """Whether its verb is."""
        return self.verb in all_verbs()

    @property
    def module(self) -> Any:
        """The verb; its file imports nothing that is slow."""
        return importlib.import_module(all_verbs()[self.verb])

    def documentation(self, option: str) -> str:
        """What the command line says of an option."""
        return next((found.help for found in plan_options(self.module.Plan) if found.name == option), "")

    def prepare(self, values: Sequence[Any], desk: Desk, kept: Path) -> "Prepared":
        """Make the plan of what stands in the fields.

        Args:
            values: values of the fields, in their order.
            desk: where files go.
            kept: folder of the runs that stay.

        Raises:
            UserError: a value is refused.
        """
        plan, output = self.module.Plan, desk.folder
        kinds = {option.name: option.kind for option in plan_options(plan)}
        options = dict(self.fixed)
        for asked, value in zip(self.fields, values, strict=True):
            for name, given in asked.options(value, desk).items():
                fitted = _fitted(given, kinds[name])
                # Several fields may fill an option that takes several values.
                together = isinstance(fitted, tuple) and name in options
                options[name] = (*options[name], *fitted) if together else fitted
        folder = desk.folder
        if self.resumes:
            output = kept / f"{self.verb.replace(' ', '-')}-{_fingerprint(options, folder)}"
            folder = output.with_name(f"{output.name}-files")
            options = {name: _moved(value, desk.folder, folder) for name, value in options.items()}
            if not folder.exists():
                kept.mkdir(parents=True, exist_ok=True)
                shutil.copytree(desk.folder, folder)
            options |= {"output": output, "resume": True}
        command = command_line(self.verb, plan, options, folder)
        has_output = any(option.name == "output" for option in plan_options(plan))
        try:
            made = build_plan(plan, options | ({"output": output} if has_output else {}))
        except UserError as error:
            raise UserError(self.as_filled(str(error))) from error
        return Prepared(self, made, command, output, folder)

    def as_filled(self, sentence: str) -> str:
        """Name options in an error sentence as their fields are called; one that has no field, or several, is named as it is typed."""
        labels = [(field.option, field.label) for field in self.fields]
        for option in plan_options(self.module.Plan):
            names = [label for name, label in labels if name == option.name]
            if len(names) == 1 and not option.positional:
                sentence = re.sub(rf"(?<![\w-]){option.flag}(?![\w-])", f"“{names[0]}”", sentence)
        return sentence


@dataclass(frozen=True)
class Prepared:
    """A plan that is ready to run.

    Attributes:
        form: the form.
        plan: the plan of its verb.
        command: the command that does the same.
        output: folder of its result.
        folder: folder of the files that were typed or sent.
    """

    form: Form
    plan: Any
    command: str
    output: Path
    folder: Path

    def run(self, progress: Progress) -> Result:
        """Run the verb and save its result.

        Raises:
            UserError: what the verb refuses, in the words of the form.
        """
        run: Callable[[Any, Progress], Result] = self.form.module.run
        try:
            result = run(self.plan, progress)
        except UserError as error:
            raise UserError(self.form.as_filled(as_typed(str(error), type(self.plan)))) from error
        result.save(self.output)
        # Files go by their name, as in the command: where they lie meanwhile says nothing to anybody.
        for name in (RESULT_FILE, PAGE_FILE):
            text = (self.output / name).read_text(encoding="utf-8").replace(f"{self.folder}/", "")
            with atomic_write(self.output / name) as partial:
                partial.write_text(text, encoding="utf-8")
        return result


@dataclass(frozen=True)
class Tab:
    """One tab.

    Attributes:
        name: what the tab is called.
        question: the question that it answers.
        forms: its forms.
    """

    name: str
    question: str
    forms: tuple[Form, ...]


def _fitted(value: Any, kind: Any) -> Any:
    """A value as an option of a kind takes it: one or several, a path or its name."""
    several = value if isinstance(value, tuple) else tuple(value) if isinstance(value, list) else (value,)
    if Path not in (kind, *typing.get_args(kind)):
        several = tuple(str(item) if isinstance(item, Path) else item for item in several)
    if typing.get_origin(kind) is tuple:
        return several
    return several[0] if len(several) == 1 else ",".join(several)


def _moved(value: Any, before: Path, after: Path) -> Any:
    """A value in which the files of one folder lie in another."""
    if isinstance(value, tuple):
        return tuple(_moved(item, before, after) for item in value)
    if isinstance(value, Path | str) and str(value).startswith(f"{before}/"):
        return type(value)(f"{after}{str(value).removeprefix(str(before))}")
    return value


def _fingerprint(options: Mapping[str, Any], folder: Path) -> str:
    """Settings and the contents of files in the folder of the job, as a name: the same ones go on with the same run."""
    said = json.dumps(options, sort_keys=True, default=str).replace(f"{folder}/", "")
    digest = hashlib.sha256(said.encode())
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:10]
