"""The notebook of docs runs on a reader's runs."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "analyze-a-run.ipynb"


@pytest.mark.filterwarnings("default")  # of Jupyter's own packages
def test_the_notebook_runs_and_draws_four_charts(reduced: Path, tmp_path: Path) -> None:
    for name, run in (("before", "b16-1"), ("after", "fp8-1")):
        shutil.copytree(reduced / "repeats" / run, tmp_path / "results" / name)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", [])]
    assert {one.output_type for one in outputs} == {"execute_result", "display_data"}
    assert sum("image/png" in one.get("data", {}) for one in outputs) == 4
    text = "\n".join(one.data["text/plain"] for one in outputs)
    assert "output_tok_s_per_gpu" in text  # the comparison
    assert "gpu_board" in text  # energy


def test_the_notebook_is_committed_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
