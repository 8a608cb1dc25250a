"""Every command says what it does, and says it, and what is misspelt, without loading what it would work with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


def printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_what_takes_seconds_is_not_loaded_before_there_is_work() -> None:
    code = "import sys, threeshnet.cli.door; print(*sorted(sys.modules))"
    assert set(HEAVY).isdisjoint(printed(code).split())


def test_what_builds_no_model_loads_nothing_that_does() -> None:
    names = [OmegaConf.load(CONF / f"{name}.yaml")["_target_"] for name in WITHOUT_A_MODEL]
    code = f"import sys; from hydra.utils import get_method; [get_method(name) for name in {names}]; "
    code += "print(*sorted(sys.modules))"
    assert {"pytorch_lightning", "transformers", "wandb"}.isdisjoint(printed(code).split())


def test_training_loads_wandb_only_when_it_is_on() -> None:
    code = "import sys, threeshnet.cli.train, threeshnet.evaluation.evaluate; print('wandb' in sys.modules)"
    assert printed(code) == "False\n"


def test_a_rank_is_known_before_lightning_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_fabric.utilities.rank_zero import _get_rank, rank_zero_only

    assert process_rank() == rank_zero_only.rank
    monkeypatch.delattr(rank_zero_only, "rank")
    assert process_rank() == 0
    for number, name in enumerate(reversed(VARIABLES)):
        monkeypatch.setenv(name, str(number))
        assert process_rank() == _get_rank() == number


def test_the_promised_names_are_there_though_nothing_is_loaded() -> None:
    code = "import sys, threeshnet; assert 'torch' not in sys.modules; print(*dir(threeshnet))\n"
    code += "for name in threeshnet.__all__: print(getattr(threeshnet, name))\n"
    code += "try: threeshnet.nothing\nexcept AttributeError as error: print(error)\n"
    lines = printed(code).splitlines()
    assert {"load_model", "metrics", "Batch"} <= set(lines[0].split())
    assert lines[-1] == "module 'threeshnet' has no attribute 'nothing'"
