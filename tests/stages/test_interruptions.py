"""Signals, locks, random states and logs of runs that are interrupted, each alone."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from threeshnet.batches.loader import Loader, TrainingLoader
from threeshnet.batches.order import CaptionBatches
from threeshnet.errors import STOPPING, CheckpointError, ConfigError, Interrupted
from threeshnet.processes import ends_with
from threeshnet.runs import lock
from threeshnet.runs.lock import locked
from threeshnet.training.csv_log import RunLog, carry_on, rows_of
from threeshnet.training.random_states import RandomStates, random_states, set_random_states
from threeshnet.training.signals import Signals

# ---- signals


@pytest.mark.parametrize("each", STOPPING, ids=str)
def test_a_signal_is_remembered_and_handlers_are_put_back(each: signal.Signals) -> None:
    before = signal.getsignal(each)
    with Signals() as signals:
        assert signals.received is None
        signal.signal(each, signal.SIG_DFL)  # as Lightning sets its own
        signals.take_over()
        os.kill(os.getpid(), each)
        assert signals.received == each.name
    assert signal.getsignal(each) == before


def in_a_fork(act: Any) -> int:
    if process := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    act()
    os._exit(0)


def test_a_second_sigint_ends_the_process() -> None:
    def twice() -> None:
        with Signals():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    assert in_a_fork(twice) == -signal.SIGINT


class Numbers(Dataset[int]):
    """Each item is the process that read it."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, number: int) -> int:
        return os.getpid()


@pytest.mark.parametrize(("method", "name"), [*(("fork", each) for each in STOPPING), ("spawn", signal.SIGTERM)])
def test_a_worker_takes_no_notice_of_signals_until_the_loader_ends_it(method: str, name: signal.Signals) -> None:
    """They come from another process than the loader's, as those of torchrun and of schedulers do."""
    batches = iter(Loader(Numbers(), num_workers=1, multiprocessing_context=method))
    worker = int(next(batches))
    for _ in range(3):
        subprocess.run(["kill", f"-{name.value}", str(worker)], check=True)
    assert {int(batch) for batch in batches} == {worker}
    assert ended(worker)


def test_the_loader_ends_its_worker_and_signals_are_held_back_from_workers_alone() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    batches = iter(Loader(Numbers(), num_workers=1, multiprocessing_context="fork"))
    worker = int(next(batches))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    subprocess.run(["kill", "-TERM", str(worker)], check=True)
    wait_until_taken(worker)
    os.kill(worker, signal.SIGTERM)
    assert ended(worker)


def wait_until_taken(worker: int, seconds: float = 10) -> None:
    """Until no signal waits for the process: a second one would be one with it, and from the sender of the first."""
    status, until = Path(f"/proc/{worker}/status"), time.monotonic() + seconds
    while status.exists() and re.search(r"^ShdPnd:\s*0*[1-9a-f]", status.read_text(), re.MULTILINE):
        assert time.monotonic() < until, "the worker takes no signals"
        time.sleep(0.01)


def ended(worker: int) -> bool:
    (process,) = [child for child in multiprocessing.active_children() if child.pid == worker] or [None]
    if process is not None:
        process.join(10)
    return process is None or process.exitcode is not None


def test_a_worker_that_dies_of_the_signal_is_an_interruption() -> None:
    def die() -> None:
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")

    signals = Signals()
    with pytest.raises(RuntimeError, match="killed"), signals:
        die()
    signals.received = "SIGTERM"
    with pytest.raises(Interrupted, match="SIGTERM"), signals:
        die()


# ---- one run in a folder


def failing(code: int) -> Callable[..., None]:
    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("locks", [True, False])
def test_the_holder_of_a_folder_is_named_and_a_dead_one_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    if not locks:
        monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))

    def die() -> None:
        with locked(tmp_path):
            os._exit(7)

    assert in_a_fork(die) == 7
    holder = f"process {os.getpid()} on {socket.gethostname()} is working there"
    with locked(tmp_path), pytest.raises(ConfigError, match=holder), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_acquire", failing(errno.EROFS))
    with pytest.raises(ConfigError, match="cannot be written: Read-only file system; give another OUT"):
        locked(tmp_path).__enter__()


# ---- random states


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(1).item()  # noqa: NPY002


def test_random_states_come_back() -> None:
    before = random_states()
    try:
        random.gauss(0, 1)  # leaves a second number in the state
        states = random_states()
        first = (random.gauss(0, 1), *draws())
        set_random_states(states)
        assert (random.gauss(0, 1), *draws()) == first
    finally:
        set_random_states(before)


def pending(checkpoint: dict[str, Any], rank: int = 0) -> dict[str, Any] | None:
    states, trainer = RandomStates(), SimpleNamespace(global_rank=rank)
    states.on_load_checkpoint(trainer, None, checkpoint)  # pyright: ignore[reportArgumentType]
    return states.pending


def test_every_process_takes_its_own_states_a_new_one_keeps_its_seed_and_an_earlier_version_is_refused() -> None:
    checkpoint: dict[str, Any] = {"random_states": ["of rank 0", "of rank 1"]}
    assert [pending(checkpoint, rank) for rank in (0, 1, 2)] == ["of rank 0", "of rank 1", None]
    for earlier in ({}, {"random_states": {"torch": torch.get_rng_state()}}):
        with pytest.raises(CheckpointError, match=r"of an earlier version.* another OUT"):
            pending(earlier)


# ---- the order of the captions when the number of processes changes


def taken(batches: CaptionBatches) -> list[set[int]]:
    return [{row for _, row in batch} for batch in batches]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 4)])
def test_the_order_goes_on_with_another_number_of_processes(before: int, after: int) -> None:
    def of(rank: int, processes: int) -> CaptionBatches:
        return CaptionBatches(np.arange(53), batch_size=8, seed=3, rank=rank, world_size=processes)

    undisturbed = taken(of(0, 1))
    loader = TrainingLoader(range(53), batches=of(0, before))
    loader.done = 2
    state = loader.state_dict()
    rest = []
    for rank in range(after):
        resumed = TrainingLoader(range(53), batches=of(rank, after))
        resumed.load_state_dict(state)
        rest.append(taken(resumed.batches))
    assert [set.union(*shares) for shares in zip(*rest, strict=True)] == undisturbed[2:]


# ---- metrics.csv


def test_the_log_is_whole_and_carried_on(tmp_path: Path) -> None:
    def a_log() -> RunLog:
        return RunLog(str(tmp_path), name="", version="log")

    log = a_log()
    log.log_metrics({"train/loss": 3.0}, 0)
    log.log_metrics({"train/loss": 2.0}, 1)
    log.save()
    log.log_metrics({"dev/rsum": 50.0}, 1)  # a new column
    log.log_metrics({"train/loss": 1.0}, 2)
    log.save()
    file = tmp_path / "log" / "metrics.csv"
    assert [row.get("train/loss") for row in rows_of(file)] == ["3.0", "2.0", None, "1.0"]
    assert [each.name for each in file.parent.iterdir()] == ["metrics.csv"]
    with file.open("a") as stream:
        stream.write("7.5")  # a line that was cut
    for pending, expected in ((False, ["3.0", "2.0", None]), (True, ["3.0", "2.0"])):
        late = {"train/loss": 2.0, "step": 1}
        assert carry_on([a_log()], {"global_step": 2, "evaluation_pending": pending, "row": late}) == 2
        assert [row.get("train/loss") for row in rows_of(file)] == expected
    carry_on([a_log()], {"global_step": 3, "evaluation_pending": False, "row": {"train/loss": 0.5, "step": 2}})
    assert [row["train/loss"] for row in rows_of(file)] == ["3.0", "2.0", "0.5"]


def test_a_log_that_cannot_be_written_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = RunLog(str(tmp_path), name="", version="log")
    log.log_metrics({"train/loss": 3.0}, 0)
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", failing(errno.ENOSPC))
        log.save()
        log.save()
    assert caplog.text.count("cannot be written yet: No space left on device") == 1
    log.save()
    assert rows_of(tmp_path / "log" / "metrics.csv")[0]["train/loss"] == "3.0"


def test_under_a_fork_server_a_worker_has_another_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.14 has one on Linux; elsewhere another parent means that ours is dead."""
    ended: list[int] = []
    monkeypatch.setattr("threeshnet.processes.os._exit", ended.append)
    for method, expected in (("fork", [1]), ("forkserver", [1])):
        monkeypatch.setattr("threeshnet.processes.multiprocessing.get_start_method", lambda method=method, **_: method)
        ask = ends_with(parent=-1, number=0)  # 0 asks for no signal
        assert ask is not None
        ask()
        assert ended == expected
