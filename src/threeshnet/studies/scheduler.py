"""Runs jobs until each is finished or has failed; one that fails does not stop the others."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from threeshnet.runs import progress
from threeshnet.studies.launch import OUTPUT, Job, Started, Starter

METRICS = "metrics.json"  # a run directory that has it is finished
INTERRUPTED = 75  # exit code of a command that was stopped from outside and has saved what it had
RESTARTS = 3  # of a job that is interrupted while nobody asked the sweep to stop
LAST_LINES = 12
TORCHRUNS_OWN = re.compile(r"[EW]\d{4} .*torch/distributed/")
WAITING, RUNNING, FINISHED, EARLIER = "waiting", "running", "finished", "finished before"
FAILED, LEFT_OUT, STOPPED = "failed", "left out", "interrupted"
DONE = (FINISHED, EARLIER)


@dataclass
class Status:
    """A job and how it stands."""

    job: Job
    state: str = WAITING
    note: str = ""  # why it failed or waits; of which run it is
    started: Started | None = field(default=None, repr=False)
    output_before: int = 0  # bytes that output.log held when this try began
    restarts: int = 0

    @property
    def ended(self) -> bool:
        return self.state not in (WAITING, RUNNING)


class Runner:
    """Starts jobs in order as there is room, and watches them. `changed` is told of every status that changes."""

    def __init__(self, *, starter: Starter, changed: Callable[[Status], None], seconds: float = 0.5) -> None:
        self.starter, self.changed, self.seconds = starter, changed, seconds
        self.signals = 0  # how often it was asked to stop

    def run(self, statuses: Sequence[Status], look: Callable[[], None]) -> None:
        """Until all have ended; `look` is called at every turn. On SIGTERM or SIGINT jobs are asked to save and end."""
        with self.asked_to_stop():
            while any(not status.ended for status in statuses):
                self.turn(statuses)
                look()
                if any(not status.ended for status in statuses):
                    self.rest()

    def rest(self) -> None:
        time.sleep(self.seconds)

    def turn(self, statuses: Sequence[Status]) -> None:
        """Take in what has ended, start what there is room for."""
        for status in statuses:
            if status.state == RUNNING:
                self.take_in(status)
        if self.signals:
            self.stop(statuses)
            return
        known = {status.job.name: status for status in statuses}
        for status in statuses:
            if status.state == WAITING and self.ready(status, known) and self.starter.room_for(status.job):
                self.start(status)

    def ready(self, status: Status, known: dict[str, Status]) -> bool:
        before = [known[name] for name in status.job.after]
        lacking = [other.job.name for other in before if other.ended and other.state not in DONE]
        if lacking:
            self.change(status, LEFT_OUT, f"needs {', '.join(lacking)}")
            return False
        if not all(other.state in DONE for other in before):
            return False
        busy = is_held(status.job.folder)
        if busy and not status.note:
            self.change(status, WAITING, "another process works in its folder")
        return not busy

    def start(self, status: Status) -> None:
        output = status.job.folder / OUTPUT
        status.output_before = output.stat().st_size if output.exists() else 0
        status.started = self.starter.start(status.job)
        self.change(status, RUNNING)

    def take_in(self, status: Status) -> None:
        assert status.started is not None
        code = status.started.poll()
        if code is None:
            return
        if code == 0 and (status.job.folder / METRICS).exists():
            self.change(status, FINISHED)
        elif code == INTERRUPTED or progress.read(status.job.folder).get("state") == progress.INTERRUPTED:
            again = not self.signals and status.restarts < RESTARTS
            status.restarts += 1
            self.change(status, WAITING if again else STOPPED, "was interrupted")
        else:
            how = f"ended by signal {-code}" if code < 0 else f"exit code {code}" if code else f"without {METRICS}"
            self.change(status, FAILED, how)

    def stop(self, statuses: Sequence[Status]) -> None:
        number = signal.SIGTERM if self.signals == 1 else signal.SIGKILL
        for status in statuses:
            if status.state == WAITING:
                self.change(status, STOPPED, "not started")
            elif status.state == RUNNING and status.started is not None and status.note != f"signal {number}":
                status.started.stop(number)
                self.change(status, RUNNING, f"signal {number}")

    def change(self, status: Status, state: str, note: str = "") -> None:
        status.state, status.note = state, note
        self.changed(status)

    @contextmanager
    def asked_to_stop(self) -> Iterator[None]:
        """SIGTERM and SIGINT are counted here: the first is handed on as SIGTERM, the second as SIGKILL."""

        def count(_number: int, _frame: FrameType | None) -> None:
            self.signals += 1

        before: dict[int, Any] = {number: signal.signal(number, count) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def is_held(folder: Path) -> bool:
    """Whether a process works in a run directory."""
    lock = folder / ".lock"
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def last_lines(status: Status, count: int = LAST_LINES) -> list[str]:
    """The end of what a job wrote in this try, without torchrun's own summary, which hides the reason."""
    file = status.job.folder / OUTPUT
    if not file.exists():
        return []
    with file.open("rb") as opened:
        opened.seek(status.output_before)
        lines = opened.read().decode("utf-8", "replace").splitlines()
    own = next((number for number, line in enumerate(lines) if TORCHRUNS_OWN.match(line)), len(lines))
    written = [line.rsplit("\r", 1)[-1].rstrip() for line in lines[:own] or lines]
    return [line for line in written if line][-count:]


def failures(statuses: Sequence[Status]) -> str:
    """The jobs that failed, each with how it ended and the last lines of its log; empty when none did."""
    failed = [status for status in statuses if status.state in (FAILED, LEFT_OUT)]
    if not failed:
        return ""
    lines = [f"{len(failed)} of {len(statuses)} jobs failed:"]
    for status in failed:
        lines.append(f"  - {status.job.name}: {status.note}")
        if status.state == FAILED:
            lines += [f"      {line}" for line in last_lines(status)]
            lines.append(f"    all of it: {status.job.folder / OUTPUT}")
    return "\n".join(lines)
