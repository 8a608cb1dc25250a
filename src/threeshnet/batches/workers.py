"""A loader whose workers outlive a signal to the whole job, and end when the loader says so."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from threeshnet.errors import STOPPING

T = TypeVar("T")
# Who sent a signal is known where there is sigwaitinfo. Elsewhere (macOS, Windows) workers have torch's handlers.
SENDER_KNOWN = hasattr(signal, "sigwaitinfo")


class Loader(DataLoader[T]):
    """torch's loader; in its workers SIGTERM, SIGINT and SIGUSR1 from anybody but the loader's process do nothing.

    torchrun, schedulers and terminals signal every process of a job. The run answers with a last step and a checkpoint
    (`training.signals`), and needs its workers for that: torch's handler would end them, and the run with them.
    """

    def __init__(self, dataset: Any, **options: Any) -> None:
        super().__init__(dataset, worker_init_fn=partial(_listen_to, os.getpid()), **options)

    def __iter__(self) -> Iterator[T]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.num_workers and _start_method(self.multiprocessing_context) != "fork":
            resource_tracker.ensure_running()  # it would let SIGTERM and SIGINT through again when it starts
        with _held_back():
            return super().__iter__()


def _start_method(context: Any) -> str:
    return (context or multiprocessing).get_start_method()


@contextmanager
def _held_back() -> Iterator[None]:
    """Processes started within it begin with the signals held back, in all threads that their imports start."""
    if not SENDER_KNOWN:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _listen_to(loader: int, _worker: int) -> None:
    """In a worker: take in the signals that are held back, and end at a SIGTERM of the process `loader`."""
    if SENDER_KNOWN:
        threading.Thread(target=_take_in, args=(loader,), daemon=True).start()


def _take_in(loader: int) -> None:
    while True:
        arrived = signal.sigwaitinfo(STOPPING)
        if arrived.si_signo == signal.SIGTERM and arrived.si_pid == loader:
            os._exit(0)
