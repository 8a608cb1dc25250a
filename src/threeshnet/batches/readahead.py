"""Readahead: the order of an epoch is known, so the system can load the next images into the page cache early."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np

from threeshnet.errors import ThreeSHNetError
from threeshnet.shards.reader import ShardedSplit

GROUPS_AHEAD = 2  # one is read by the workers while the next one comes from the disk
MEGABYTE = 1_000_000
log = logging.getLogger(__name__)

# A fork while the thread works would copy locks that nobody releases, so it waits until the thread rests.
_at_work = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_at_work.acquire, after_in_parent=_at_work.release, after_in_child=_at_work.release)


class Readahead:
    """Announces the images of coming batches to the system (`posix_fadvise`), in a thread, within a budget of bytes.

    A group of batches takes half of the budget, or one window of the order if that is less. Its images are announced in
    the order of the files, so that neighbours become one long read. A data set that fits the budget is left alone.
    """

    def __init__(self, *, splits: Sequence[ShardedSplit], fields: Collection[str], megabytes: int) -> None:
        """`fields` of region, grid, seg; `megabytes` is the budget, and 0 switches readahead off."""
        self.fields, self.budget = tuple(fields), megabytes * MEGABYTE
        self.splits = [split.again() for split in splits]  # the thread has its own open files
        self.starts = np.cumsum([0] + [split.images for split in splits])
        sizes = [split.image_bytes(self.fields) * split.images for split in splits]
        self.image_bytes = max(1, sum(sizes) // max(1, int(self.starts[-1])))
        self.active = 0 < self.budget < sum(sizes)
        self._ready = threading.Condition()
        self._done, self._stopped = 0, True
        self._thread: threading.Thread | None = None

    def start(self, batches: Iterable[np.ndarray], *, together: int | None = None) -> None:
        """Follow an epoch of `batches`: image numbers [B] through all splits. `together` is the batches of a window."""
        self.stop()
        if self.active:
            self._done, self._stopped = 0, False
            self._thread = threading.Thread(target=self._work, args=(batches, together), name="readahead", daemon=True)
            self._thread.start()

    def advance(self) -> None:
        """Training took one more batch."""
        with self._ready:
            self._done += 1
            self._ready.notify()

    def stop(self) -> None:
        """End the thread."""
        with self._ready:
            self._stopped = True
            self._ready.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def groups(self, batches: Iterable[np.ndarray], together: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """(number of batches, their distinct images, ascending) of each group: half of the budget, at least one batch.

        No group has more than `together` batches.
        """
        room = self.budget // GROUPS_AHEAD // self.image_bytes
        waiting: list[np.ndarray] = []
        for batch in batches:
            full = sum(map(len, waiting)) + len(batch) > room or len(waiting) == together
            if waiting and full:
                yield len(waiting), np.unique(np.concatenate(waiting))
                waiting = []
            waiting.append(batch)
        if waiting:
            yield len(waiting), np.unique(np.concatenate(waiting))

    def _work(self, batches: Iterable[np.ndarray], together: int | None) -> None:
        begins = [0]  # the batch that each group starts with
        for count, images in self.groups(batches, together):
            begins.append(begins[-1] + count)
            allowed = begins[max(0, len(begins) - 1 - GROUPS_AHEAD)]
            with self._ready:
                self._ready.wait_for(lambda: self._stopped or self._done >= allowed)  # noqa: B023  (called at once)
                if self._stopped:
                    return
            try:
                with _at_work:
                    self._announce(images)
            except (ThreeSHNetError, OSError) as error:  # reading will fail too, and report it
                log.debug("readahead ends: %s", error)
                return

    def _announce(self, images: np.ndarray) -> None:
        homes = np.searchsorted(self.starts, images, side="right") - 1
        for home in np.unique(homes).tolist():
            self.splits[home].announce(images[homes == home] - self.starts[home], self.fields)
