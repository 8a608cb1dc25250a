"""Rows of a study, and its tables, figure and page from them alone."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from threeshnet.errors import ConfigError, DataError
from threeshnet.files import read_rows
from threeshnet.reports.checks import check
from threeshnet.reports.pages import Rows, rendered
from threeshnet.reports.results import Results
from threeshnet.reports.tables import effects_table, overrides_of, study_tables
from threeshnet.studies.collect import collect
from threeshnet.studies.columns import Row
from threeshnet.studies.study import load_study, parse_study

RSUM = {"sigmoid": [200.0, 210.0, 220.0], "softmax": [205.0, 216.0, 224.0]}
FACTORS, BASELINE = {"activation": ["sigmoid", "softmax"]}, {"activation": "sigmoid"}


def results(rows: list[Row], factors: Any = FACTORS, **more: Any) -> Results:
    return Results(factors, BASELINE, pd.DataFrame(rows), **more)


def write_run(folder: Path, level: str, seed: int, rsum: float, own: Any = None, metrics: Any = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    job = {"identity": f"{level}{seed}", "study": "activation", "job_name": folder.name, "seed": seed}
    job |= {"factors": {"activation": level}, "experiment": "region_demo", "setting": "demo", "recipe": "official"}
    job |= {"machine": "2 CPU cores", "fingerprint": "data"}
    recalls = {"R@1": rsum / 6, "R@5": rsum / 6, "R@10": rsum / 6}
    found = {"data": "demo", "split": "test", "images": 500, "captions": 2500, "protocol": "full", "selection": "best"}
    found |= {"epochs": 8, "steps": 496, "batch_size": 64, "minutes": 3.5, "checkpoint": "abc", "commit": "def"}
    found |= {"i2t": recalls, "t2i": recalls, "rsum": rsum, "resumed_at_step": 0, "features": "region"}
    dev = {"state": "finished", "epoch": 8, "epochs": 8, "dev_rsum": 1.0, "best_dev_rsum": rsum + 9}
    for name, content in {"job": job | (own or {}), "metrics": found | (metrics or {}), "progress": dev}.items():
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
    facts = {"job": "activation=softmax,seed=0", "activation": "softmax", "seed": "0", "rsum": "205", "batch": "64"}
    facts |= {"dev_rsum": "214", "machine": "2 CPU cores", "fingerprint": "data", "identity": "softmax0"}
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
    rows = gathered(sorted((tmp_path / "runs").iterdir()), tmp_path / "results.csv", factors=["recipe"])
    assert {row["recipe"]: float(row["rsum"]) for row in rows} == levels
    assert "| recommended_corrected | 0 |" in study_tables(Results({"recipe": list(levels)}, {}, pd.DataFrame(rows)))


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
    replaced = gathered(runs[:1], file, replace=True)
    assert [row["rsum"] for row in replaced if row["identity"] == "another"] == ["100"] * 2


def test_the_table_is_that_of_the_rows(runs: list[Path], tmp_path: Path) -> None:
    """Against statistics' and scipy's own numbers."""
    text = study_tables(results(gathered(runs, tmp_path / "results.csv")))
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
    assert "; protocol full; selection" in study_tables(results(rows))


def test_experiments_stand_apart_and_seeds_are_paired(runs: list[Path], tmp_path: Path) -> None:
    write_run(tmp_path / "other" / "j", "softmax", 5, 600.0, own={"experiment": "grid_demo"})
    gathered(runs[:4], tmp_path / "results.csv")  # softmax with seed 0 alone
    text = study_tables(results(gathered([tmp_path / "other" / "j"], tmp_path / "results.csv")))
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
    text = study_tables(results(rows, {**FACTORS, "dim": []}))
    assert text.count("baseline |") == 2 + 1  # and the header
    assert text.count("+5.0 [") == 2


def test_effects_of_a_level_stand_together_for_all_settings(runs: list[Path], tmp_path: Path) -> None:
    for level in RSUM:
        write_run(tmp_path / "long" / level, level, 0, 300.0 + len(level), own={"setting": "long"})
    write_run(tmp_path / "long" / "alone", "tanh", 1, 300.0, own={"setting": "long"})  # no baseline with its seed
    rows = gathered([*runs, *sorted((tmp_path / "long").iterdir())], tmp_path / "results.csv")
    found = results(rows, {"activation": ["sigmoid", "none", "softmax"]})
    study = load_study("activation")
    lines = effects_table(found, study).splitlines()[2:]
    cells = study_tables(found).split("| softmax | 0 1 2 |")[1].splitlines()[0].split(" | ")[7]
    effect, said = cells.removesuffix(" |").split(", difference")
    assert lines == [
        "| none | – | – | – | – | – | – | no row |",
        f"| softmax | `activation=softmax` | `demo` | 210.0 | 0 1 2 | {effect} | – | difference{said} |",
        "| softmax | `activation=softmax` | `long` | 307.0 | 0 | +0.0 | – | one seed |",
        "| tanh | – | `long` | – | 1 | – | – | no baseline with its seeds |",
    ]
    gone = study.model_copy(update={"removed": {"activation": {"softmax": "abc"}}})
    said = "softmax` (removed; last in commit `abc`) |"
    assert effects_table(found, gone).splitlines()[3] == lines[1].replace("activation=softmax` |", f"activation={said}")
    for name, level, rsum in (("j", "softmax", 1.0), ("k", "sigmoid", 3.0)):
        write_run(tmp_path / "more" / name, level, 7, rsum, own={"experiment": "grid_demo"})
    rows = gathered([tmp_path / "more" / "j", tmp_path / "more" / "k"], tmp_path / "results.csv")
    assert "| grid_demo, `demo` | 3.0 | 7 | -2.0 | – | one seed |" in effects_table(results(rows), study)


def test_overrides_of_a_level_are_what_runs_it() -> None:
    made = overrides_of(load_study("options"))["option"]
    assert (made["none"], made["infonce_soft"]) == ("", "objective=infonce objective.temperature=0.1")
    scored = "views=[1,2,3] correction=inverted_softmax bank=train"
    assert made["views_always_inverted_softmax"] == f"augment=views {scored}"
    assert overrides_of(load_study("features"))["features"]["late_ensemble"] == "ensemble of region and grid"
    of = {"factor": "f", "of": ["a", "b"], "protocol": "ensemble", "views": [1]}
    study = {"title": "t", "question": "q", "factors": {"f": ["a", "b"]}, "baseline": {"f": "a"}}
    assert overrides_of(parse_study("s", study | {"derived": {"c": of}}))["f"]["c"] == "ensemble of a and b views=[1]"


def test_a_seed_that_stands_twice_is_refused(runs: list[Path], tmp_path: Path) -> None:
    rows = gathered(runs, tmp_path / "results.csv")
    with pytest.raises(DataError, match="seeds 0 0 1 2, one of them twice"):
        study_tables(results([*rows, rows[0]]))


@pytest.mark.parametrize(
    ("seeds", "change", "said"),
    [
        ((0,), {"images": "50"}, "softmax: seeds of images 50 and 500"),
        ((0, 1, 2), {"images": "50"}, "softmax against sigmoid: images 50 and 500"),
        ((0, 1, 2), {"fingerprint": "others"}, "softmax against sigmoid: fingerprint data and others"),
        ((0, 1, 2), {"epochs": "9"}, "softmax against sigmoid: epochs 8 and 9"),
        ((0, 1, 2), {"selection": "last"}, "softmax against sigmoid: selection best and last"),
        ((1,), {"batch": "32"}, "softmax: seeds of batch 32 and 64"),
        ((0, 1, 2), {"protocol": "five_fold_1k"}, "region_demo/demo: gallery folds of 1,000 and the whole split"),
        ((1,), {"protocol": "five_fold_1k"}, "softmax: seeds of protocol five_fold_1k and full"),
        ((1,), {"rsum": "217"}, "activation=softmax,seed=1: rsum=217, and its six recalls sum up to 216.00"),
        ((1,), {"checkpoint": ""}, "activation=softmax,seed=1: does not say checkpoint"),
    ],
)
def test_rows_of_other_questions_are_refused(
    runs: list[Path], tmp_path: Path, seeds: tuple[int, ...], change: dict[str, str], said: str
) -> None:
    rows = gathered(runs, tmp_path / "results.csv")
    check(results(rows))
    changed = [row | change if row["activation"] == "softmax" and int(row["seed"]) in seeds else row for row in rows]
    with pytest.raises(DataError) as error:
        check(results(changed))
    assert said in str(error.value)


def test_a_factor_may_change_the_batch_and_a_correction_the_protocol(runs: list[Path], tmp_path: Path) -> None:
    rows = gathered(runs, tmp_path / "results.csv")
    other = {"batch": "32", "protocol": "full, csls by train", "epochs": "", "derived_from": "activation=sigmoid"}
    check(results([row | other if row["activation"] == "softmax" else row for row in rows]))


# ---- pages


@pytest.fixture
def page(runs: list[Path], tmp_path: Path) -> Any:
    """Renders a template beside the rows of a study `activation` and another file."""
    folder = tmp_path / "activation"
    gathered(runs, folder / "results.csv")
    (folder / "told.csv").write_text("name,share\na,5\nb,7\n")

    def call(text: str) -> str:
        (folder / "README.md.j2").write_text(text, encoding="utf-8")
        return rendered(folder / "README.md.j2", Rows(tmp_path))

    return call


SOFTMAX = 'rows("region_demo", activation="softmax")'


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        (f"{SOFTMAX}.rsum", "215.0 ± 9.5"),
        (f"{SOFTMAX}.rsum.mean", "215.0"),
        (f"{SOFTMAX}.rsum.seed(1)", "216.0"),
        (f"{SOFTMAX}.i2t_r1.difference", "+0.8"),
        (f"{SOFTMAX}.effect", "+5.0 ([+2.5, +7.5] over seeds: difference on these photos)"),
        (f"{SOFTMAX}.effect.each", "+5.0, +6.0 and +4.0"),
        (f"{SOFTMAX}.effect.of_seed(2)", "+4.0"),
        (f"{SOFTMAX}.verdict", "difference on these photos"),
        (f'rows("region_demo", study="activation", activation="sigmoid").against({SOFTMAX}).value', "-5.0"),
        (f'{SOFTMAX}.against(activation="sigmoid").interval', "[+2.5, +7.5]"),
        ('csv("told.csv", name="b")[0].share', "7"),
        ('spread(csv("told.csv")|map(attribute="share"))', "6.0 ± 1.4"),
        ("paired([1.0, 2.0, 3.0], 1.0).value", "+1.0"),
    ],
)
def test_a_page_has_the_numbers_of_the_rows(page: Any, expression: str, said: str) -> None:
    assert page(f"Measured: {{{{ {expression} }}}}.\n") == f"Measured: {said}.\n"


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ('rows("grid_demo", activation="softmax")', "there are: region_demo, setting demo"),
        ('rows("region_demo", activation="tanh")', "0 levels of region_demo, setting demo; there are: sigmoid, soft"),
        ('rows("region_demo", pooling="mean")', "factor='pooling' does not exist; there are: activation"),
        (f"{SOFTMAX}.rsun", "column='rsun' does not exist; there are: i2t_r1"),
        (f"{SOFTMAX}.rsum.seed(7)", "seed=7 does not exist; there are: 0, 1, 2"),
        ('rows("region_demo", study="nothing")', "study with rows='nothing' does not exist; there are: activation"),
        ("rowz()", "'rowz' is undefined; a page has: rows, table, effects"),
        ('csv("told.csv", nam="b")', "column of told.csv='nam' does not exist; there are: name, share"),
        ('csv("none.csv")', "none.csv"),
        ("1 +", "unexpected"),
    ],
)
def test_what_does_not_exist_is_named_with_file_and_line(page: Any, tmp_path: Path, expression: str, said: str) -> None:
    with pytest.raises(DataError) as error:
        page(f"# Title\n\nText {{{{ {expression} }}}}.\n")
    assert f"{tmp_path / 'activation' / 'README.md.j2'}:3: " in str(error.value)
    assert said in str(error.value)


@pytest.mark.usefixtures("runs")
def test_the_command_makes_a_first_page_and_the_same_bytes_again(tmp_path: Path, command) -> None:
    into = f"into={tmp_path / 'study'}"
    ended = command("collect", "study=activation", f"out={tmp_path / 'runs'}", into)
    assert (ended.code, "6 rows" in ended.out) == (0, True), ended.err
    again = ("collect", "study=activation", f"out={tmp_path / 'runs'}", f"into={tmp_path / 'b'}", "setting_name=b")
    ended = command(*again)
    assert ended.code == 0, ended.err
    assert {row["setting"] for row in read_rows(tmp_path / "b" / "results.csv")} == {"b"}
    files = []
    for _ in range(2):
        assert command("report", "study=activation", into).code == 0
        files.append({file.name: file.read_bytes() for file in (tmp_path / "study").iterdir()})
    assert files[0] == files[1]
    assert files[0]["figure.png"].startswith(b"\x89PNG")
    assert "| 210.0 ± 10.0 | baseline |" in files[0]["README.md"].decode()
    (tmp_path / "study" / "README.md.j2").write_text("{{ table('nothing') }}")
    ended = command("report", "study=activation", into)
    assert ended.code == 1
    assert "README.md.j2:1: 'nothing'" in ended.err
    assert command("collect", "study=activation", f"out={tmp_path / 'nowhere'}", into).err.count("make sweep") == 1
    ended = command("report", f"into={tmp_path / 'nowhere'}")
    assert "holds neither rows nor templates; name a study (study=<name>), or collect rows first" in ended.err
