"""Makes pages and notebooks of the percent scripts in docs/notebooks: a script is read, run and diffed like any other, and no output is kept.

A script becomes the page `notebooks/NAME`, with a link to the same as NAME.ipynb. `make notebooks` runs all of them.
"""

from pathlib import Path
from typing import Any

import jupytext
from mkdocs.structure.files import File, Files

SCRIPTS = Path(__file__).parents[1] / "notebooks"


def on_files(files: Files, config: Any) -> Files:
    """Add a page and a notebook for each script."""
    for script in sorted(SCRIPTS.glob("*.py")):
        notebook = read(script)
        files.append(
            File.generated(config, f"notebooks/{script.stem}.md", content=page(script.stem, notebook))
        )
        files.append(File.generated(config, f"notebooks/{script.stem}.ipynb", content=jupytext.writes(notebook, fmt="ipynb")))  # fmt: skip
    return files


def read(script: Path) -> Any:
    """The notebook of a script, for any Python kernel."""
    notebook = jupytext.read(script, fmt="py:percent")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return notebook


def page(name: str, notebook: Any) -> str:
    """The cells as Markdown, below the title a link to the notebook."""
    cells = [
        cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```"
        for cell in notebook.cells
    ]
    title, _, rest = cells[0].partition("\n")
    return "\n\n".join([title, f"[Download the notebook]({name}.ipynb)", rest.strip(), *cells[1:]]) + "\n"


def titles() -> dict[str, str]:
    """The title of each page, by its path."""
    return {
        f"notebooks/{script.stem}.md": read(script).cells[0].source.partition("\n")[0].removeprefix("# ")
        for script in sorted(SCRIPTS.glob("*.py"))
    }
