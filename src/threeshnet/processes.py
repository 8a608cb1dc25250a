"""Processes that end with the process that started them, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

SHARED_OUT = "THREESHNET_RUN_DIRECTORY"  # tells the processes that Lightning starts where rank 0 works
PR_SET_PDEATHSIG = 1  # of Linux' prctl: the signal that a process gets when its parent dies


def ends_with(parent: int, number: int = signal.SIGTERM) -> Callable[[], None] | None:
    """What a new process of `parent` has to call: it then gets a signal when its parent dies, even by SIGKILL.

    None where the system has no such thing, which is everywhere but on Linux.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # loaded before the fork: nothing may be loaded after it

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # the parent died between the fork and this line
            os._exit(1)

    return ask


def reads_for(parent: int, _worker: int = 0) -> None:
    """What a worker of a loader of `parent` calls first: it is killed when its parent dies, at once, in any read."""
    if (ask := ends_with(parent, signal.SIGKILL)) is not None:
        ask()
