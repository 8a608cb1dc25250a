"""Claims: what rows make of one, what is wrong in claims.yaml, and that the committed tables are those of the rows."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from threeshnet.errors import ConfigError, DataError
from threeshnet.fusion.spatial import PlaceEncoder
from threeshnet.reports.claims import CLAIMS, claims_table, read_claims
from threeshnet.reports.pages import Rows, rendered
from threeshnet.reports.results import Results
from threeshnet.studies.columns import FIXED, NUMBERS, Row
from threeshnet.studies.study import load_study

from ..scripts import loaded

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
CLAIM: dict[str, Any] = {"claim": "Sigmoid is better", "source": "a paper"}
TEST = {"study": "activation", "level": "softmax", "expected": "lower"}


def rows(level: str, numbers: list[float]) -> list[Row]:
    known = dict.fromkeys(FIXED, "1") | {"experiment": "region_demo", "setting": "demo"}
    return [known | {"activation": level, "seed": str(seed), "rsum": str(rsum)} for seed, rsum in enumerate(numbers)]


def made(folder: Path, claim: dict[str, Any], softmax: list[float] | None = None) -> list[list[str]]:
    """The cells of the table that a claim becomes, with these rows of the study `activation`."""
    (folder / CLAIMS).write_text(yaml.safe_dump([CLAIM | claim]))
    found = pd.DataFrame(rows("sigmoid", [200.0, 210.0, 220.0]) + rows("softmax", softmax or []))
    results = Results({"activation": ["sigmoid", "softmax"]}, {"activation": "sigmoid"}, found)
    lines = claims_table(folder, lambda _: results, ["activation"]).splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_claim_holds_when_the_interval_lies_on_its_side_of_zero(tmp_path: Path) -> None:
    def line(softmax: list[float], expected: str = "lower") -> list[str]:
        return made(tmp_path, {"tests": [TEST | {"expected": expected}]}, softmax)[0]

    claim, source, by, effect, wider, verdict = line([189.0, 200.0, 211.0])  # 10 lower on average, by 9 to 11
    assert (claim, source, wider, verdict) == ("Sigmoid is better", "a paper", "–", "holds for these photos")
    assert by == "[activation](activation/README.md), `activation=softmax` lower, region_demo, setting `demo`, 3 seeds"
    assert effect == "-10.0 [-12.5, -7.5]"  # t(2 degrees of freedom) = 4.303, standard error 0.577
    assert line([189.0, 200.0, 211.0], "higher")[5] == "the other way round for these photos"
    assert line([150.0, 210.0, 230.0])[5] == "no difference shown"
    assert line([150.0])[3:] == ["–", "–", "fewer than two seeds of both"]


def test_a_level_is_compared_with_another_than_the_baseline(tmp_path: Path) -> None:
    test = TEST | {"level": "sigmoid", "against": "softmax", "expected": "higher", "note": "seen before"}
    (cells,) = made(tmp_path, {"tests": [test]}, [189.0, 200.0, 211.0])
    assert "`activation=sigmoid` higher than `activation=softmax` (seen before), region_demo" in cells[2]
    assert cells[3:] == ["+10.0 [+7.5, +12.5]", "–", "holds for these photos"]


def test_what_was_not_run_says_so_and_how(tmp_path: Path) -> None:
    (cells,) = made(tmp_path, {"tests": [{"study": "pooling", "level": "mean", "expected": "lower"}]})
    assert cells[3:] == ["–", "–", "not run yet: `make sweep STUDY=pooling EXP=<experiment>`"]


@pytest.mark.parametrize(("low", "verdict"), [(1.1, "holds here; barely"), (0.9, "no difference shown; barely")])
def test_the_verdict_of_a_benchmark_is_computed(tmp_path: Path, low: float, verdict: str) -> None:
    (tmp_path / "times.csv").write_text(f"images,times,low,high,scoring\n1000,1.5,{low},2,800\n")
    ratios = {"by": "there", "unit": "times", "file": "times.csv", "note": "barely"}
    (cells,) = made(tmp_path, {"ratios": ratios})
    assert cells[2:] == ["there", f"times at 1,000 images: 1.5 ({low} to 2); scoring alone 800", "–", verdict]


def test_the_variance_of_places_is_split_where_it_comes_from() -> None:
    """With one class everywhere only positions differ, and without their weights only classes do."""
    parts_of_variance = loaded(EXPERIMENTS / "robustness/places.py").parts_of_variance
    torch.manual_seed(0)
    places = PlaceEncoder(classes=5)
    maps = torch.randint(0, 5, (2, 64, 64), dtype=torch.uint8)
    mixed = parts_of_variance(places, maps)
    assert 0 < mixed["percent_by_position"] < 100
    assert parts_of_variance(places, torch.zeros_like(maps))["percent_by_position"] == pytest.approx(100)
    torch.nn.init.zeros_(places.conv.weight[:, 1:])
    assert parts_of_variance(places, maps)["percent_by_position"] == 0


def test_the_line_in_the_figure_of_the_recipes_is_a_committed_row() -> None:
    (reference,) = load_study("recipe").reference.values()
    with (EXPERIMENTS / "first_photos/authors.csv").open(encoding="utf-8", newline="") as opened:
        (row,) = [row for row in csv.DictReader(opened) if row["variant"] == "grid-full"]
    assert float(row["rsum"]) == reference


def test_runs_are_told_apart_once_each_and_nothing_else_is_taken(tmp_path: Path) -> None:
    told = loaded(EXPERIMENTS / "parts/told_apart.py")
    by_tag = {tag: {"pair_accuracy": 50.0 + number} for number, tag in enumerate(told.TAGS)}
    facts = {"study": "parts", "seed": 0, "machine": "2 CPU cores", "job_name": "a"}
    recalls = {side: {"R@1": 1.0, "R@5": 2.0, "R@10": 3.0} for side in ("i2t", "t2i")}
    scores = recalls | {"by_tag": by_tag, "rsum": 1.0, "checkpoint": "c", "commit": "d"}
    for name, metrics in (("a", scores), ("other", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "job.json").write_text(json.dumps(facts))
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "job.json").write_text(json.dumps(facts))
    (tmp_path / "b" / "metrics.json").symlink_to(tmp_path / "a" / "metrics.json")  # as of a run of another study
    (row,) = told.rows_of([tmp_path / "a", tmp_path / "b"])
    assert (row["job"], row["what"], row["where"], row["both"]) == ("a", "50.0", "51.0", "52.0")
    with pytest.raises(DataError, match="other is no finished run of the demo"):
        told.rows_of([tmp_path])
    with pytest.raises(DataError, match="no finished run in or below"):
        told.rows_of([tmp_path / "a" / "nothing"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "give either `tests` or `ratios`"),
        ({"source": None}, "Sigmoid is better: source: Input should be a valid string"),
        ({"test": []}, "Sigmoid is better: test: Extra inputs are not permitted"),
        ({"tests": [{"study": "activation"}]}, "tests.0.level: Field required"),
        ({"tests": [TEST | {"study": "pooling", "against": "median"}]}, "level of pooling='median' does not exist"),
        ({"tests": [TEST | {"study": "fusion"}]}, "study='fusion' does not exist; there are: activation"),
        ({"tests": [TEST | {"level": "max"}]}, "level of activation='max' does not exist; there are: sigmoid, softmax"),
        ({"tests": [TEST | {"expected": "less"}]}, "Input should be 'higher' or 'lower' (given: 'less')"),
    ],
)
def test_wrong_claims_say_where(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    (tmp_path / CLAIMS).write_text(yaml.safe_dump([CLAIM | change]))
    with pytest.raises(ConfigError) as error:
        read_claims(tmp_path / CLAIMS)
    assert said in str(error.value)
    assert CLAIMS in str(error.value)


def test_an_empty_file_of_claims_is_refused(tmp_path: Path) -> None:
    (tmp_path / CLAIMS).touch()
    with pytest.raises(ConfigError, match="Input should be a valid list"):
        read_claims(tmp_path / CLAIMS)


def test_a_published_number_keeps_its_status() -> None:
    """Sums are recomputed, or marked; a row that was only recalled shows no number."""
    with (EXPERIMENTS / "published_results.csv").open(newline="") as opened:
        published = list(csv.DictReader(opened))
    assert {row["status"] for row in published} == {"seen", "recalled"}
    page = (EXPERIMENTS / "README.md").read_text(encoding="utf-8").split("## What others report")[1]
    shown = [line.strip("| ").split(" | ") for line in page.splitlines() if line.endswith(" |")]
    assert len(shown) == len(published) + 2 * 3
    for row in published:
        recalls = [row[name] for name in NUMBERS if name != "rsum"]
        total = f"{sum(map(float, recalls)):.1f}" if all(recalls) else f"{row['rsum']} †"
        numbers = ["–"] * 7 if row["status"] == "recalled" else [*recalls, total]
        assert [row["model"], row["features"], row["setting"], *numbers, row["status"], row["source"]] in shown


def test_all_that_is_committed_is_what_its_rows_make(tmp_path: Path, command) -> None:
    """`make report` in a fresh clone changes nothing."""
    copy = Path(shutil.copytree(EXPERIMENTS, tmp_path / "experiments"))
    ended = command("report", f"into={copy}")
    assert ended.code == 0, ended.err
    made = {file.relative_to(copy): file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    assert {file: (EXPERIMENTS / file).read_bytes() for file in made} == made
    front = EXPERIMENTS.parent / "README.md"
    assert rendered(front.with_suffix(".md.j2"), Rows(EXPERIMENTS)) == front.read_text(encoding="utf-8")
    assert [file for file in EXPERIMENTS.rglob("*.md") if "<!-- value" in file.read_text(encoding="utf-8")] == []
