"""Rows of a study, its tables and figure from them alone, and numbers in the prose that must be theirs."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from threeshnet.errors import ConfigError, DataError
from threeshnet.installation import CONF
from threeshnet.reports.reporting import made_by, other_study
from threeshnet.reports.study_checks import check_rows
from threeshnet.reports.study_effects import effects
from threeshnet.reports.study_prose import check_prose, value_of
from threeshnet.reports.study_report import Comparison, tables
from threeshnet.studies.collect import collect
from threeshnet.studies.columns import Row, read_rows
from threeshnet.studies.study import load_study, parse_study

RSUM = {"sigmoid": [200.0, 210.0, 220.0], "softmax": [205.0, 216.0, 224.0]}
COMPARISON = Comparison({"activation": ["sigmoid", "softmax"]}, {"activation": "sigmoid"})


def write_run(folder: Path, level: str, seed: int, rsum: float, own: Any = None, metrics: Any = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "identity": f"{level}{seed}",
        "study": "activation",
        "job_name": folder.name,
        "factors": {"activation": level},
    }
    record |= {
        "seed": seed,
        "experiment": "region_demo",
        "setting": "demo",
        "recipe": "official",
        "machine": "2 CPU cores",
    }
    recalls = {"R@1": rsum / 6, "R@5": rsum / 6, "R@10": rsum / 6}
    found = {"data": "demo", "split": "test", "images": 500, "captions": 2500, "protocol": "full", "selection": "best"}
    found |= {"features": "region"}
    found |= {"epochs": 8, "steps": 496, "batch_size": 64, "minutes": 3.5, "checkpoint": "abc", "commit": "def"}
    found |= {"i2t": recalls, "t2i": recalls, "rsum": rsum, "resumed_at_step": 0}
    dev = {"state": "finished", "epoch": 8, "epochs": 8, "dev_rsum": 1.0, "best_dev_rsum": rsum + 9}
    contents = {
        "job": record | {"fingerprint": "data"} | (own or {}),
        "metrics": found | (metrics or {}),
        "progress": dev,
    }
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    for level, numbers in RSUM.items():
        for seed, rsum in enumerate(numbers):
            write_run(tmp_path / "runs" / f"activation={level},seed={seed}", level, seed, rsum)
    return sorted((tmp_path / "runs").iterdir())


def gathered(runs: list[Path], file: Path, **more: Any) -> list[dict[str, str]]:
    collect(runs, file, **{"factors": ["activation"], "setting": None, "replace": False} | more)
    return read_rows(file)


def test_a_row_says_where_it_comes_from(runs: list[Path], tmp_path: Path) -> None:
    rows = gathered(runs, tmp_path / "results.csv")
    assert len(rows) == 6
    row = rows[3]
    assert (row["job"], row["activation"], row["seed"], row["rsum"]) == (
        "activation=softmax,seed=0",
        "softmax",
        "0",
        "205",
    )
    facts = {"dev_rsum": "214", "batch": "64", "machine": "2 CPU cores", "fingerprint": "data", "identity": "softmax0"}
    facts |= {"i2t_r1": "34.1667", "checkpoint": "abc", "commit": "def", "minutes": "3.5", "selection": "best"}
    facts |= {"features": "region"}
    assert {name: row[name] for name in facts} == facts


def test_a_derived_row_has_the_features_of_its_models(runs: list[Path], tmp_path: Path) -> None:
    of = [{"features": "region"}, {"features": "grid"}]
    write_run(runs[0], "sigmoid", 0, 200.0, {"derived_from": ["a", "b"]}, {"features": None, "trained": of})
    assert gathered(runs[:1], tmp_path / "results.csv")[0]["features"] == "region + grid"


def test_a_factor_that_is_called_as_a_setting_keeps_its_levels(tmp_path: Path) -> None:
    """A corrected model of recipe=recommended is another level of `recipe`, though it was trained by that recipe."""
    levels = {"recommended": 300.0, "recommended_corrected": 310.0}
    for level, rsum in levels.items():
        own = {"factors": {"recipe": level}, "recipe": "recommended", "derived_from": ["recipe=recommended,seed=0"]}
        write_run(tmp_path / "runs" / f"recipe={level},seed=0", level, 0, rsum, own)
    file = tmp_path / "results.csv"
    collect(sorted((tmp_path / "runs").iterdir()), file, factors=["recipe"], setting=None, replace=False)
    rows = read_rows(file)
    assert {row["recipe"]: float(row["rsum"]) for row in rows} == levels
    assert "| recommended_corrected | 0 |" in tables(rows, Comparison({"recipe": list(levels)}, {}))


def test_rows_say_how_many_devices_trained_and_a_run_on_others_takes_no_place(tmp_path: Path) -> None:
    """Dropout's draws are other ones in another number of processes, and so are the weights."""
    run, file = tmp_path / "j", tmp_path / "results.csv"
    for devices, refused in ((None, False), (2, False), (2, False), (1, True)):
        write_run(run, "sigmoid", 0, 200.0, metrics={"devices": devices} if devices else None)
        if refused:
            with pytest.raises(ConfigError, match="the row is of a run in 2 processes, not in 1"):
                gathered([run], file)
        else:
            assert gathered([run], file)[0]["devices"] == (str(devices) if devices else "")


def test_what_is_unfinished_is_named_and_what_is_incomplete_refused(runs: list[Path], tmp_path: Path) -> None:
    (runs[0] / "metrics.json").unlink()
    write_run(runs[1], "sigmoid", 1, 1.0, metrics={"commit": "unknown", "checkpoint": None})
    file = tmp_path / "results.csv"
    with pytest.raises(DataError, match="activation=sigmoid,seed=1: does not say checkpoint, commit"):
        gathered(runs, file)
    assert len(read_rows(file)) == 4
    count, unfinished = collect(runs[:1], file, factors=["activation"], setting=None, replace=False)
    assert (count, unfinished) == (0, ["activation=sigmoid,seed=0: finished, epoch 8 of 8"])


def test_other_rows_stay_and_are_not_replaced_unasked(runs: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    before = gathered(runs, file)
    assert gathered(runs[:1], file) == before
    write_run(runs[0], "sigmoid", 0, 100.0, own={"identity": "another"})
    with pytest.raises(ConfigError, match=r"activation=sigmoid,seed=0: the row is of run sigmoid0, not another"):
        gathered(runs[:1], file)
    assert read_rows(file) == before
    assert len(gathered(runs[:1], file, setting="short")) == 7
    assert [row["rsum"] for row in gathered(runs[:1], file, replace=True) if row["identity"] == "another"] == [
        "100"
    ] * 2


def test_the_table_is_that_of_the_rows(runs: list[Path], tmp_path: Path) -> None:
    """Against statistics' and scipy's own numbers."""
    text = tables(gathered(runs, tmp_path / "results.csv"), COMPARISON)
    apart = [other - one for one, other in zip(*RSUM.values(), strict=True)]
    half = stats.t.ppf(0.975, 2) * statistics.stdev(apart) / 3**0.5
    mean = statistics.fmean(apart)
    assert f"| sigmoid | 0 1 2 | {' | '.join(['35.0 ± 1.7'] * 6)} | 210.0 ± 10.0 | baseline |" in text
    assert f"| {mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}], difference on these photos |" in text
    assert "region_demo, setting `demo`" in text


def test_the_heading_names_the_protocol_and_levels_the_perturbation(runs: list[Path], tmp_path: Path) -> None:
    write_run(runs[0], "sigmoid", 0, 200.0, {"derived_from": ["a"]}, {"perturb": "shuffle_map"})
    rows = gathered(runs[:2], tmp_path / "results.csv")
    assert {row["protocol"] for row in rows} == {"full", "full, perturbed: shuffle_map"}
    assert "; protocol full; selection" in tables(rows, COMPARISON)


def test_experiments_stand_apart_and_seeds_are_paired(runs: list[Path], tmp_path: Path) -> None:
    write_run(tmp_path / "other" / "j", "softmax", 5, 600.0, own={"experiment": "grid_demo"})
    gathered(runs[:4], tmp_path / "results.csv")  # softmax with seed 0 alone
    text = tables(gathered([tmp_path / "other" / "j"], tmp_path / "results.csv"), COMPARISON)
    assert text.index("grid_demo") < text.index("region_demo")
    assert "| 600.0 | – |" in text
    assert "| 205.0 | – |" in text, "one seed in common says nothing of chance"


def test_factors_of_the_command_line_are_compared_within_their_levels(tmp_path: Path) -> None:
    for dim in ("8", "16"):
        for level, numbers in RSUM.items():
            for seed, rsum in enumerate(numbers):
                folder = tmp_path / f"activation={level},dim={dim},seed={seed}"
                write_run(folder, level, seed, rsum + int(dim), own={"factors": {"activation": level, "dim": dim}})
    rows = gathered(sorted(tmp_path.iterdir()), tmp_path / "results.csv")
    text = tables(rows, Comparison({**COMPARISON.factors, "dim": []}, COMPARISON.baseline))
    assert text.count("baseline |") == 2 + 1  # and the header
    assert text.count("+5.0 [") == 2


def test_what_a_level_is_worth_stands_together_for_all_settings(runs: list[Path], tmp_path: Path) -> None:
    for level in RSUM:
        write_run(tmp_path / "long" / level, level, 0, 300.0 + len(level), own={"setting": "long"})
    write_run(tmp_path / "long" / "alone", "tanh", 1, 300.0, own={"setting": "long"})  # no baseline with its seed
    rows = gathered([*runs, *sorted((tmp_path / "long").iterdir())], tmp_path / "results.csv")
    comparison = Comparison({"activation": ["sigmoid", "none", "softmax"]}, COMPARISON.baseline)
    made = {"activation": {"softmax": "activation=softmax"}}
    lines = effects(rows, comparison, made, {}).splitlines()[2:]
    gone = effects(rows, comparison, made, {"activation": {"softmax": "abc"}}).splitlines()[2:]
    assert gone[1:3] == [
        line.replace("softmax` |", "softmax` (removed; last in commit `abc`) |") for line in lines[1:3]
    ]
    cells = tables(rows, comparison).split("| softmax | 0 1 2 |")[1].splitlines()[0].split(" | ")[7]
    found, said = cells.removesuffix(" |").split(", difference")
    assert lines == [
        "| none | – | – | – | – | – | – | no row |",
        f"| softmax | `activation=softmax` | `demo` | 210.0 | 0 1 2 | {found} | – | difference{said} |",
        "| softmax | `activation=softmax` | `long` | 307.0 | 0 | +0.0 | – | one seed |",
        "| tanh | – | `long` | – | 1 | – | – | no baseline with its seeds |",
    ]
    more = tmp_path / "more" / "j"
    write_run(more, "softmax", 7, 1.0, own={"experiment": "grid_demo"})
    write_run(tmp_path / "more" / "k", "sigmoid", 7, 3.0, own={"experiment": "grid_demo"})
    rows = gathered([more, tmp_path / "more" / "k"], tmp_path / "results.csv")
    assert "| grid_demo, `demo` | 3.0 | 7 | -2.0 | – | one seed |" in effects(rows, comparison, {"activation": {}}, {})


def test_what_makes_a_level_is_what_runs_it() -> None:
    made = made_by(load_study("options"))["option"]
    assert (made["none"], made["infonce_soft"]) == ("", "objective=infonce objective.temperature=0.1")
    scored = "views=[1,2,3] correction=inverted_softmax bank=train"
    assert made["views_always_inverted_softmax"] == f"augment=views {scored}"
    assert made_by(load_study("features"))["features"]["late_ensemble"] == "ensemble of region and grid"
    of = {"factor": "f", "of": ["a", "b"], "protocol": "ensemble", "views": [1]}
    study = {"title": "t", "question": "q", "factors": {"f": ["a", "b"]}, "baseline": {"f": "a"}}
    assert made_by(parse_study("s", study | {"derived": {"c": of}}))["f"]["c"] == "ensemble of a and b views=[1]"
    with pytest.raises(ConfigError, match="derived c: of is missing"):
        parse_study("s", study | {"derived": {"c": {"factor": "f", "views": [1]}}})


def test_a_seed_that_stands_twice_is_refused(runs: list[Path], tmp_path: Path) -> None:
    rows = gathered(runs, tmp_path / "results.csv")
    with pytest.raises(DataError, match="seeds 0 0 1 2, one of them twice"):
        tables([*rows, rows[0]], COMPARISON)


@pytest.mark.parametrize(
    ("seeds", "change", "said"),
    [
        ((0,), {"images": "50"}, "softmax: seeds of images 50 and 500"),
        ((0, 1, 2), {"images": "50"}, "softmax against sigmoid: images 50 and 500"),
        ((0, 1, 2), {"fingerprint": "others"}, "softmax against sigmoid: fingerprint data and others"),
        ((0, 1, 2), {"epochs": "9"}, "softmax against sigmoid: epochs 8 and 9"),
        ((0, 1, 2), {"selection": "last"}, "softmax against sigmoid: selection best and last"),
        ((1,), {"batch": "32"}, "softmax: seeds of batch 32 and 64"),
        (
            (0, 1, 2),
            {"protocol": "five_fold_1k"},
            "region_demo/demo: gallery folds of 1,000 and the whole split",
        ),
        ((1,), {"protocol": "five_fold_1k"}, "softmax: seeds of protocol five_fold_1k and full"),
        ((1,), {"rsum": "217"}, "activation=softmax,seed=1: rsum=217, and its six recalls sum up to 216.00"),
    ],
)
def test_rows_of_other_questions_are_refused(
    runs: list[Path], tmp_path: Path, seeds: tuple[int, ...], change: dict[str, str], said: str
) -> None:
    rows = gathered(runs, tmp_path / "results.csv")
    check_rows(rows, COMPARISON)
    changed = [row | change if row["activation"] == "softmax" and int(row["seed"]) in seeds else row for row in rows]
    with pytest.raises(DataError) as error:
        check_rows(changed, COMPARISON)
    assert said in str(error.value)


def test_a_factor_may_change_the_batch_and_a_correction_the_protocol(runs: list[Path], tmp_path: Path) -> None:
    rows = gathered(runs, tmp_path / "results.csv")
    other = {"batch": "32", "protocol": "full, csls by train", "epochs": "", "derived_from": "activation=sigmoid"}
    check_rows([row | other if row["activation"] == "softmax" else row for row in rows], COMPARISON)


@pytest.mark.parametrize(
    "mark",
    [
        "**5.0**<!-- value: region_demo, softmax, rsum, difference -->",
        "5.0 rsum<!-- value: region_demo, softmax, rsum, difference -->",
        "5.0<!--value: region_demo, softmax, rsum, difference-->",
        "5.0<!-- value region_demo, softmax, rsum, difference -->",
    ],
)
def test_a_mark_that_reads_no_number_is_refused(runs: list[Path], tmp_path: Path, mark: str) -> None:
    with pytest.raises(DataError, match="a number stands right before its mark"):
        check_prose(f"Softmax gains {mark}.", gathered(runs, tmp_path / "results.csv"), COMPARISON)


PROSE = "Softmax gains 5.0<!-- value: region_demo, softmax, rsum, difference -->: "
PROSE += "sigmoid has {}<!-- value: region_demo, sigmoid, rsum -->."


@pytest.mark.parametrize(("number", "right"), [("210.0", True), ("210", True), ("209.9", False), ("+210.0", True)])
def test_numbers_of_the_prose_are_compared(runs: list[Path], tmp_path: Path, number: str, right: bool) -> None:
    rows = gathered(runs, tmp_path / "results.csv")
    if right:
        assert check_prose(PROSE.format(number), rows, COMPARISON) == 2
        return
    with pytest.raises(DataError, match=r"209\.9, `region_demo, sigmoid, rsum`: the rows say 210\.0"):
        check_prose(PROSE.format(number), rows, COMPARISON)


def test_a_mark_may_name_another_study(runs: list[Path], tmp_path: Path) -> None:
    rows = gathered(runs, tmp_path / "results.csv")
    better = [row | {"rsum": str(float(row["rsum"]) + 1.0)} for row in rows]
    asked: list[str] = []

    def other(study: str) -> tuple[list[Row], Comparison]:
        asked.append(study)
        return better, COMPARISON

    text = "Here 210.0<!-- value: region_demo, sigmoid, rsum -->, "
    text += "there {}<!-- value: parts: region_demo, sigmoid, rsum -->."
    assert check_prose(text.format("211.0"), rows, COMPARISON, other) == 2
    assert asked == ["parts"]
    with pytest.raises(DataError, match=r"210\.0, `parts: region_demo, sigmoid, rsum`: the rows say 211\.0"):
        check_prose(text.format("210.0"), rows, COMPARISON, other)
    with pytest.raises(DataError, match="the rows of 'parts' are not at hand"):
        check_prose(text.format("211.0"), rows, COMPARISON)


def test_rows_of_another_study_are_found_beside_it_or_missed() -> None:
    rows, comparison = other_study("recipe", CONF.parent / "experiments")
    assert {row["recipe"] for row in rows} >= {"official", "short"}
    assert comparison.by_photo
    with pytest.raises(DataError, match=r"no study 'recipes' with rows in .*; there are: .*parts, pooling, recipe"):
        other_study("recipes", CONF.parent / "experiments")
    with pytest.raises(DataError, match="there are: none"):
        other_study("recipe", CONF)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("region_demo, sigmoid", "write [study: ]experiment"),
        ("grid_demo, sigmoid, rsum", "0 settings of 'grid_demo'"),
        ("region_demo, tanh, rsum", "no rows of 'tanh'"),
        ("region_demo, softmax, rsun", "no column 'rsun'"),
        ("region_demo, softmax, rsum, median", "no statistic 'median'"),
        ("region_demo, softmax less tanh, rsum", "no rows of 'tanh'"),
        ("region_demo, softmax, rsum, seed 7", "no row of seed 7; there are: 0, 1, 2"),
        ("region_demo, softmax, rsum, difference seed 7", "no row of seed 7"),
    ],
)
def test_a_key_that_means_nothing_is_explained(runs: list[Path], tmp_path: Path, key: str, said: str) -> None:
    with pytest.raises(DataError) as error:
        value_of(key, gathered(runs, tmp_path / "results.csv"), COMPARISON)
    assert said in str(error.value)


def test_a_key_may_name_a_seed_and_another_level_to_compare_with(runs: list[Path], tmp_path: Path) -> None:
    rows = gathered(runs, tmp_path / "results.csv")
    rsums = {(row["activation"], row["seed"]): float(row["rsum"]) for row in rows}
    for seed in "012":
        apart = rsums["softmax", seed] - rsums["sigmoid", seed]
        found = {
            "region_demo, softmax, rsum, seed": rsums["softmax", seed],
            "region_demo, softmax, rsum, difference seed": apart,
            "region_demo, softmax less sigmoid, rsum, difference seed": apart,
            "region_demo, sigmoid less softmax, rsum, difference seed": -apart,
        }
        for key, value in found.items():
            assert value_of(f"{key} {seed}", rows, COMPARISON) == pytest.approx(value)
    assert value_of("region_demo, sigmoid less softmax, rsum", rows, COMPARISON) == pytest.approx(-5.0)
    low = value_of("region_demo, sigmoid less softmax, rsum, low", rows, COMPARISON)
    assert low == pytest.approx(-value_of("region_demo, softmax, rsum, high", rows, COMPARISON))


@pytest.mark.usefixtures("runs")
def test_the_command_says_what_is_wrong_and_draws_the_same_bytes(tmp_path: Path, command) -> None:
    into = f"into={tmp_path / 'study'}"
    ended = command("collect", "study=activation", f"out={tmp_path / 'runs'}", into)
    assert (ended.code, "6 rows" in ended.out) == (0, True), ended.err
    ended = command(
        "collect", "study=activation", f"out={tmp_path / 'runs'}", f"into={tmp_path / 'b'}", "setting_name=b"
    )
    assert ended.code == 0, ended.err
    assert {row["setting"] for row in read_rows(tmp_path / "b" / "results.csv")} == {"b"}
    files = []
    for _ in range(2):
        assert command("report", "study=activation", into).code == 0
        files.append({file.name: file.read_bytes() for file in (tmp_path / "study").iterdir()})
    assert files[0] == files[1]
    assert files[0]["figure.png"].startswith(b"\x89PNG")
    readme = tmp_path / "study" / "README.md"
    readme.write_text(readme.read_text() + PROSE.format("3.0"))
    ended = command("report", "study=activation", into)
    assert ended.code == 1
    assert "the rows say 210.0" in ended.err
    assert command("collect", "study=activation", f"out={tmp_path / 'nowhere'}", into).err.count("make sweep") == 1
