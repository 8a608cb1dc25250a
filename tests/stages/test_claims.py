"""Claims: what rows make of one, what is wrong in claims.yaml, and that the committed tables are those of the rows."""

from __future__ import annotations

import csv
import json
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

from threeshnet.errors import ConfigError, DataError
from threeshnet.fusion.spatial import PlaceEncoder
from threeshnet.metrics.comparisons import difference
from threeshnet.reports.claims import claims_table, parse_claims, published_table
from threeshnet.reports.reporting import CLAIMS, PUBLISHED, README, RESULTS, comparison_of
from threeshnet.reports.study_prose import value_of
from threeshnet.reports.study_report import Comparison
from threeshnet.studies.by_photo import BY_PHOTO
from threeshnet.studies.columns import FIXED, Row, read_rows
from threeshnet.studies.study import load_study

from ..scripts import loaded

KINDS = ("fresh", "trained")
EXPERIMENTS = Path(__file__).parents[2] / "experiments"
KNOWN = {"activation": ["sigmoid", "softmax"], "pooling": ["mean"]}
COMPARISON = Comparison({"activation": ["sigmoid", "softmax"]}, {"activation": "sigmoid"})
SIX = ["58.3", "85.3", "92.3", "42.4", "72.7", "83.2"]
CLAIM: dict[str, Any] = {"claim": "Sigmoid is better", "source": "a paper"}


def rows(level: str, numbers: list[float]) -> list[Row]:
    known = dict.fromkeys(FIXED, "1") | {"experiment": "region_demo", "setting": "demo"}
    return [known | {"activation": level, "seed": str(seed), "rsum": str(rsum)} for seed, rsum in enumerate(numbers)]


def line(softmax: list[float], expected: str = "lower") -> list[str]:
    tests = [{"study": "activation", "level": "softmax", "expected": expected}]
    studies = {"activation": (rows("sigmoid", [200.0, 210.0, 220.0]) + rows("softmax", softmax), COMPARISON)}
    found = claims_table(parse_claims([CLAIM | {"tests": tests}], KNOWN), studies)
    return [cell.strip() for cell in found.splitlines()[2].strip("|").split("|")]


def test_a_claim_holds_when_the_interval_lies_on_its_side_of_zero() -> None:
    claim, source, by, effect, wider, verdict = line([189.0, 200.0, 211.0])  # 10 lower on average, by 9 to 11
    assert (claim, source, wider, verdict) == ("Sigmoid is better", "a paper", "–", "holds for these photos")
    assert by == "[activation](activation/README.md), `activation=softmax` lower, region_demo, setting `demo`, 3 seeds"
    assert effect == "-10.0 [-12.5, -7.5]"  # t(2 degrees of freedom) = 4.303, standard error 0.577
    assert line([189.0, 200.0, 211.0], "higher")[5] == "the other way round for these photos"
    assert line([150.0, 210.0, 230.0])[5] == "no difference shown"
    assert line([150.0])[3:] == ["–", "–", "fewer than two seeds of both"]


def test_a_level_is_compared_with_another_than_the_baseline() -> None:
    test = {
        "study": "activation",
        "level": "sigmoid",
        "against": "softmax",
        "expected": "higher",
        "note": "seen before",
    }
    studies = {
        "activation": (rows("sigmoid", [200.0, 210.0, 220.0]) + rows("softmax", [189.0, 200.0, 211.0]), COMPARISON)
    }
    found = claims_table(parse_claims([CLAIM | {"tests": [test]}], KNOWN), studies)
    assert "`activation=sigmoid` higher than `activation=softmax` (seen before), region_demo" in found
    assert "| +10.0 [+7.5, +12.5] | – | holds for these photos |" in found


def test_what_was_not_run_says_so_and_how() -> None:
    tests = [{"study": "pooling", "level": "mean", "expected": "lower"}]
    table = claims_table(parse_claims([CLAIM | {"tests": tests}], KNOWN), {})
    assert table.splitlines()[2].endswith("| – | – | not run yet: `make sweep STUDY=pooling EXP=<experiment>` |")
    see = {"by": "there", "effect": "some", "verdict": "holds"}
    assert claims_table(parse_claims([CLAIM | {"see": see}], KNOWN), {}).endswith("| there | some | – | holds |")


def test_what_models_of_the_demo_tell_apart_is_what_the_rows_say() -> None:
    with (EXPERIMENTS / "parts/told_apart.csv").open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    prose = " ".join((EXPERIMENTS / "parts" / README).read_text(encoding="utf-8").split())
    ends = [(min(found), max(found)) for tag in ("what", "where", "both") if (found := [float(r[tag]) for r in rows])]
    (what, where, both) = (f"{low} to {high}%" for low, high in ends)
    assert f"Of {len(rows)} models on the GPU" in prose
    assert f"{what} of the answers are right where twins differ in what is there, {where} where they differ" in prose
    assert f"and {both} where two things have changed places" in prose


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
    recalls = dict.fromkeys(("i2t", "t2i"), {"R@1": 1.0, "R@5": 2.0, "R@10": 3.0})
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


def test_how_much_of_the_map_is_where_is_what_the_rows_say() -> None:
    with (EXPERIMENTS / "robustness/places.csv").open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    prose = " ".join((EXPERIMENTS / "robustness" / README).read_text(encoding="utf-8").split())
    shares = {kind: [float(row["percent_by_position"]) for row in rows if row["weights"] == kind] for kind in KINDS}
    fresh, trained = (f"{min(found):.1f} to {max(found):.1f}%" for found in shares.values())
    assert len(rows) == 6
    assert f"{fresh} (the median channel) is by position with fresh weights, and {trained} after training" in prose


def test_what_guidance_is_good_for_in_the_demo_is_what_the_rows_say() -> None:
    with (EXPERIMENTS / "parts/told_apart_maximum.csv").open(encoding="utf-8", newline="") as opened:
        found = {row["job"]: row for row in csv.DictReader(opened)}
    prose = " ".join((EXPERIMENTS / "parts" / README).read_text(encoding="utf-8").split())
    what = {
        level: [float(found[f"without={level},seed={seed}"]["what"]) for seed in "012"]
        for level in ("nothing", "guidance", "VSpM")
    }

    def more(other: str) -> str:
        apart = difference(what["nothing"], what[other], paired=True)
        return f"{apart.value:.1f} [{apart.interval.low:.1f}, {apart.interval.high:.1f}]"

    means = {level: f"{sum(values) / 3:.1f}%" for level, values in what.items()}
    assert f"choose right in {means['nothing']} of the cases, those without guidance in {means['guidance']}" in prose
    assert (
        f"{more('guidance')} more over three seeds; without VSpM alone it is {means['VSpM']}, {more('VSpM')} less"
        in prose
    )
    front = " ".join((EXPERIMENTS.parent / README).read_text(encoding="utf-8").split())
    assert (
        f"in *what* in {means['nothing']} of the cases, where a model without guidance does in {means['guidance']}"
        in front
    )
    where = [float(row["where"]) for row in found.values()]
    assert f"On *where* all nine stay at {min(where)} to {max(where)}%" in prose


def test_what_changed_segmentations_do_to_answers_in_the_demo_is_what_the_rows_say() -> None:
    with (EXPERIMENTS / "robustness/told_apart.csv").open(encoding="utf-8", newline="") as opened:
        found = {row["job"]: row for row in csv.DictReader(opened)}
    prose = " ".join((EXPERIMENTS / "robustness" / README).read_text(encoding="utf-8").split())

    def shares(seen: str, tag: str = "what") -> str:
        return "{}, {} and {}%".format(*(found[f"guidance=guided,seen={seen},seed={seed}"][tag] for seed in "012"))

    said = f"models answer {shares('as_it_is')} (chance is 50), with another photo's segmentation "
    assert f"{said}{shares('swap_segmentation')}, with a shuffled map {shares('shuffle_map')}" in prose
    assert f"they answer {shares('as_it_is', 'where')}, like a coin" in prose


def test_what_a_shuffled_map_costs_other_places_is_what_the_rows_say() -> None:
    with (EXPERIMENTS / "robustness/shuffled_options.csv").open(encoding="utf-8", newline="") as opened:
        cost = {row["option"]: float(row["rsum"]) - float(row["rsum_as_it_is"]) for row in csv.DictReader(opened)}
    prose = " ".join((EXPERIMENTS / "robustness" / README).read_text(encoding="utf-8").split())
    said = (
        "its rsum changes by {both_places:.1f}, with rows and columns alone by {rows_columns:.1f}, with class vectors"
    )
    assert f"{said} alone by {{embedded:.1f}} (seed 0".format(**cost) in prose


PROXY, FULL = "grid_flickr8k/flickr8k_proxy", "grid_flickr8k/flickr8k_yardstick_gpu"
ON_CPUS = "grid_flickr8k/flickr8k_yardstick"
WAYS = ("", "_in_views", "_corrected", "_in_views_corrected")


@pytest.mark.parametrize(
    ("name", "keys", "said"),
    [
        (
            "robustness",
            [f"{PROXY}, guided+swap_segmentation, rsum, difference"],
            "another photo's segmentation costs it {:.0f} rsum",
        ),
        (
            "parts",
            [f"{PROXY}{machine}, guidance, rsum, difference" for machine in ("", "_gpu")],
            "trained without it has {:.1f} rsum less (two CPU cores) and {:.1f} less (H100)",
        ),
        (
            "transfer",
            [f"{PROXY}, unguided+elsewhere, rsum, difference"],
            "Carried over to the 79 photos of COCO that were at hand it has {:.0f} rsum less",
        ),
        *(
            ("recipe", [f"{ON_CPUS}, {recipe}{way}, rsum, {of}" for way in WAYS for of in ("mean", "deviation")], said)
            for recipe, said in (
                ("official", "`, the paper's | " + " | ".join(["{:.1f} ± {:.1f}"] * 4) + " |"),
                ("recommended", " training photo | " + "{:.1f} ± {:.1f} | " * 3 + "**{:.1f} ± {:.1f}** |"),
            )
        ),
        *(
            ("recipe", [f"{ON_CPUS}, {pair}, rsum, {end}" for end in ("difference", "low", "high")], said)
            for pair, said in (
                ("recommended", "`recommended` is {:.1f} [{:.1f}, {:.1f}] above `official` as it is"),
                (f"recommended{WAYS[3]} less official{WAYS[3]}", "{:.1f} [{:.1f}, {:.1f}] in views and corrected"),
            )
        ),
        (
            "recipe",
            [f"{FULL}, {recipe}, rsum{of}" for recipe in ("short", "official") for of in ("", ", deviation")],
            "`recipe=short`, which has {:.1f} ± {:.1f} on an H100, where `official` has {:.1f} ± {:.1f} (",
        ),
    ],
)
def test_the_front_page_says_what_the_rows_say(name: str, keys: list[str], said: str) -> None:
    """What is lost is told without its sign."""
    rows = read_rows(EXPERIMENTS / name / RESULTS)
    numbers = [abs(value_of(key, rows, comparison_of(load_study(name), rows))) for key in keys]
    assert said.format(*numbers) in " ".join((EXPERIMENTS.parent / README).read_text(encoding="utf-8").split())


def test_what_is_above_the_yardstick_is_the_mean_less_it() -> None:
    """The columns of the recipes' README that no mark holds: seeds, and what they have above the authors' one run."""
    study, rows = load_study("recipe"), read_rows(EXPERIMENTS / "recipe" / RESULTS)
    (reference,) = study.reference.values()
    lines = (EXPERIMENTS / "recipe" / README).read_text(encoding="utf-8").splitlines()
    ours = {line: re.search(r"value: grid_flickr8k/([^,]*), ([^,]*), rsum -->", line) for line in lines}
    ours = {line: key for line, key in ours.items() if line.startswith("| `")}
    assert len(ours) == 12
    for line, key in ours.items():
        assert key is not None
        found = [float(row["rsum"]) for row in rows if (row["setting"], row["recipe"]) == key.groups()]
        apart = statistics.fmean(found) - reference
        half = stats.t.ppf(0.975, len(found) - 1) * statistics.stdev(found) / len(found) ** 0.5
        assert f"| {apart:+.1f} [{apart - half:+.1f}, {apart + half:+.1f}] |" in line
        assert f"| {len(found)} |" in line


@pytest.mark.parametrize(
    ("name", "pairs", "verdict"),
    [("parts", 3, "no difference shown"), ("options", 4, "difference"), ("recipe", 4, "difference")],
)
def test_what_photos_say_of_each_pair_of_models_stands_beside_what_seeds_say(
    name: str, pairs: int, verdict: str
) -> None:
    prose = " ".join((EXPERIMENTS / name / README).read_text(encoding="utf-8").split())
    files = sorted((EXPERIMENTS / name / "by_photos").glob("*/comparison.json"))
    assert len(files) == pairs
    for file in files:
        found = json.loads(file.read_text(encoding="utf-8"))["recalls"]["rsum"]
        low, high = found["interval"]
        assert f"[{low:.1f}, {high:.1f}]" in prose
        assert found["verdict"] == verdict  # as the prose says of each


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "give `tests`, or `see`"),
        ({"source": ""}, "source is missing"),
        ({"see": {"by": "there"}}, "`see` says by, effect, verdict"),
        ({"test": []}, "key='test' does not exist; there are: claim, source, tests, see"),
        ({"tests": [{"study": "activation"}]}, "a test says study, level, expected"),
        (
            {"tests": [{"study": "pooling", "level": "mean", "against": "median", "expected": "lower"}]},
            "level of pooling='median' does not exist",
        ),
        ({"tests": [{"study": "fusion", "level": "a", "expected": "lower"}]}, "study='fusion' does not exist"),
        ({"tests": [{"study": "pooling", "level": "max", "expected": "lower"}]}, "level of pooling='max'"),
        ({"tests": [{"study": "pooling", "level": "mean", "expected": "less"}]}, "there are: higher, lower"),
    ],
)
def test_wrong_claims_say_where(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_claims([CLAIM | change], KNOWN)
    assert said in str(error.value)
    assert "experiments/claims.yaml" in str(error.value)


def test_a_published_number_keeps_its_status() -> None:
    with (EXPERIMENTS / PUBLISHED).open(newline="") as opened:
        published = list(csv.DictReader(opened))
    assert {row["status"] for row in published} == {"seen", "recalled"}
    assert all(row["source"] for row in published)
    text = published_table(published)
    headings = re.findall(r"^\*\*(.*)\.\*\*$", text, flags=re.MULTILINE)
    assert headings == ["coco, `five_fold_1k`", "coco, `full`", "f30k, `full`"]
    assert sum(line.startswith("|") for line in text.splitlines()) == len(published) + 2 * len(headings)


def shown(**numbers: str) -> list[str]:
    """The cells of a published row, and the lines under the table."""
    row = dict.fromkeys(("model", "features", "data", "protocol", "setting"), "x") | {"source": "y", "status": "seen"}
    recalls = dict(zip(("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10"), SIX, strict=True))
    lines = published_table([row | recalls | {"rsum": "434.3"} | numbers]).splitlines()
    assert lines[:2] == ["**x, `x`.**", ""]
    return [*(cell.strip() for cell in lines[4].strip("|").split("|"))][3:11] + lines[5:]


def test_published_sums_are_recomputed_or_marked() -> None:
    assert shown() == [*SIX, "434.2", "seen"]  # the source says 434.3
    note = "† Taken over as it was read: without all six recalls the sum cannot be recomputed."
    assert shown(t2i_r5="") == [*SIX[:4], "", SIX[5], "434.3 †", "seen", "", note]


def test_what_was_only_recalled_shows_no_number() -> None:
    assert shown(status="recalled") == ["–"] * 7 + ["recalled"]


def test_all_that_is_committed_is_what_its_rows_make(root: Path, tmp_path: Path, command) -> None:
    """`make report` in a fresh clone changes nothing."""
    for file in (root / "experiments").rglob("*"):
        if file.name in (CLAIMS, PUBLISHED, README, RESULTS, BY_PHOTO, "figure.png"):
            copy = tmp_path / file.relative_to(root / "experiments")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    ended = command("report", f"into={tmp_path}")
    assert ended.code == 0, ended.err
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert "numbers of the prose compared" in ended.out
