"""Processes that end with the process that started them, however that ends, and work shared among several."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from threeshnet.errors import STOPPING, ThreeSHNetError

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
        by_server = multiprocessing.get_start_method(allow_none=True) == "forkserver"  # whose server is the parent
        if os.getppid() != parent and not by_server:  # the parent died between the fork and this line
            os._exit(1)

    return ask


def reads_for(parent: int, _worker: int = 0) -> None:
    """What a worker of a loader of `parent` calls first: it is killed when its parent dies, at once, in any read."""
    if (ask := ends_with(parent, signal.SIGKILL)) is not None:
        ask()


@contextmanager
def several_processes(count: int, at_once: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Gives a `map` that works in `count` processes, `at_once` items each; for a count of one it works in this process.

    When the context ends early, what is being worked on is finished and the rest is left. Not multiprocessing.Pool: it
    ends its processes by SIGTERM, and sometimes waits for ever where they have a handler for it, as under a command.
    Raises ThreeSHNetError when a process is killed.
    """
    if count < 2:
        yield map
        return
    pool = ProcessPoolExecutor(count, initializer=_works_for, initargs=(os.getpid(),))
    try:
        yield lambda function, items: pool.map(function, items, chunksize=at_once)
    except BrokenProcessPool as error:
        raise ThreeSHNetError(
            "a process was killed, as a system short of memory does. Run the same command again: what is done is kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _works_for(parent: int) -> None:
    """What a process of a pool calls first: signals are for the parent, which ends it."""
    reads_for(parent)
    for each in STOPPING:
        signal.signal(each, signal.SIG_IGN)
