"""A data loader that can stop in the middle of an epoch and go on there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from threeshnet.batches.readahead import Readahead
from threeshnet.batches.sampler import CaptionBatches
from threeshnet.batches.workers import Loader
from threeshnet.errors import ConfigError, Problems
from threeshnet.records import Batch


class TrainingLoader(Loader[Batch]):
    """Counts the batches it handed out, which Lightning keeps in the checkpoint and gives back on resume."""

    def __init__(
        self, dataset: Any, *, batches: CaptionBatches, readahead: Readahead | None = None, **options: Any
    ) -> None:
        """`readahead` is told of each epoch's images; `options` are torch's."""
        super().__init__(dataset, batch_sampler=batches, **options)
        self.batches, self.readahead = batches, readahead
        self.done = 0

    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # A generator, so that nothing is read before the first batch is asked for: Lightning makes the iterator of a
        # resumed run first and says which epoch it is later.
        self.done = self.batches.first_batch
        try:
            for batch in self._announced(super().__iter__()):
                self.done += 1  # before the yield: Lightning does not come back after the last batch
                yield batch
        finally:
            if self.readahead is not None:
                self.readahead.stop()

    def _announced(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """`batches`, whose images are announced ahead; workers were started with the iterator, before the thread."""
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
        """Where training stands, and what that position depends on."""
        return {"epoch": self.batches.epoch, "batches": self.done, **self.batches.identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; raises ConfigError when the batches are not those that it counted."""
        now = self.batches.identity()
        began = {name: value for name, value in state.items() if name not in ("epoch", "batches")}
        began.setdefault("order", "shuffle")  # the only one there was when states did not name it
        problems = Problems("resume in the middle of an epoch")
        problems.extend(
            f"{name}={now.get(name)}, but the run began with {began.get(name)}"
            for name in sorted(now.keys() | began.keys())
            if now.get(name) != began.get(name)
        )
        finished = state["batches"] >= len(self.batches)
        if not finished:  # the next epoch may have other batches, this one may not
            problems.raise_as(ConfigError, "Resume with the settings of the run, or start afresh in another folder.")
        self.batches.set_epoch(state["epoch"] + int(finished))
        self.batches.start_at(0 if finished else state["batches"])
        self.done = self.batches.first_batch
