"""Signals that ask a command to stop, where the command has no handlers of its own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from threeshnet.errors import STOPPING, Interrupted


class Interruption(BaseException):
    """Carries an interruption past Hydra, which treats every Exception as the end of one job."""

    def __init__(self, reason: Interrupted) -> None:
        super().__init__(str(reason))
        self.reason = reason


def stopped(name: str) -> Interrupted:
    """The error of a command that a signal ended, where no checkpoint says more."""
    return Interrupted(f"{name}: stopped. Run the same command again; finished shards and jobs are kept")


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within it, the first SIGTERM, SIGINT or SIGUSR1 raises Interruption; a second SIGINT ends the process at once.

    Further ones are ignored: `timeout` and schedulers signal a process and then its group. What was ignored before, as
    by `nohup` or in the background, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()
    before: dict[signal.Signals, Any] = {each: signal.getsignal(each) for each in STOPPING}
    before = {each: handler for each, handler in before.items() if handler is not signal.SIG_IGN}

    def stop(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a loader worker, whose process group was signalled
            raise KeyboardInterrupt
        for each in before:
            signal.signal(each, signal.SIG_DFL if each is signal.SIGINT else signal.SIG_IGN)
        raise Interruption(stopped(signal.Signals(number).name))

    for each in before:
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
