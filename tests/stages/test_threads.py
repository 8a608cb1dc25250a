"""How many threads a process takes, how they wait, and the benchmark of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from experiments.benchmarks.threads import run

from threeshnet import threads
from threeshnet.studies import launch
from threeshnet.threads import (
    OURS,
    SPINS,
    THREADS,
    Busy,
    FreeCoresFollower,
    busy,
    cpu_quota,
    others_use,
    prepare_threads,
    set_threads,
)


def cgroups(folder: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A root of cgroups with these files, and a process's list of its own ones."""
    for name, text in files.items():
        file = folder / "root" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "own").write_text(own)
    return folder / "root", folder / "own"


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, 2.0),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/elsewhere\n", {"cpu.max": "400000 100000\n"}, 4.0),  # in a container: its own cgroup is the root
        ("1:cpu:/a\n0::/\n", {"cpu/a/cpu.cfs_quota_us": "300000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 3.0),
        ("4:cpu,cpuacct:/\n", {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "9\n"}, None),
        ("4:cpu,cpuacct:/x\n", {"cpu/cpu.cfs_quota_us": "100\n", "cpu/cpu.cfs_period_us": "100\n"}, 1.0),
        ("2:cpuset:/a\n", {"cpuset/a/cpu.max": "100 100\n"}, None),
        ("0::/\n", {"cpu.max": "nonsense\n"}, None),
        ("0::/\n", {}, None),
    ],
)
def test_the_quota_is_the_smallest_of_the_cgroups(
    tmp_path: Path, own: str, files: dict[str, str], quota: float | None
) -> None:
    assert cpu_quota(*cgroups(tmp_path, own, files)) == quota
    assert cpu_quota(tmp_path, tmp_path / "none") is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (1.5, 2), (0.2, 1), (64.0, 8)])
def test_cores_are_what_is_allowed_and_no_more_than_the_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int
) -> None:
    monkeypatch.setattr(threads, "allowed_cores", lambda: 8)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert threads.cores() == cores
    variables: dict[str, str] = {}
    prepare_threads(variables)
    limited = {THREADS: str(cores), OURS: str(cores)} if cores < 8 else {}
    assert variables == {"GOMP_SPINCOUNT": str(SPINS), **limited}
    again = dict(variables) | {THREADS: "1", OURS: "1"}  # the share that a sweep gave to this job
    prepare_threads(again)
    assert again[THREADS] == "1"


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_who_has_set_how_threads_wait_has_decided(name: str) -> None:
    variables = {name: "0", THREADS: "5"}
    prepare_threads(variables)
    assert set_threads(variables, 2) is None
    assert variables == {name: "0", THREADS: "5"}


def test_a_share_of_ours_can_be_shared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    variables: dict[str, str] = {}
    assert set_threads(variables, 6) == 6
    assert set_threads(variables, 0) == 1
    assert variables[THREADS] == "1"
    for name, value in {THREADS: "6", OURS: "6"}.items():
        monkeypatch.setenv(name, value)
    assert launch.environment(threads=2)[THREADS] == "2"
    monkeypatch.setenv(THREADS, "7")
    assert launch.environment(threads=2)[THREADS] == "7"


def test_the_command_line_says_how_threads_wait_before_torch_is_there() -> None:
    code = (
        "import os, sys\nfrom threeshnet.cli import main\nassert 'torch' not in sys.modules\n"
        "main(['--help'])\nassert 'torch' not in sys.modules\nprint(os.environ['GOMP_SPINCOUNT'])"
    )
    clean = {name: value for name, value in run.surroundings().items() if name not in run.OF_THREADS}
    found = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == str(SPINS)


# ---- experiments/benchmarks/threads


@pytest.mark.skipif(sys.platform != "linux", reason="stops and continues its neighbours as Linux does")
def test_levels_take_turns_beside_neighbours_that_all_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    sham = (
        "import sys\nprint('{}')\nfor line in sys.stdin: print('{\"seconds\": [0.1, 0.3, 0.2], \"cpu_seconds\": 1.2}')"
    )
    monkeypatch.setattr(run, "module_command", lambda *_: [sys.executable, "-u", "-c", sham])
    real = run.subprocess.Popen
    monkeypatch.setattr(run.subprocess, "Popen", lambda *a, **k: started.append(real(*a, **k)) or started[-1])
    levels = ["--levels", "default", "passive", "--kinds", "spinning", "--counts", "1", "2"]
    rows = run.main([*levels, "--repeats=2", "--steps=3", f"--out={tmp_path}"])
    assert [row["level"] for row in rows[:4]] == ["passive", "default", "default", "passive"]
    assert {(row["neighbours"], row["kind"]) for row in rows} == {(0, "none"), (1, "spinning"), (2, "spinning")}
    assert {(row["seconds_a_step"], row["cpu_seconds_a_step"]) for row in rows} == {(0.2, 0.4)}
    started = [process for process in started if "-u" in process.args]  # the others are git
    assert len(started) == 4
    assert all(process.poll() is not None for process in started)
    found = json.loads((tmp_path / "summary.json").read_text())
    assert [case["levels"]["passive"]["of_even_share"] for case in found["cases"]] == [1.0, 0.5, 0.33]
    assert len((tmp_path / "steps.csv").read_text().splitlines()) == len(rows) + 1


def seen(*others: float) -> Iterator[Busy]:
    """What `busy` says, asked every three seconds: others use so many cores, this process half of one."""
    everything = 0.0
    for number, cores in enumerate((0.0, *others)):
        everything += 3 * (cores + 0.5)
        yield Busy(3.0 * number, everything, 1.5 * number)


def test_the_number_of_threads_follows_what_others_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: numbers[-1] if numbers else 4)
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    monkeypatch.setattr(threads, "allowed_cores", lambda: 4)
    times = seen(0.2, 2.9, 6.0, 1.4, 0.0)
    monkeypatch.setattr(threads, "busy", lambda: next(times))
    monkeypatch.setattr(threads, "SECONDS_BETWEEN_LOOKS", float("-inf"))
    adapt = FreeCoresFollower({})
    for _ in range(6):
        adapt()
    assert numbers == [1, 3, 4]


def test_the_first_change_is_said_and_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    numbers: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: numbers[-1] if numbers else 4)
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    monkeypatch.setattr(threads, "allowed_cores", lambda: 4)
    times = seen(3.0, 0.0, 3.0, 0.0)
    monkeypatch.setattr(threads, "busy", lambda: next(times))
    monkeypatch.setattr(threads, "SECONDS_BETWEEN_LOOKS", float("-inf"))
    caplog.set_level("INFO")
    adapt = FreeCoresFollower({})
    for _ in range(5):
        adapt()
    assert numbers == [1, 4, 1, 4]
    assert caplog.messages == ["threads: 1 of 4, as others use 3.0 of 4 cores"]


def test_a_call_shortly_after_another_looks_at_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    adapt = FreeCoresFollower({})
    adapt.before = Busy(time.monotonic(), 0.0, 0.0)
    monkeypatch.setattr(threads, "busy", lambda: pytest.fail("looked"))
    adapt()


@pytest.mark.parametrize(("variables", "changes"), [({THREADS: "4"}, False), ({THREADS: "4", OURS: "4"}, True)])
def test_the_users_number_of_threads_stays(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], changes: bool
) -> None:
    looks: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(threads, "busy", lambda: looks.append(1) or Busy(0.0, 0.0, 0.0))
    FreeCoresFollower(variables)()
    assert bool(looks) == changes


def test_own_time_is_that_of_this_process_and_of_its_children() -> None:
    spin = "import time\nwhile time.process_time() < 0.4: pass"
    before, own = busy(), time.process_time()
    subprocess.run([sys.executable, "-c", spin], check=True)
    while time.process_time() < own + 0.2:
        pass
    after = busy()
    assert after.own - before.own >= 0.55  # clock ticks are hundredths
    assert after.all - before.all >= 0.5
    assert others_use(before, after) >= 0.0
