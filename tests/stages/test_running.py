"""Jobs as processes: one after another or side by side, failing, interrupted, and left by a sweep that was killed."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
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
from threeshnet.installation import current_commit
from threeshnet.studies import launch, multirun
from threeshnet.studies.board import Board
from threeshnet.studies.launch import Job, Local
from threeshnet.studies.multirun import run_multirun
from threeshnet.studies.scheduler import JobsFailed, Scheduler, State, Status, end, failures
from threeshnet.studies.sweep import starter_of

HERE = Path(__file__).parent
TURN = 0.02  # seconds between looks


@pytest.fixture(autouse=True)
def sham_can_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)


def job(folder: Path, name: str, *overrides: str, after: tuple[str, ...] = (), **more: Any) -> Job:
    return Job(name, folder / name, ("sham", *overrides, f'out="{folder / name}"'), after=after, **more)


class Seen:
    """The states in the order of their coming, and how many ran at once."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str]] = []
        self.at_once = 0

    def changed(self, status: Status) -> None:
        self.changes.append((status.job.name, status.state))
        running = dict(self.changes)
        self.at_once = max(self.at_once, list(running.values()).count(State.RUNNING))


def run(*jobs: Job, parallel: int = 1, finished: tuple[str, ...] = ()) -> tuple[list[Status], Seen]:
    statuses = [Status(each, State.EARLIER if each.name in finished else State.WAITING) for each in jobs]
    seen = Seen()
    Scheduler(starter=Local(parallel=parallel), changed=seen.changed, seconds=TURN).run(statuses, lambda: None)
    return statuses, seen


def states(statuses: list[Status]) -> list[str]:
    return [status.state for status in statuses]


def test_one_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    statuses, seen = run(job(tmp_path, "a"), job(tmp_path, "b", "fail=3"), job(tmp_path, "c"))
    assert states(statuses) == [State.FINISHED, State.FAILED, State.FINISHED]
    assert [name for name, state in seen.changes if state == State.RUNNING] == ["a", "b", "c"]
    assert seen.at_once == 1
    said = failures(statuses)
    for part in ("1 of 3 jobs failed", "b: exit code 3", "the last word", str(tmp_path / "b" / "output.log")):
        assert part in said
    with pytest.raises(JobsFailed, match="the last word"):
        end(statuses)


def test_side_by_side(tmp_path: Path) -> None:
    _, seen = run(*(job(tmp_path, name, "seconds=0.4") for name in "abc"), parallel=2)
    assert seen.at_once == 2


def test_ending_well_without_metrics_is_a_failure(tmp_path: Path) -> None:
    (status,), _ = run(job(tmp_path, "a", "nothing=1"))
    assert (status.state, status.note) == (State.FAILED, "without metrics.json")


def test_only_this_try_is_shown(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "output.log").write_text("of the last sweep\n")
    statuses, _ = run(job(tmp_path, "a", "fail=1"))
    assert "of the last sweep" not in failures(statuses)
    assert "of the last sweep" in (tmp_path / "a" / "output.log").read_text()


@pytest.mark.parametrize(("times", "state"), [(2, State.FINISHED), (9, State.STOPPED)])
def test_an_interrupted_job_is_started_again(tmp_path: Path, times: int, state: str) -> None:
    (status,), _ = run(job(tmp_path, "a", f"interrupted={times}"))
    assert status.state == state
    assert int((tmp_path / "a" / "tries").read_text()) == min(times, 3) + 1
    if state == State.STOPPED:
        with pytest.raises(SystemExit) as ended:
            end([status])
        assert ended.value.code == 75


def test_what_is_derived_waits_for_its_jobs(tmp_path: Path) -> None:
    later = job(tmp_path, "both", after=("a", "b"))
    statuses, seen = run(later, job(tmp_path, "a"), job(tmp_path, "b"), parallel=3, finished=("b",))
    assert states(statuses) == [State.FINISHED, State.FINISHED, State.EARLIER]
    assert seen.changes[-1] == ("both", State.FINISHED)
    statuses, _ = run(job(tmp_path, "no", after=("bad",)), job(tmp_path, "bad", "fail=1"))
    assert states(statuses) == [State.LEFT_OUT, State.FAILED]
    assert "no: needs bad" in failures(statuses)


def test_a_folder_that_is_in_use_is_waited_for(tmp_path: Path) -> None:
    """As by a job that a killed sweep left behind and that saves what it has."""
    (tmp_path / "a").mkdir()
    lock = FileLock(tmp_path / "a" / ".lock", thread_local=False)  # another thread lets it go
    lock.acquire()
    threading.Timer(0.5, lock.release).start()
    began = time.monotonic()
    statuses, seen = run(job(tmp_path, "a"))
    assert time.monotonic() - began >= 0.5
    assert states(statuses) == [State.FINISHED]
    assert seen.changes[0] == ("a", "waiting")


def test_a_signal_is_handed_on_and_waited_for(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "a", "seconds=60"), job(tmp_path, "b")]
    statuses = [Status(each) for each in jobs]
    scheduler = Scheduler(starter=Local(), changed=lambda _: None, seconds=TURN)

    def look() -> None:
        output = tmp_path / "a" / "output.log"
        if not scheduler.signals and output.exists() and "try" in output.read_text():
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    scheduler.run(statuses, look)
    assert states(statuses) == [State.STOPPED, State.STOPPED]
    assert "asked to stop" in (tmp_path / "a" / "output.log").read_text()
    assert not (tmp_path / "b").exists()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end the jobs of a dead process")
def test_jobs_of_a_killed_sweep_are_asked_to_stop(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from threeshnet.studies.launch import Job, Local\n"
        "folder = Path(sys.argv[1]); Local().start(Job('a', folder, ('sham', 'seconds=60', f'out=\"{folder}\"')))\n"
        "time.sleep(60)"
    )
    folder = tmp_path / "a"
    sweep = subprocess.Popen([sys.executable, "-c", script, str(folder)])
    wait_for(lambda: "try 1" in read(folder / "output.log"))
    sweep.kill()
    sweep.wait()
    wait_for(lambda: "asked to stop" in read(folder / "output.log"))


def read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def wait_for(true: Any, seconds: float = 120.0) -> None:
    end_of_patience = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end_of_patience
        time.sleep(TURN)


# ---- command lines and surroundings


def test_several_devices_are_torchruns(tmp_path: Path) -> None:
    one, two = Job("a", tmp_path, ("m", "x=1")), Job("a", tmp_path, ("m", "x=1"), devices=2)
    assert launch.command(one) == [sys.executable, "-m", "m", "x=1"]
    words = launch.command(two)
    assert words[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert words[6:] == ["-m", "m", "x=1"]


def test_a_job_takes_itself_for_no_part_of_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    outer = ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "THREESHNET_RUN_DIRECTORY", "PL_GLOBAL_SEED")
    for name in outer:
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = launch.environment(threads=3, gpus=["0", "2"])
    assert not set(outer) & set(found)
    assert (found["OMP_NUM_THREADS"], found["CUDA_VISIBLE_DEVICES"]) == ("3", "0,2")
    assert "CUDA_VISIBLE_DEVICES" not in launch.environment(threads=1) or "CUDA_VISIBLE_DEVICES" in os.environ


def test_code_without_git_says_its_commit_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # no git
    monkeypatch.setenv("THREESHNET_COMMIT", "abc")
    assert current_commit() == "abc"
    monkeypatch.delenv("THREESHNET_COMMIT")
    assert current_commit() == "unknown"


def test_git_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "def+\n"))
    monkeypatch.setenv("THREESHNET_COMMIT", "abc")
    assert current_commit() == "def+"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The cards of every job that was started; a job ends when it is asked for the second time."""
    found: list[set[str]] = []

    class Sham:
        def __init__(self, job: Job, variables: dict[str, str], gpus: list[str]) -> None:
            self.gpus, self.left = gpus, 2
            found.append(set(variables["CUDA_VISIBLE_DEVICES"].split(",")))

        def poll(self) -> int | None:
            self.left -= 1
            return None if self.left > 0 else 0

    monkeypatch.setattr(launch, "LocalProcess", Sham)
    return found


def test_cards_are_dealt_out_and_given_back(tmp_path: Path, seen: list[set[str]]) -> None:
    """Four GPUs, jobs of two: two at a time, never the same card twice."""
    local, jobs = Local(gpus=list("0123")), [Job(name, tmp_path, (), devices=2, on_gpu=True) for name in "abc"]
    assert local.room_for(jobs[0])
    local.start(jobs[0])
    assert local.room_for(jobs[1])
    local.start(jobs[1])
    assert not seen[0] & seen[1]
    assert local.room_for(jobs[2])  # both have ended by now
    local.start(jobs[2])
    assert len(seen[2]) == 2
    with pytest.raises(ConfigError, match=r"trainer\.devices=8, and there are 4 GPUs"):
        local.room_for(Job("d", tmp_path, (), devices=8, on_gpu=True))


def test_jobs_share_a_card_where_they_may(tmp_path: Path, seen: list[set[str]]) -> None:
    """Two GPUs of two places each: four jobs, spread evenly; a job of two processes gets two cards, never one twice."""
    local, job = Local(gpus=list("01"), jobs_per_gpu=2), Job("a", tmp_path, (), on_gpu=True)
    for _ in range(4):
        local.start(job)
    assert local.parallel == 4
    assert [sorted(cards) for cards in seen] == [["0"], ["1"], ["0"], ["1"]]
    assert not local.room_for(job)  # asked once: none has ended
    assert local.room_for(job)
    local.start(Job("b", tmp_path, (), devices=2, on_gpu=True))
    assert seen[-1] == {"0", "1"}
    with pytest.raises(ConfigError, match=r"trainer\.devices=3, and there are 2 GPUs"):
        local.room_for(Job("c", tmp_path, (), devices=3, on_gpu=True))


@pytest.mark.parametrize("wrong", [0, -1, None, "two", 1.5])
def test_so_many_jobs_cannot_share_a_card(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=f"jobs_per_gpu={wrong!r}: a whole number of jobs"):
        Local(gpus=["0"], jobs_per_gpu=wrong)


def test_a_sweep_and_a_multirun_hand_on_how_many_jobs_share_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = OmegaConf.create({"parallel": None, "jobs_per_gpu": 3, "cluster": {"executor": None, "options": None}})
    prepared: Any = [SimpleNamespace(gpus=("0", "1"))]
    assert starter_of(cfg, prepared, tmp_path).parallel == 6
    cfg.cluster.executor = "slurm"
    with pytest.raises(ConfigError, match="jobs_per_gpu=3: on a cluster"):
        starter_of(cfg, prepared, tmp_path)
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(multirun, "Local", lambda **given: asked.append(given) or Local())
    monkeypatch.setattr(multirun, "visible_gpus", lambda _: ["0"])
    monkeypatch.setattr(multirun.Scheduler, "run", lambda *_: None)
    given: Any = {"module": "m", "overrides": [["a"]], "folders": [tmp_path], "devices": [1], "accelerators": ["auto"]}
    run_multirun(**given, parallel=None, jobs_per_gpu=4)
    assert asked == [{"parallel": None, "gpus": ["0"], "jobs_per_gpu": 4}]
    assert ProcessLauncher(jobs_per_gpu=4).jobs_per_gpu == 4


@pytest.mark.parametrize("devices", ["none", 0, -3, "0"])
def test_wrong_devices_are_named(devices: Any) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.devices"):
        launch.processes(devices)


# ---- what is shown


def progress_of(folder: Path, **more: Any) -> None:
    facts = {
        "state": "running",
        "epoch": 2,
        "epochs": 8,
        "dev_rsum": 100.0,
        "best_dev_rsum": 123.4,
        "seconds_left": 90.0,
    }
    folder.mkdir(exist_ok=True)
    write_json(folder / "progress.json", facts | more)


def test_the_board_in_a_terminal_and_elsewhere(tmp_path: Path) -> None:
    statuses = [
        Status(job(tmp_path, "a=[x],seed=0"), State.RUNNING),
        Status(job(tmp_path, "b"), State.FAILED, "exit code 1"),
    ]
    progress_of(statuses[0].job.folder)
    shown = {}
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
        board = Board(statuses, title="a study", console=console)
        with board.shown():
            board.look()
            board.look()
            board.changed(statuses[1])
        shown[terminal] = console.file.getvalue()  # pyright: ignore
    for part in ("a study", "a=[x],seed=0", "2 of 8", "123.4", "1 min 30 s", "failed (exit code 1)"):
        assert part in shown[True]
    assert shown[False].splitlines() == [
        "[1/2] a=[x],seed=0: epoch 2 of 8, dev rsum 100.0, 1 min 30 s left",
        "[2/2] b: failed (exit code 1)",
    ]
