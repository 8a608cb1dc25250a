"""The guide "Many GPUs, many runs": its scripts are shell, and its numbers are those of the code."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs/many_gpus_many_runs.md").read_text(encoding="utf-8")
SCRIPTS = dict(re.findall(r"^```bash (\S+)\n(.*?)^```$", GUIDE, flags=re.MULTILINE | re.DOTALL))
FENCED = re.findall(r"^```(?:sh|bash)[^\n]*\n(.*?)^```$", GUIDE, flags=re.MULTILINE | re.DOTALL)
COCO_IMAGES, CAPTIONS_OF_AN_IMAGE = 113_287, 5


def test_the_scripts_are_there() -> None:
    assert set(SCRIPTS) == {"train.sbatch", "one_gpu.sbatch"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
@pytest.mark.parametrize("number", range(len(FENCED)))
def test_every_block_of_shell_is_shell(number: int) -> None:
    text = re.sub(r"<[^<>\n]+>", "anything", FENCED[number])
    ended = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
@pytest.mark.parametrize(("code", "requeued"), [(0, False), (75, True), (1, False)])
@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_script_hands_back_what_was_interrupted(name: str, code: int, requeued: bool, tmp_path: Path) -> None:
    """Run with stand-ins for SLURM's programs: 75 goes to the queue again, every code comes out as it is."""
    for program, body in {"srun": f"exit {code}", "scontrol": 'echo "$@" > requeued'}.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (tmp_path / program).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "6"}
    ended = subprocess.run(["bash", "-c", SCRIPTS[name]], cwd=tmp_path, env=environment, check=False)
    assert ended.returncode == code
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text().split() == ["requeue", "17"]


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_script_asks_for_as_many_tasks_as_the_run_has_devices(name: str) -> None:
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)", SCRIPTS[name], flags=re.MULTILINE))
    given = dict(re.findall(r"(trainer\.\w+)=(\d+)", SCRIPTS[name]))
    assert asked.get("ntasks-per-node", "1") == given.get("trainer.devices", "1")
    assert asked.get("nodes", "1") == given.get("trainer.num_nodes", "1")
    assert asked["signal"].startswith("USR1@")  # to the tasks: B: would be the script, which waits
    assert "resume=true" in SCRIPTS[name]
    batch = OmegaConf.load(ROOT / "conf/setting/coco.yaml").batches.batch_size
    assert batch % (int(given.get("trainer.devices", 1)) * int(given.get("trainer.num_nodes", 1))) == 0


def test_numbers_of_large_batches_follow() -> None:
    captions = COCO_IMAGES * CAPTIONS_OF_AN_IMAGE
    assert f"{captions // 256:,} steps has {captions // 4096}" in " ".join(GUIDE.split())

    def same_image(pairs: int) -> float:
        """Pairs of captions of one image that a batch is expected to have."""
        return math.comb(pairs, 2) * (CAPTIONS_OF_AN_IMAGE - 1) / (captions - 1)

    assert 1 - math.exp(-same_image(256)) == pytest.approx(1 / 5, abs=0.02)
    assert 1 - math.exp(-same_image(1024)) > 0.97
    assert same_image(4096) == pytest.approx(60, abs=2)
    demo = OmegaConf.load(ROOT / "conf/setting/demo.yaml").warm_up_epochs
    assert f"`warm_up_epochs={demo}` are {demo * 62} steps" in " ".join(GUIDE.split())
