"""Signals that ask a run to stop: they are remembered, and answered where the run can be left."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from threeshnet.errors import STOPPING, Interrupted


class Signals:
    """Within it, SIGTERM, SIGINT and SIGUSR1 set `received` and nothing more; a second SIGINT ends the process.

    Lightning has handlers of its own (for SIGTERM one that talks to the other processes from within the handler, under
    SLURM one that saves and requeues for SIGUSR1): `take_over` comes after it has set them.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        if self._may_set():
            self._before = {each: signal.getsignal(each) for each in STOPPING}
        self.take_over()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}
        if self.received and worker_death(error):  # the signal went to the workers too
            raise Interrupted(f"{self.received}: left, as a loader worker was") from error

    def take_over(self) -> None:
        """Sets our handlers in place of others."""
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

    @staticmethod
    def _may_set() -> bool:
        return threading.current_thread() is threading.main_thread()


def worker_death(error: BaseException | None) -> bool:
    """Whether torch says that a process which reads batches has ended."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)
