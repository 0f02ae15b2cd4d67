"""The notebooks are pages of the site, and run from an empty folder to their end (`make notebooks`)."""

import importlib.util
import json

import pytest

from tests import ROOT

SCRIPTS = sorted((ROOT / "docs/notebooks").glob("*.py"))
EACH = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)


@pytest.fixture(scope="module")
def notebooks():
    pytest.importorskip("jupytext", reason="needs the extra docs")
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "docs/hooks/notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_page_has_title_link_prose_and_code_in_their_order(notebooks, tmp_path):
    script = tmp_path / "one.py"
    script.write_text("# %% [markdown]\n# # Title\n#\n# Prose.\n\n# %%\n1 + 1\n")
    page = notebooks.page("one", notebooks.read(script))
    assert page == "# Title\n\n[Download the notebook](one.ipynb)\n\nProse.\n\n```python\n1 + 1\n```\n"


@EACH
def test_no_output_is_kept_and_every_link_is_a_page(notebooks, script):
    notebook = notebooks.read(script)
    assert notebook.cells[0].source.startswith("# ")
    assert not any(cell.get("outputs") for cell in notebook.cells)
    for target in [part.partition(")")[0] for part in script.read_text().split("](")[1:]]:
        assert (ROOT / "docs/notebooks" / target).resolve().is_file(), target


@pytest.mark.notebooks
@EACH
def test_a_notebook_runs(notebooks, script, tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="needs the extra notebooks")
    notebook = notebooks.read(script)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert "error" not in json.dumps(
        [cell.get("outputs") and [o.output_type for o in cell.outputs] for cell in notebook.cells]
    )
