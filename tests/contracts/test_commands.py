"""Every command says what it does, and says it, and what is misspelt, without loading what it would work with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from threeshnet.runs.rank import VARIABLES, process_rank

CONF = Path(__file__).parents[2] / "conf"
COMMANDS = sorted(file.stem for file in CONF.glob("*.yaml"))
WITHOUT_A_MODEL = ("collect", "compare", "report", "dashboard", "sweep")  # what works without building one
HEAVY = ("torch", "pytorch_lightning", "transformers", "wandb", "matplotlib", "scipy")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_helps(name: str, command) -> None:
    ended = command(name, "--help")
    assert ended.code == 0, ended.err
    assert f"threeshnet {name}" in ended.out.splitlines()[0]
    assert "powered by Hydra" not in ended.out


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_the_verbs_are_listed_each_with_what_it_does(words: tuple[str, ...]) -> None:
    ended = subprocess.run([sys.executable, "-m", "threeshnet", *words], capture_output=True, text=True, check=True)
    for name in COMMANDS:
        (line,) = [line for line in ended.stdout.splitlines() if line.startswith(f"  {name} ")]
        assert len(line.split()) > 4


@pytest.mark.parametrize(("verb", "said"), [("trian", "did you mean train?"), ("qqq", "there are: data, import,")])
def test_a_misspelt_verb_gets_the_near_ones(verb: str, said: str, command) -> None:
    ended = command(verb)
    assert ended.code == 1
    assert said in ended.err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_enough_is_no_error(unbuffered: str) -> None:
    ended = subprocess.run(
        f'"{sys.executable}" -m threeshnet report --help | true',
        shell=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


# One process imports more and more, and lists its modules after each step: a fresh interpreter takes seconds to import.
IMPORTS = f"""
import sys
from hydra.utils import get_method
import threeshnet
print(*dir(threeshnet))
print(*sys.modules)
import threeshnet.cli.door
print(*sys.modules)
[get_method(name) for name in {[OmegaConf.load(CONF / f"{name}.yaml")["_target_"] for name in WITHOUT_A_MODEL]}]
print(*sys.modules)
import threeshnet.cli.train, threeshnet.evaluation.evaluate
print(*sys.modules)
[getattr(threeshnet, name) for name in threeshnet.__all__]
try:
    threeshnet.nothing
except AttributeError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def imports() -> dict[str, Any]:
    printed = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True).stdout
    *lists, refusal = printed.splitlines()
    steps = ("names", "the package", "the door", "without a model", "training")
    return dict(zip(steps, map(str.split, lists), strict=True)) | {"refusal": refusal}


def test_what_takes_seconds_is_not_loaded_before_there_is_work(imports: dict[str, Any]) -> None:
    assert set(HEAVY).isdisjoint(imports["the door"])


def test_what_builds_no_model_loads_nothing_that_does(imports: dict[str, Any]) -> None:
    assert {"pytorch_lightning", "transformers", "wandb"}.isdisjoint(imports["without a model"])


def test_training_loads_wandb_only_when_it_is_on(imports: dict[str, Any]) -> None:
    assert "pytorch_lightning" in imports["training"]
    assert "wandb" not in imports["training"]


def test_the_promised_names_are_there_though_nothing_is_loaded(imports: dict[str, Any]) -> None:
    assert "torch" not in imports["the package"]
    assert {"load_model", "metrics", "Batch"} <= set(imports["names"])
    assert imports["refusal"] == "module 'threeshnet' has no attribute 'nothing'"


def test_a_rank_is_known_before_lightning_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_fabric.utilities.rank_zero import _get_rank, rank_zero_only

    assert process_rank() == rank_zero_only.rank
    monkeypatch.delattr(rank_zero_only, "rank")
    assert process_rank() == 0
    for number, name in enumerate(reversed(VARIABLES)):
        monkeypatch.setenv(name, str(number))
        assert process_rank() == _get_rank() == number
