"""Runs jobs until each has finished or failed; a job that fails does not stop the others."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from types import FrameType
from typing import Any

from threeshnet.errors import ConfigError, Interrupted
from threeshnet.runs.records import INTERRUPTED
from threeshnet.runs.run import Run
from threeshnet.studies.launch import Job, Started, Starter

RESTARTS = 3  # of a job that is interrupted although the sweep goes on
LAST_LINES = 12
TORCHRUNS_SUMMARY = re.compile(r"[EW]\d{4} .*torch/distributed/")


class State(StrEnum):
    """How a job stands."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    EARLIER = "finished before"
    FAILED = "failed"
    LEFT_OUT = "left out"  # a job that it needs has failed
    STOPPED = "interrupted"
    PRUNED = "pruned"  # by a search


DONE = (State.FINISHED, State.EARLIER)


@dataclass
class Status:
    """A job and how it stands."""

    job: Job
    state: State = State.WAITING
    note: str = ""  # why it failed or waits, or which run it shares
    started: Started | None = field(default=None, repr=False)
    output_before: int = 0  # bytes of its log when this start began
    restarts: int = 0

    @property
    def ended(self) -> bool:
        return self.state not in (State.WAITING, State.RUNNING)


class JobsFailed(ConfigError):
    """At least one job failed; the others have run."""


class Scheduler:
    """Starts jobs in order while there is room, and watches them. `changed` is called with every changed status."""

    def __init__(self, *, starter: Starter, changed: Callable[[Status], None], seconds: float = 0.5) -> None:
        self.starter, self.changed, self.seconds = starter, changed, seconds
        self.signals = 0  # how many have asked the sweep to stop

    def run(self, statuses: Sequence[Status], look: Callable[[], None]) -> None:
        """Runs until all jobs have ended; calls `look` at every turn. On SIGTERM or SIGINT the jobs save and end."""
        with self.stopped_by_signals():
            while any(not status.ended for status in statuses):
                self.turn(statuses)
                look()
                if any(not status.ended for status in statuses):
                    self.rest()

    def rest(self) -> None:
        time.sleep(self.seconds)

    def turn(self, statuses: Sequence[Status]) -> None:
        """Records the jobs that have ended, and starts those there is room for."""
        for status in statuses:
            if status.state is State.RUNNING:
                self.poll(status)
        if self.signals:
            self.stop(statuses)
            return
        by_name = {status.job.name: status for status in statuses}
        for status in statuses:
            if status.state is State.WAITING and self.can_start(status, by_name) and self.starter.room_for(status.job):
                self.start(status)

    def can_start(self, status: Status, by_name: dict[str, Status]) -> bool:
        needed = [by_name[name] for name in status.job.after]
        if lacking := [other.job.name for other in needed if other.ended and other.state not in DONE]:
            self.change(status, State.LEFT_OUT, f"needs {', '.join(lacking)}")
            return False
        if not all(other.state in DONE for other in needed):
            return False
        busy = Run(status.job.folder).is_locked
        if busy and not status.note:
            self.change(status, State.WAITING, "another process works in its folder")
        return not busy

    def start(self, status: Status) -> None:
        output = Run(status.job.folder).output
        status.output_before = output.stat().st_size if output.exists() else 0
        status.started = self.starter.start(status.job)
        self.change(status, State.RUNNING)

    def poll(self, status: Status) -> None:
        assert status.started is not None
        code = status.started.poll()
        if code is None:
            return
        run = Run(status.job.folder)
        if code == 0 and run.is_finished:
            self.change(status, State.FINISHED)
        elif code == Interrupted.exit_code or run.progress.state == INTERRUPTED:
            again = not self.signals and status.restarts < RESTARTS
            status.restarts += 1
            self.change(status, State.WAITING if again else State.STOPPED, "was interrupted")
        else:
            without = f"without {run.metrics_file.name}"
            how = f"ended by signal {-code}" if code < 0 else f"exit code {code}" if code else without
            self.change(status, State.FAILED, how)

    def stop(self, statuses: Sequence[Status]) -> None:
        number = signal.SIGTERM if self.signals == 1 else signal.SIGKILL
        for status in statuses:
            if status.state is State.WAITING:
                self.change(status, State.STOPPED, "not started")
            elif status.state is State.RUNNING and status.started is not None and status.note != f"signal {number}":
                status.started.stop(number)
                self.change(status, State.RUNNING, f"signal {number}")

    def prune(self, status: Status) -> None:
        """Stops one running job for good."""
        assert status.started is not None
        status.started.stop(signal.SIGTERM)
        while status.started.poll() is None:
            self.rest()
        self.change(status, State.PRUNED)

    def change(self, status: Status, state: State, note: str = "") -> None:
        status.state, status.note = state, note
        self.changed(status)

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Counts SIGTERM and SIGINT: jobs get SIGTERM after the first, SIGKILL after the second."""

        def count(_number: int, _frame: FrameType | None) -> None:
            self.signals += 1

        before: dict[int, Any] = {number: signal.signal(number, count) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def end(statuses: Sequence[Status]) -> None:
    """Returns when all jobs are done.  Raises JobsFailed, or SystemExit(75) when jobs wait to be resumed."""
    if message := failures(statuses):
        raise JobsFailed(message)
    if any(status.state is State.STOPPED for status in statuses):
        sys.stderr.write("interrupted; the same command goes on with what is not finished\n")
        sys.exit(Interrupted.exit_code)


def failures(statuses: Sequence[Status]) -> str:
    """The failed jobs, each with its exit code and the last lines of its log; empty when none failed."""
    failed = [status for status in statuses if status.state in (State.FAILED, State.LEFT_OUT)]
    lines = [f"{len(failed)} of {len(statuses)} jobs failed:"] if failed else []
    for status in failed:
        lines.append(f"  - {status.job.name}: {status.note}")
        if status.state is State.FAILED:
            lines += [f"      {line}" for line in last_lines(status)]
            lines.append(f"    all of it: {Run(status.job.folder).output}")
    return "\n".join(lines)


def last_lines(status: Status, count: int = LAST_LINES) -> list[str]:
    """The end of a job's log since its last start, without torchrun's summary, which hides the reason."""
    file = Run(status.job.folder).output
    if not file.exists():
        return []
    with file.open("rb") as opened:
        opened.seek(status.output_before)
        lines = opened.read().decode("utf-8", "replace").splitlines()
    own = next((number for number, line in enumerate(lines) if TORCHRUNS_SUMMARY.match(line)), len(lines))
    written = [line.rsplit("\r", 1)[-1].rstrip() for line in lines[:own] or lines]
    return [line for line in written if line][-count:]
