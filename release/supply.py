"""Who is trusted by installing tokenry: dist/licences.txt and, by CycloneDX, dist/sbom.json, of an environment with the wheel alone.

A licence with copyleft (GPL, AGPL, LGPL, …) in it is refused; MPL, which binds its own files only, is listed and allowed.
"""

import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path

OF_PIP = {"pip", "setuptools"}
COPYLEFT = re.compile(r"GPL|GENERAL PUBLIC|AFFERO|EUPL|CC-BY-SA|SSPL|\bOSL", re.I)
CHOICE = re.compile(r"\bOR\b|;", re.I)


def write_licences(environment: Path, file: Path) -> list[str]:
    """List the licences of a virtual environment; returns those with copyleft."""
    (site,) = environment.glob("lib/python*/site-packages")
    found = {
        package.name: licence(package)
        for package in distributions(path=[str(site)])
        if package.name not in OF_PIP
    }
    lines = [f"{name}: {words}" for name, words in sorted(found.items())]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [f"{name}: {words}" for name, words in found.items() if is_copyleft(words)]


def write_sbom(environment: Path, file: Path) -> None:
    """Write the bill of materials of a virtual environment."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    subprocess.run([*command, "--output-file", file, environment / "bin/python"], check=True)


def licence(package: Distribution) -> str:
    """The licence by its expression, else by the classifiers, else by the first line of the free text."""
    about = package.metadata
    classified = [
        line.rpartition(" :: ")[2]
        for line in about.get_all("Classifier", ())
        if line.startswith("License ::")
    ]
    return (
        about.get("License-Expression") or "; ".join(classified) or first_line(about.get_all("License", ()))
    )


def first_line(texts: Iterable[str]) -> str:
    """The first line that says anything."""
    return next((line for text in texts for line in text.strip().splitlines() if line), "unknown")


def is_copyleft(words: str) -> bool:
    """Whether every licence that one may choose has copyleft."""
    return all(COPYLEFT.search(choice) for choice in CHOICE.split(words))
