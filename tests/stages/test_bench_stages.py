"""Every stage of the benchmark runs in small sizes, its twin agrees with it, and its page follows its rows."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from experiments.benchmarks.naive_twin import memory
from experiments.benchmarks.stages import bench, figure, learning, made_up, stage

SMALL = made_up.SETTINGS["flickr8k"].small
ROWS = Path(bench.__file__).with_name("rows.csv")


@pytest.mark.parametrize("name", bench.STAGES)
def test_a_stage_runs_and_its_twin_agrees(name: str, tmp_path: Path) -> None:
    for file in ("README.md.j2", "budget.csv"):
        shutil.copy(ROWS.with_name(file), tmp_path)
    bench.main([name, "--quick", f"--out={tmp_path}"])
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert {row["stage"] for row in rows} == {name}
    size = next(iter(bench.STAGES[name].sizes))
    assert {row["size"] for row in rows} == {size}
    assert len(rows) == 3
    assert {"ours", "naive"} < {row["way"] for row in rows}
    assert f"| {name} | {size} | " in (tmp_path / "README.md").read_text()


def test_a_twin_that_differs_is_refused() -> None:
    case = stage.Case(1, lambda: torch.ones(3), lambda: torch.tensor([1.0, 1.0, 1.1]), lambda: None, "nothing")
    with pytest.raises(AssertionError, match=r"differ by 0\.091 of the largest"):
        stage.check(case, lowered=False)
    stage.check(case._replace(tolerance=0.1), lowered=False)
    with pytest.raises(AssertionError, match="differ by nan"):
        stage.check(case._replace(naive=lambda: torch.tensor([1.0, 1.0, torch.nan])), lowered=False)


def test_gradients_of_the_twin_agree_in_a_step() -> None:
    norms = []
    for step in learning.steps(made_up.models(SMALL), made_up.batch(SMALL)):
        with made_up.without_dropout(step.model):
            step.loss().backward()
        gradients = [parameter.grad for parameter in step.model.parameters() if parameter.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())
    assert norms[0] == pytest.approx(norms[1], rel=2e-3)


def test_weights_without_a_place_in_the_twin_are_refused() -> None:
    model, naive, _ = made_up.models(SMALL)
    model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(AssertionError, match="no place in the twin"):
        naive.take_weights(model)


def test_the_floor_does_the_products_and_nothing_else() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    layers = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Conv1d(3, 5, 2))
    counts = []
    work = lambda: layers(torch.randn(2, 3, 8)).sum().backward()  # noqa: E731
    for each in (work, stage.products(work)):
        with FlopCounterMode(display=False) as counter:
            each()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_peak_memory_is_that_of_each_model_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "in_own_process", lambda _, *words: {"--only=ours": 1, "--only=naive": 2}[words[0]])
    memory.main(["--small", f"--out={tmp_path / 'memory.json'}"])
    assert json.loads((tmp_path / "memory.json").read_text())["peak_memory_gb"] == {"ours": 1, "naive": 2}
    memory.main(["--small", "--only=naive"])


# ---- where the time goes


def test_bars_are_the_stages_times_how_often_they_run() -> None:
    step = {"image_training": 4, "text_training": 3, "objective": 0.5, "step": 10, "collating": 0.1}
    sizes = [(name, "coco", 64, seconds) for name, seconds in step.items()]
    sizes += [("reading", "coco", 128, 0.4), ("optimizer", "coco", 1, 0.5)]
    keys = ("stage", "size", "items", "seconds")
    facts = {"way": "ours", "precision": "float32"}
    rows = [{**dict(zip(keys, map(str, each), strict=True)), **facts} for each in sizes]
    (command,) = [each for each in figure.COMMANDS if each.setting == "coco"]
    made = figure.parts(rows, command)
    assert made["reading"] == pytest.approx(0.2)
    assert made["rest of a step"] == pytest.approx(2)
    assert sum(made.values()) == pytest.approx(10.3)
    assert figure.parts(rows[1:], command) == {}


def test_a_bar_is_drawn_where_all_stages_were_measured(tmp_path: Path) -> None:
    figure.draw([], tmp_path)
    assert not (tmp_path / "where.png").exists()
    stages = [*figure.OF_A_STEP, "step", "reading", "collating"]
    facts = {"size": "coco", "items": "1", "seconds": "1", "way": "ours", "precision": "float32"}
    figure.draw([{"stage": name} | facts for name in stages], tmp_path)
    assert (tmp_path / "where.png").read_bytes().startswith(b"\x89PNG")
    assert {row["command"] for row in csv.DictReader((tmp_path / "where.csv").open())} == {"region_coco, one step"}


def test_rows_are_of_stages_and_sizes_that_there_are_and_the_page_names_every_stage() -> None:
    page = ROWS.with_name("README.md").read_text()
    assert {(row["stage"], row["size"]) for row in csv.DictReader(ROWS.open())} <= {
        (name, size) for name, stage in bench.STAGES.items() for size in stage.sizes
    }
    assert all(f"| `{name}` | " in page for name in bench.STAGES)
