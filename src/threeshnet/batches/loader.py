"""Data loaders that survive a signal to the whole job, and that go on in the middle of an epoch."""

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

from threeshnet.batches.order import CaptionBatches
from threeshnet.batches.readahead import Readahead
from threeshnet.errors import STOPPING, ConfigError, Problems
from threeshnet.processes import reads_for
from threeshnet.records import Batch

T = TypeVar("T")
# Without sigwaitinfo (macOS, Windows) the sender of a signal is unknown: workers keep torch's handlers.
SENDER_KNOWN = hasattr(signal, "sigwaitinfo")


class Loader(DataLoader[T]):
    """torch's loader, whose workers ignore SIGTERM, SIGINT and SIGUSR1 from any process but the loader's.

    torchrun, schedulers and terminals signal every process of a job. The main process then takes a last step and saves
    a checkpoint (`training.signals`), for which it needs its workers. torch's handler would end them, and the run.
    """

    def __init__(self, dataset: Any, **options: Any) -> None:
        super().__init__(dataset, worker_init_fn=partial(_ignore_signals, os.getpid()), **options)

    def __iter__(self) -> Iterator[T]:  # pyright: ignore[reportIncompatibleMethodOverride]
        context = self.multiprocessing_context or multiprocessing
        if self.num_workers and context.get_start_method() != "fork":
            resource_tracker.ensure_running()  # when it starts, it unblocks SIGTERM and SIGINT
        with _signals_blocked():
            return super().__iter__()


class TrainingLoader(Loader[Batch]):
    """Counts the batches that training took. Lightning saves the count in the checkpoint and restores it on resume."""

    def __init__(
        self, dataset: Any, *, batches: CaptionBatches, readahead: Readahead | None = None, **options: Any
    ) -> None:
        """`readahead` announces the images of each epoch; `options` are those of torch's DataLoader."""
        super().__init__(dataset, batch_sampler=batches, **options)
        self.batches, self.readahead = batches, readahead
        self.done = 0

    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # A generator, because Lightning makes the iterator of a resumed run first and sets the epoch later.
        self.done = self.batches.first_batch
        try:
            for batch in self._announced(super().__iter__()):
                self.done += 1  # before the yield: Lightning does not come back after the last batch
                yield batch
        finally:
            if self.readahead is not None:
                self.readahead.stop()

    def _announced(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """`batches`, announced ahead. The iterator has started the workers already, so none inherits the thread."""
        if self.readahead is None:
            yield from batches
            return
        owners = self.batches.owners
        images = (owners[rows] for rows in self.batches.shares())
        self.readahead.start(images, together=self.batches.batches_of_a_window)
        for batch in batches:
            self.readahead.advance()
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The position in the epoch, and the settings that it depends on."""
        return {"epoch": self.batches.epoch, "batches": self.done, **self.batches.identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`.  Raises ConfigError when the batches of the epoch differ from those of `state`."""
        now = self.batches.identity()
        began = {name: value for name, value in state.items() if name not in ("epoch", "batches")}
        began.setdefault("order", "shuffle")  # states of the first version do not name the order
        problems = Problems("resume in the middle of an epoch")
        problems.extend(
            f"{name}={now.get(name)}, but the run began with {began.get(name)}"
            for name in sorted(now.keys() | began.keys())
            if now.get(name) != began.get(name)
        )
        finished = state["batches"] >= len(self.batches)
        if not finished:  # the next epoch may have other batches
            problems.raise_as(ConfigError, "Resume with the settings of the run, or start afresh in another folder.")
        self.batches.set_epoch(state["epoch"] + int(finished))
        self.batches.start_at(0 if finished else state["batches"])
        self.done = self.batches.first_batch


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Processes that start inside begin with the signals blocked, in every thread that their imports start."""
    if not SENDER_KNOWN:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ignore_signals(loader: int, _worker: int) -> None:
    """In a worker: discard the blocked signals, and end at a SIGTERM from the process `loader`, or with it."""
    reads_for(loader)
    if SENDER_KNOWN:
        threading.Thread(target=_discard, args=(loader,), daemon=True).start()


def _discard(loader: int) -> None:
    while True:
        arrived = signal.sigwaitinfo(STOPPING)
        if arrived.si_signo == signal.SIGTERM and arrived.si_pid == loader:
            os._exit(0)
