"""The model card and the row that an evaluation leaves: what they say, and that a stranger stays in its cell."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from threeshnet.evaluation.model_card import OF_SCORING, OF_TRAINING, model_card, result_row

ABOUT = {name: f"the {name}" for name in OF_TRAINING} | {"guidance": [], "parts": ["local", "fused"], "seed": 3}
SIDE = {"R@1": 10.04, "R@5": 20.0, "R@10": 30.0, "median_rank": 7.0, "mean_rank": 12.345}
METRICS: dict[str, Any] = {"i2t": SIDE, "t2i": SIDE | {"R@1": 50.0}, "rsum": 160.04, "checkpoint": "abc"}
CARD, ROW = "MODEL_CARD.md", "result.csv"
CHANGES = ("perturb", "scored_views", "correction", "bank")
METRICS |= {name: f"scored {name}" for name in OF_SCORING if name not in CHANGES} | {"trained": [ABOUT]}


def cells(text: str) -> dict[str, str]:
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if "|" in line]
    return {line[0]: " | ".join(line[1:]) for line in lines}


def test_a_card_says_what_was_scored_and_what_was_trained() -> None:
    text = model_card(METRICS)
    assert text.startswith("# Model card: the experiment\n")
    scores, training = text.split("## The model")
    found = cells(scores)
    assert found["i2t"] == "10.0 | 20.0 | 30.0 | 7.0 | 12.3"
    assert (found["rsum"], found["protocol"], found["machine"]) == ("160.0", "scored protocol", "scored machine")
    assert "perturb" not in found
    found = cells(training)
    assert {name.replace("_", " ") for name in OF_TRAINING} <= set(found)
    assert (found["guidance"], found["parts"], found["seed"]) == ("none", "local fused", "3")
    assert found["checkpoint, begin of its sha256"] == "abc"


def test_an_ensemble_has_a_table_a_model_and_one_row() -> None:
    other = ABOUT | {"seed": 4, "experiment": "grid_demo"}
    metrics = METRICS | {"trained": [ABOUT, other], "checkpoint": ["abc", "def"]}
    text = model_card(metrics)
    assert text.startswith("# Model card: the experiment, grid_demo\n")
    assert cells(text.split("## Model 2 of 2")[1])["checkpoint, begin of its sha256"] == "def"
    assert "- One number of one ensemble of 2 models: seeds differ" in text
    row = next(csv.DictReader(result_row(metrics).splitlines()))
    assert (row["seed"], row["checkpoint"], row["recipe"]) == ("3 + 4", "abc def", "the recipe")
    assert (row["i2t_r1"], row["t2i_r1"], row["rsum"]) == ("10.04", "50", "160.04")


def test_a_checkpoint_that_says_nothing_is_not_known() -> None:
    metrics = {name: value for name, value in METRICS.items() if name != "trained"}
    assert model_card(metrics).startswith("# Model card: not known")
    assert next(csv.DictReader(result_row(metrics).splitlines()))["trained_on"] == "not known"


def test_what_a_stranger_says_stays_in_its_cell() -> None:
    evil = "a | b\n# Title <script>" + "x" * 9_000
    text = model_card(METRICS | {"trained": [ABOUT | {"experiment": evil}]})
    assert text.splitlines()[0].startswith("# Model card: a \\| b # Title &lt;script>xxx")
    assert all(len(line) < 3_000 for line in text.splitlines())


def test_every_evaluation_leaves_both(demo_run: Path, evaluated, tmp_path: Path) -> None:
    for out in (demo_run, evaluated(tmp_path / "scored")):
        metrics = json.loads((out / "metrics.json").read_text())
        assert (metrics["seed"], metrics["trained"][0]["seed"], metrics["data"]) == (3, 3, "demo")
        assert (out / CARD).read_text() == model_card(metrics)
        row = next(csv.DictReader((out / ROW).open(newline="")))
        expected = {"experiment": "region_demo", "recipe": "official", "seed": "3", "trained_on": "demo"}
        assert {name: row[name] for name in expected} == expected
        assert float(row["rsum"]) == pytest.approx(metrics["rsum"], rel=1e-5)
        assert row["selection"] == "best"
        assert "not known" not in (out / CARD).read_text()
    last = evaluated(tmp_path / "last", checkpoint="last")
    assert next(csv.DictReader((last / ROW).open(newline="")))["selection"] == "last"
