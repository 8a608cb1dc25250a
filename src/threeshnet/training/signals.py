"""Signals that ask a run to stop. They are stored and handled where the run can stop."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from threeshnet.errors import STOPPING, Interrupted


class Signals:
    """Within its context, SIGTERM, SIGINT and SIGUSR1 only set `received`; a second SIGINT ends the process.

    Lightning sets handlers of its own: for SIGTERM one that communicates with other processes, under SLURM one that
    saves and requeues for SIGUSR1. `take_over` must be called after that.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            self._before = {each: signal.getsignal(each) for each in STOPPING}
        self.take_over()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}
        if self.received and worker_death(error):  # the signal reached the workers too
            raise Interrupted(f"{self.received}: left, as a loader worker was") from error

    def take_over(self) -> None:
        for each in self._before:
            signal.signal(each, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        arrived = signal.Signals(number)
        again, self.received = self.received is not None, arrived.name
        if again and arrived is signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not again:
            leave = "; a second one leaves at once" if arrived is signal.SIGINT else ""
            os.write(2, f"{arrived.name}: saving at the end of this step{leave}\n".encode())


def worker_death(error: BaseException | None) -> bool:
    """Whether the error is torch's message about a dead loader worker."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


def ended_by(error: BaseException) -> str | None:
    """The signal that asked a dead loader worker to stop, as `SIGTERM`; None for another death, as by SIGKILL."""
    return next((each.name for each in STOPPING if f"signal: {signal.strsignal(each)}" in str(error)), None)
