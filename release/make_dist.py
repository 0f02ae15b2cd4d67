"""Builds sdist and wheel into dist/, and refuses what should not be published.

Two builds have equal hashes; `twine check --strict` passes; the wheel holds every file that the repository has in src/tokenry, the licences
and nothing else, in at most 2 MB, packed by zopfli; the sdist holds neither tests nor golden numbers; the version is that of the package, and CHANGELOG.md
has a section for it.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
MOST_BYTES = 2_000_000
LICENCES = ("LICENSE", "src/tokenry/pretraining/scaling/testbed104.LICENSE")
ABOUT_A_WHEEL = {
    "METADATA",
    "WHEEL",
    "RECORD",
    "entry_points.txt",
    *(f"licenses/{name}" for name in LICENCES),
}
BESIDE_THE_SOURCE = {
    *("CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "SECURITY.md", "constraints.txt", "pyproject.toml"),
    ".gitignore",  # hatchling adds it: a build from the sdist leaves out what a build from the repository does
}


def main() -> None:
    """Build, check, and say what stands in dist/."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        build(Path(first))
        build(Path(second))
        refuse(differing(Path(first), Path(second)))
        wheel, sdist = built(Path(first))
        refuse(wrong_in_wheel(wheel, tracked()), wrong_in_sdist(sdist, tracked()), wrong_about_version(wheel))
        subprocess.run([sys.executable, "-m", "twine", "check", "--strict", wheel, sdist], check=True)
        shutil.rmtree(DIST, ignore_errors=True)
        shutil.copytree(first, DIST)
    for file in built(DIST):
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size:,} bytes, sha256 {digest(file)}")


def build(folder: Path) -> None:
    """The sdist, and the wheel from it; the time in them is that of the last commit, not of the build."""
    when = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    dated = {**os.environ, "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", when.stdout.strip())}
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(command, check=True, env=dated, stdout=subprocess.DEVNULL)
    pack(built(folder)[0])


def pack(wheel: Path) -> None:
    """Pack the files of a wheel anew, as small as deflate allows: 3 % less than zlib."""
    from zopfli.zlib import compress

    class Compressor:
        def __init__(self, *_: object) -> None:
            self.written = b""

        def compress(self, written: bytes) -> bytes:
            self.written += written
            return b""

        def flush(self) -> bytes:
            return compress(self.written, numiterations=5)[
                2:-4
            ]  # without the header and the sum of zlib's format

    smaller = wheel.with_suffix(".smaller")
    with (
        zipfile.ZipFile(wheel) as old,
        mock.patch.object(zipfile, "_get_compressor", Compressor),
        zipfile.ZipFile(smaller, "w") as new,
    ):
        for about in old.infolist():
            new.writestr(about, old.read(about))
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(smaller) as new:
        refuse(
            f"{name} was not packed as it is" for name in old.namelist() if old.read(name) != new.read(name)
        )
    smaller.replace(wheel)


def built(folder: Path) -> tuple[Path, Path]:
    """The wheel and the sdist in a folder."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def digest(file: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def differing(first: Path, second: Path) -> list[str]:
    """The files of two builds that are not equal."""
    pairs = zip(built(first), built(second), strict=True)
    return [f"two builds of {one.name} differ" for one, other in pairs if digest(one) != digest(other)]


def tracked() -> set[str]:
    """What the repository has in src/, as paths below it."""
    listed = subprocess.run(
        ["git", "ls-files", "src/tokenry"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {line.removeprefix("src/") for line in listed.stdout.splitlines()}


def wrong_in_wheel(wheel: Path, expected: set[str]) -> list[str]:
    """What a wheel lacks, what should not be in it, and whether it is too large."""
    found = set(zipfile.ZipFile(wheel).namelist())
    about = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
    size = wheel.stat().st_size
    too_large = [f"{wheel.name} has {size:,} bytes, more than {MOST_BYTES:,}"] * (size > MOST_BYTES)
    return too_large + unlike(wheel.name, found, expected | {f"{about}/{name}" for name in ABOUT_A_WHEEL})


def wrong_in_sdist(sdist: Path, expected: set[str]) -> list[str]:
    """What an sdist lacks, and what should not be in it."""
    with tarfile.open(sdist) as opened:
        found = {name.partition("/")[2] for name in opened.getnames()}
    return unlike(sdist.name, found, {f"src/{name}" for name in expected} | BESIDE_THE_SOURCE)


def unlike(name: str, found: set[str], expected: set[str]) -> list[str]:
    """The files that are missing, and those that nobody expected."""
    return [
        *(f"{name} lacks {path}" for path in sorted(expected - found)),
        *(f"{name} should not hold {path}" for path in sorted(found - expected)),
    ]


def wrong_about_version(wheel: Path) -> list[str]:
    """Whether the changelog has a section for the version of the wheel."""
    version = wheel.name.split("-")[1]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    named = re.search(rf"^## \[?{re.escape(version)}\b", changes, re.M)
    return [] if named else [f"CHANGELOG.md has no section for {version}"]


def refuse(*lists: Iterable[str]) -> None:
    """End the program, with everything that is wrong."""
    wrong = [sentence for found in lists for sentence in found]
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
