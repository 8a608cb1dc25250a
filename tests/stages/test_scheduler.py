"""Jobs as processes: in turn or side by side, failing, interrupted, and left behind by a killed sweep."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock
from omegaconf import OmegaConf
from rich.console import Console

from hydra_plugins.threeshnet_processes.launcher import ProcessLauncher
from threeshnet.errors import ConfigError
from threeshnet.files import write_json
from threeshnet.studies import launch, multirun
from threeshnet.studies.board import Board
from threeshnet.studies.launch import Job, Local
from threeshnet.studies.multirun import run_multirun
from threeshnet.studies.scheduler import JobsFailed, Scheduler, State, Status, end, failures
from threeshnet.studies.sweep import starter_of

HERE = Path(__file__).parent
SECONDS = 0.02  # between turns


@pytest.fixture(autouse=True)
def sham_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)


def job(folder: Path, name: str, *overrides: str, after: tuple[str, ...] = ()) -> Job:
    return Job(name, folder / name, ("sham", *overrides, f'out="{folder / name}"'), after=after)


def run(
    *jobs: Job, parallel: int = 1, finished: tuple[str, ...] = ()
) -> tuple[list[Status], list[tuple[str, State]], int]:
    """Statuses, every change of a state in order, and the most jobs that ran at once."""
    statuses = [Status(each, State.EARLIER if each.name in finished else State.WAITING) for each in jobs]
    changes: list[tuple[str, State]] = []
    counts = [0]

    def changed(status: Status) -> None:
        changes.append((status.job.name, status.state))
        counts.append(list(dict(changes).values()).count(State.RUNNING))

    Scheduler(starter=Local(parallel=parallel), changed=changed, seconds=SECONDS).run(statuses, lambda: None)
    return statuses, changes, max(counts)


def states(statuses: list[Status]) -> list[str]:
    return [status.state for status in statuses]


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(SECONDS)


def log_of(folder: Path) -> str:
    file = folder / "output.log"
    return file.read_text() if file.exists() else ""


def test_a_failed_job_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "output.log").write_text("of the last sweep\n")
    jobs = [job(tmp_path, "a"), job(tmp_path, "b", "fail=3"), job(tmp_path, "c"), job(tmp_path, "d", "nothing=1")]
    statuses, changes, most = run(*jobs)
    assert states(statuses) == [State.FINISHED, State.FAILED, State.FINISHED, State.FAILED]
    assert [name for name, state in changes if state == State.RUNNING] == ["a", "b", "c", "d"]
    assert most == 1
    message = failures(statuses)
    for part in ("2 of 4 jobs failed", "b: exit code 3", "the last word", str(tmp_path / "b" / "output.log")):
        assert part in message
    assert "d: without metrics.json" in message
    assert "of the last sweep" not in message
    assert "of the last sweep" in log_of(tmp_path / "b")
    with pytest.raises(JobsFailed, match="the last word"):
        end(statuses)


def test_jobs_run_side_by_side_and_derived_ones_wait(tmp_path: Path) -> None:
    both = job(tmp_path, "both", after=("a", "b"))
    statuses, changes, most = run(
        both, *(job(tmp_path, name, "seconds=0.4") for name in "ab"), job(tmp_path, "c"), parallel=2, finished=("c",)
    )
    assert states(statuses) == [*[State.FINISHED] * 3, State.EARLIER]
    assert changes[-1] == ("both", State.FINISHED)
    assert most == 2
    statuses, _, _ = run(job(tmp_path, "no", after=("bad",)), job(tmp_path, "bad", "fail=1"))
    assert states(statuses) == [State.LEFT_OUT, State.FAILED]
    assert "no: needs bad" in failures(statuses)


@pytest.mark.parametrize(("times", "state"), [(2, State.FINISHED), (9, State.STOPPED)])
def test_an_interrupted_job_is_started_again(tmp_path: Path, times: int, state: State) -> None:
    (status,), _, _ = run(job(tmp_path, "a", f"interrupted={times}"))
    assert status.state == state
    assert int((tmp_path / "a" / "tries").read_text()) == min(times, 3) + 1
    if state == State.STOPPED:
        with pytest.raises(SystemExit) as ended:
            end([status])
        assert ended.value.code == 75


def test_a_folder_in_use_is_waited_for(tmp_path: Path) -> None:
    """As by a job of a killed sweep that still saves."""
    (tmp_path / "a").mkdir()
    lock = FileLock(tmp_path / "a" / ".lock", thread_local=False)  # released by another thread
    lock.acquire()
    threading.Timer(0.5, lock.release).start()
    began = time.monotonic()
    statuses, changes, _ = run(job(tmp_path, "a"))
    assert time.monotonic() - began >= 0.5
    assert states(statuses) == [State.FINISHED]
    assert changes[0] == ("a", State.WAITING)


def test_a_signal_is_handed_on_and_waited_for(tmp_path: Path) -> None:
    statuses = [Status(job(tmp_path, "a", "seconds=60")), Status(job(tmp_path, "b"))]
    scheduler = Scheduler(starter=Local(), changed=lambda _: None, seconds=SECONDS)

    def look() -> None:
        if not scheduler.signals and "try" in log_of(tmp_path / "a"):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    scheduler.run(statuses, look)
    assert states(statuses) == [State.STOPPED, State.STOPPED]
    assert "asked to stop" in log_of(tmp_path / "a")
    assert not (tmp_path / "b").exists()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone signals the children of a dead process")
def test_jobs_of_a_killed_sweep_save_and_end(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from threeshnet.studies.launch import Job, Local\n"
        "folder = Path(sys.argv[1]); Local().start(Job('a', folder, ('sham', 'seconds=60', f'out=\"{folder}\"')))\n"
        "time.sleep(60)"
    )
    sweep = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "a")])
    wait_for(lambda: "try 1" in log_of(tmp_path / "a"))
    sweep.kill()
    sweep.wait()
    wait_for(lambda: "asked to stop" in log_of(tmp_path / "a"))


# ---- commands and environments


def test_several_devices_are_started_by_torchrun(tmp_path: Path) -> None:
    alone, two = (Job("a", tmp_path, ("m", "x=1"), devices=number) for number in (1, 2))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert launch.command(alone) == [sys.executable, "-m", "m", "x=1"]
    assert launch.command(two) == [sys.executable, *torchrun, "-m", "m", "x=1"]


@pytest.mark.parametrize("devices", ["none", 0, -3, "0"])
def test_wrong_devices_are_named(devices: Any) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.devices"):
        launch.processes(devices)


def test_a_job_inherits_no_part_of_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    outer = ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "THREESHNET_RUN_DIRECTORY", "PL_GLOBAL_SEED")
    for name in outer:
        monkeypatch.setenv(name, "1")
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    variables = launch.environment(threads=3, gpus=["0", "2"])
    assert not set(outer) & set(variables)
    assert (variables["OMP_NUM_THREADS"], variables["CUDA_VISIBLE_DEVICES"]) == ("3", "0,2")
    assert "CUDA_VISIBLE_DEVICES" not in launch.environment(threads=1)


# ---- GPUs


@pytest.fixture
def dealt(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The GPUs of every started job; a job ends when it is polled for the second time."""
    dealt: list[set[str]] = []

    class Sham:
        def __init__(self, job: Job, variables: dict[str, str], gpus: list[str]) -> None:
            self.gpus, self.left = gpus, 2
            dealt.append(set(variables["CUDA_VISIBLE_DEVICES"].split(",")))

        def poll(self) -> int | None:
            self.left -= 1
            return None if self.left > 0 else 0

    monkeypatch.setattr(launch, "LocalProcess", Sham)
    return dealt


def on_gpus(devices: int) -> Job:
    return Job("a", Path(), (), devices=devices, on_gpu=True)


def test_gpus_are_dealt_out_and_given_back(dealt: list[set[str]]) -> None:
    """Four GPUs, jobs of two: two jobs at a time, never the same GPU twice."""
    local = Local(gpus=list("0123"))
    for _ in range(3):
        assert local.room_for(on_gpus(2))  # for the third: the first two have ended by now
        local.start(on_gpus(2))
    assert not dealt[0] & dealt[1]
    assert len(dealt[2]) == 2
    with pytest.raises(ConfigError, match=r"trainer\.devices=8, and there are 4 GPUs"):
        local.room_for(on_gpus(8))


def test_jobs_share_a_gpu(dealt: list[set[str]]) -> None:
    """Two GPUs of two slots: four jobs, spread evenly; a job of two processes gets both GPUs."""
    local = Local(gpus=list("01"), jobs_per_gpu=2)
    for _ in range(4):
        local.start(on_gpus(1))
    assert local.parallel == 4
    assert dealt == [{"0"}, {"1"}, {"0"}, {"1"}]
    assert not local.room_for(on_gpus(1))  # polled once: none has ended
    assert local.room_for(on_gpus(1))
    local.start(on_gpus(2))
    assert dealt[-1] == {"0", "1"}
    with pytest.raises(ConfigError, match=r"trainer\.devices=3, and there are 2 GPUs"):
        local.room_for(on_gpus(3))


@pytest.mark.parametrize("wrong", [0, -1, None, "two", 1.5])
def test_numbers_of_jobs_are_checked(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=f"jobs_per_gpu={wrong!r}: a whole number of jobs"):
        Local(gpus=["0"], jobs_per_gpu=wrong)


def test_jobs_per_gpu_reaches_a_sweep_and_a_multirun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = OmegaConf.create({"parallel": None, "jobs_per_gpu": 3, "cluster": {"executor": None, "options": None}})
    prepared: Any = [SimpleNamespace(gpus=("0", "1"))]
    assert starter_of(settings, prepared, tmp_path).parallel == 6
    settings.cluster.executor = "slurm"
    with pytest.raises(ConfigError, match="jobs_per_gpu=3: on a cluster"):
        starter_of(settings, prepared, tmp_path)
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(multirun, "Local", lambda **given: calls.append(given) or Local())
    monkeypatch.setattr(multirun, "visible_gpus", lambda _: ["0"])
    monkeypatch.setattr(multirun.Scheduler, "run", lambda *_: None)
    given: Any = {"program": ["m"], "overrides": [["a"]], "folders": [tmp_path], "accelerators": ["auto"]}
    run_multirun(**given, devices=[1], parallel=None, jobs_per_gpu=4)
    assert calls == [{"parallel": None, "gpus": ["0"], "jobs_per_gpu": 4}]
    assert ProcessLauncher(jobs_per_gpu=4).jobs_per_gpu == 4


# ---- the board


def test_the_board_in_a_terminal_and_elsewhere(tmp_path: Path) -> None:
    failed = Status(job(tmp_path, "b"), State.FAILED, "exit code 1")
    statuses = [Status(job(tmp_path, "a=[x],seed=0"), State.RUNNING), failed]
    facts = {"state": "running", "epoch": 2, "epochs": 8, "dev_rsum": 100.0, "best_dev_rsum": 123.4}
    statuses[0].job.folder.mkdir()
    write_json(statuses[0].job.folder / "progress.json", facts | {"seconds_left": 90.0})
    shown = {}
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
        board = Board(statuses, title="a study", console=console)
        with board.shown():
            board.look()
            board.look()
            board.changed(failed)
        shown[terminal] = console.file.getvalue()  # pyright: ignore
    for part in ("a study", "a=[x],seed=0", "2 of 8", "123.4", "1 min 30 s", "failed (exit code 1)"):
        assert part in shown[True]
    assert shown[False].splitlines() == [
        "[1/2] a=[x],seed=0: epoch 2 of 8, dev rsum 100.0, 1 min 30 s left",
        "[2/2] b: failed (exit code 1)",
    ]
