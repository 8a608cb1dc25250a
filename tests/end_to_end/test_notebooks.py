"""Every notebook runs from its first cell to its last, small, and is committed without outputs."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
SMALL = {"TRAIN": "24", "TEST": "12", "EPOCHS": "1", "EXTRACTOR": "tiny"}  # of FIRST_LOOK_…, SEARCH_… and FUSION_…


@pytest.fixture(params=NOTEBOOKS, ids=lambda file: file.stem)
def notebook(request: pytest.FixtureRequest) -> Any:
    return nbformat.read(request.param, as_version=4)


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


def test_every_cell_runs(notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for (name, value), notebooks in product(SMALL.items(), ("FIRST_LOOK", "SEARCH", "FUSION")):
        monkeypatch.setenv(f"{notebooks}_{name}", value)
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where a notebook puts its data
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output.output_type for cell in notebook.cells for output in cell.get("outputs", [])]
    assert "display_data" in shown


def test_an_ablation_is_read_beside_rows_of_other_experiments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its cells, in this process: that they run in a kernel is tested above."""
    (file,) = [file for file in NOTEBOOKS if file.stem == "reading_an_ablation"]
    head, *rows = (file.parents[1] / "experiments/activation/results.csv").read_text(encoding="utf-8").splitlines()
    ours = [row for row in rows if row.startswith("region_demo,demo,")]
    others = [
        row.replace("region_demo,demo,", "grid_flickr8k,flickr8k_proxy,").replace(",500,", ",400,") for row in ours
    ]
    (tmp_path / "results.csv").write_text("\n".join([head, *others, *ours]), encoding="utf-8")
    monkeypatch.setenv("READING_RESULTS", str(tmp_path / "results.csv"))
    cells = [cell.source for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]
    exec("\n".join(cells), {})
    plt.close("all")
    assert "split        equal in all rows" in capsys.readouterr().out


def test_no_outputs_are_committed(notebook: Any) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
