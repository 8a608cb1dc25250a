"""experiments/run.sh: every study in its turn, what is finished is collected, and interruptions end it."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from threeshnet.cli.door import compose_training
from threeshnet.studies.plan import plan
from threeshnet.studies.study import load_study

ROOT = Path(__file__).parents[2]
STUDIES = sorted(file.stem for file in (ROOT / "conf/studies").glob("*.yaml"))
NOT_OF_A_CLAIM = {"rate", "seeds"}  # a search, and what any experiment may be asked
OF_SWEEP = ("study=", "out=", "shards=", "reuse=", "parallel=")
# Writes down how it was called; `sweep` ends with the code of its study, or 0. `data` makes what it is asked for.
STAND_IN = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in *"threeshnet sweep "*study="$CULPRIT"*) exit "$CODE";; esac
"""


def start(
    folder: Path, *parts: str, culprit: str = "none", code: int = 0, raw: str = "", coco: str = "", suffix: str = ""
) -> tuple[int, list[str], str]:
    """Exit code, the commands that were called, and what was said at the end."""
    python, calls = folder / "python", folder / "calls"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    calls.unlink(missing_ok=True)
    given = {"ENV_PYTHON": str(python), "CALLS": str(calls), "CULPRIT": culprit, "CODE": str(code)}
    given |= {"SHARDS": str(folder / "a folder"), "RUNS": str(folder / "runs")}
    given |= {"RAW": raw, "COCO": coco, "SUFFIX": suffix}
    command = [str(ROOT / "experiments/run.sh"), *parts]
    ended = subprocess.run(command, env=os.environ | given, capture_output=True, text=True, check=False)
    called = [line.split("-m threeshnet ")[1] for line in calls.read_text().splitlines()]
    return ended.returncode, called, ended.stderr


def matching(command: str, called: list[str]) -> list[str]:
    return [words for words in called if words.startswith(f"{command} ")]


def of(command: str, called: list[str]) -> list[str]:
    """The studies that a command was called for, in order."""
    return [words.split()[1].removeprefix("study=") for words in matching(command, called)]


def test_every_study_is_run_and_collected(tmp_path: Path) -> None:
    code, called, _ = start(tmp_path, raw="photos here")
    assert code == 0
    assert set(of("sweep", called)) == set(STUDIES) - NOT_OF_A_CLAIM
    assert of("collect", called) == of("sweep", called)
    folders = [words.split('out="')[1].split('"')[0] for words in matching("sweep", called)]
    assert len(set(folders)) == len(folders) == len(of("sweep", called))  # jobs of two experiments have the same names
    assert all(f'out="{folder}"' in words for folder, words in zip(folders, matching("collect", called), strict=True))
    assert called[-1] == "report"
    assert f'data data=flickr8k out="{tmp_path / "a folder"}" raw="photos here"' in called
    assert any("study=recipe" in words and "recipe=official,short,recommended parallel=2" in words for words in called)
    assert any("study=options" in words and "setting=flickr8k_proxy parallel=2" in words for words in called)


def test_a_setting_that_overrides_make_another_has_its_name_and_folder(tmp_path: Path) -> None:
    _, called, _ = start(tmp_path, "options")
    collected = dict(zip(matching("sweep", called), matching("collect", called), strict=True))
    named = {words: rows.split("setting_name=")[1] for words, rows in collected.items() if "setting_name=" in rows}
    assert {words for words in collected if "objective=infonce" in words} < named.keys()
    for words, setting in named.items():
        assert f'out="{tmp_path / "runs"}/options-grid_flickr8k-{setting}"' in words
        given = [word for word in shlex.split(words)[1:] if not word.startswith(OF_SWEEP)]
        jobs = [job for job in plan(load_study("options"), [*given, "seed=0"]) if not job.of]
        runs = {repr(compose_training(job.overrides)[0]) for job in jobs}
        assert len(runs) == len(jobs) > 1  # none is undone by what holds for all of them


def test_rows_of_another_machine_have_settings_of_their_own(tmp_path: Path) -> None:
    _, called, _ = start(tmp_path, suffix="_gpu")
    assert {words.endswith("_gpu") for words in matching("collect", called)} == {True}
    assert not any("_gpu" in words for words in matching("sweep", called))  # the runs are the same


def test_models_of_flickr8k_are_carried_over_where_coco_is(tmp_path: Path) -> None:
    _, without, _ = start(tmp_path, "flickr8k")
    assert "transfer" not in of("sweep", without)
    assert f'data data=flickr8k out="{tmp_path / "a folder"}"' in without  # the command knows where photos lie
    _, called, _ = start(tmp_path, "flickr8k", coco="photos there")
    assert of("sweep", called)[-1] == of("collect", called)[-1] == "transfer"
    assert any(words.startswith("data data=coco2017") and 'raw="photos there"' in words for words in called)


def test_shards_that_are_there_are_not_made(tmp_path: Path) -> None:
    (tmp_path / "a folder" / "demo").mkdir(parents=True)
    (tmp_path / "a folder" / "demo" / "manifest.json").touch()
    _, called, _ = start(tmp_path, "demo")
    assert not [words for words in called if words.startswith("data ")]
    assert "options" not in of("sweep", called)


def test_float32_models_are_encoded_in_bfloat16_and_compared(tmp_path: Path) -> None:
    run = tmp_path / "runs/precision-grid_flickr8k-flickr8k_proxy/arithmetic=float32,seed=1"
    run.mkdir(parents=True)
    (run / "metrics.json").touch()
    _, called, _ = start(tmp_path, "precision")
    (evaluated,), (compared,) = matching("evaluate", called), matching("compare", called)  # the others have failed
    assert shlex.split(evaluated)[1] == f"checkpoint={run}/checkpoints/last.ckpt"
    assert {"split=dev", "precision=bf16-mixed"} <= set(evaluated.split())
    assert f'other="{run}"' in compared
    assert compared.endswith("out=experiments/precision/encoding/1")


def test_other_networks_have_shards_and_a_setting_of_their_own(tmp_path: Path) -> None:
    _, called, _ = start(tmp_path, "networks", "precision")
    made, swept = matching("data", called), matching("sweep", called)
    for number, (segmentation, name) in enumerate((("own", "lite0_lite2"), ("ssd_lite0", "lite0_lite2_ssd_lite0"))):
        assert {"extractor@grid=lite0_lite2", f"segmentation={segmentation}"} <= set(made[number].split())
        assert f'out="{tmp_path / "a folder"}-{name}"' in made[number]
        assert f'shards="{tmp_path / "a folder"}-{name}"' in swept[number]
        assert matching("collect", called)[number].endswith(f"setting_name=flickr8k_proxy_{name}")
    assert f'shards="{tmp_path / "a folder"}"' in swept[2]  # what follows has the usual ones


@pytest.mark.parametrize(("failing", "last"), [(75, "objective"), (1, "first_photos")])
def test_an_interruption_ends_it_and_a_failure_does_not(failing: int, last: str, tmp_path: Path) -> None:
    code, called, said = start(tmp_path, "demo", culprit="objective", code=failing)
    assert code == failing
    assert of("sweep", called)[-1] == of("collect", called)[-1] == last
    assert ("not finished: objective" in said) == (failing == 1)


def test_a_choice_makes_the_views_that_are_missing(tmp_path: Path) -> None:
    (tmp_path / "a folder" / "flickr8k_view2").mkdir(parents=True)
    (tmp_path / "a folder" / "flickr8k_view2" / "manifest.json").touch()
    _, called, _ = start(tmp_path, "choice", raw="photos here")
    made = [words for words in called if "view=random_crop" in words]
    assert [words.split("views=")[1].split()[0] for words in made] == ["[1]", "[3]"]
    assert all('raw="photos here"' in words and f'out="{tmp_path / "a folder"}"' in words for words in made)
    sweeps = matching("sweep", called)
    assert len(sweeps) == 2
    assert all("setting=flickr8k_long" in words and "views" in words for words in sweeps)
