"""From predictions to files: a Lightning callback that fills shard after shard."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BasePredictionWriter

from threeshnet.errors import DataError, Interrupted
from threeshnet.features.predict import Extracted
from threeshnet.files import free_bytes
from threeshnet.shards.manifest import printable
from threeshnet.shards.plan import PlannedShard, masks_digest
from threeshnet.shards.writer import ShardWriter, bytes_of

log = logging.getLogger(__name__)
ROUGHLY = 0.9  # other photos may have fewer regions


def batches_within_shards(pending: Sequence[PlannedShard], batch_size: int) -> Iterator[list[int]]:
    """Numbers of photos batch by batch, counted over all pending shards; none straddles two shards.

    So a run that was interrupted makes the same batches, and with them the same bytes, as one that was not.
    """
    start = 0
    for shard in pending:
        end = start + len(shard.photos)
        yield from (list(range(first, min(first + batch_size, end))) for first in range(start, end, batch_size))
        start = end


class ShardFiller(BasePredictionWriter):
    """Writes each batch into the shard it belongs to and finishes the shard with its last photo.

    `on_error`: "skip" lists a damaged photo in its shard and leaves it out, "stop" raises DataError.
    """

    def __init__(
        self,
        *,
        folder: Path,
        pending: Sequence[PlannedShard],
        raw: Path,
        grid_size: tuple[int, int] | None,
        on_error: Literal["skip", "stop"] = "skip",
        compression: str | None = None,
    ) -> None:
        super().__init__("batch")
        self.compression = compression
        self.folder, self.raw, self.grid_size, self.on_error = folder, raw, grid_size, on_error
        self.photos = [photo for shard in pending for photo in shard.photos]
        self.waiting = list(pending)
        self.writer: ShardWriter | None = None
        self.left = 0  # photos that the open shard still waits for
        self.seconds: Counter[str] = Counter()  # spent on each split
        self.done: Counter[str] = Counter()  # photos of each split that were worked on
        self._clock = 0.0

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        del trainer, pl_module
        self._clock = time.perf_counter()

    def write_on_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, prediction: Extracted, *args: Any, **kwargs: Any
    ) -> None:
        del pl_module, args, kwargs
        if trainer.received_sigterm:  # Lightning's predict loop notes a SIGTERM but would go on
            raise Interrupted("SIGTERM: stopped. Run the same command again")
        shard = self.waiting[0]
        if not self.done:
            self.check_room(prediction)
        if self.writer is None:
            options: Any = {"fingerprint": shard.fingerprint, "compression": self.compression}
            options["masks"] = masks_digest([shard])
            self.writer = ShardWriter(self.folder / shard.file, raw=self.raw, grid_size=self.grid_size, **options)
            self.left = len(shard.photos)
        photos = [self.photos[number] for number in prediction.numbers]
        self.writer.append(photos, prediction.arrays, prediction.sizes, prediction.fingerprints)
        reasons = [reason for _, reason in prediction.damaged]
        if reasons and self.on_error == "stop":
            raise DataError(f"{reasons[0]}; put the photo right, or leave damaged photos out with on_error=skip")
        self.writer.left_out += map(printable, reasons)
        now, worked_on = time.perf_counter(), len(photos) + len(reasons)
        self.seconds[shard.split] += now - self._clock  # pyright: ignore
        self.done[shard.split] += worked_on
        self._clock, self.left = now, self.left - worked_on
        if self.left == 0:
            if not self.writer.images:
                raise DataError(
                    f"{shard.file}: none of its {len(shard.photos)} photos can be read, the first because "
                    f"{self.writer.left_out[0]}; is RAW={self.raw} the right folder?"
                )
            self.writer.close()
            self.writer = None
            self.waiting.pop(0)

    def check_room(self, first: Extracted) -> None:
        """Raises DataError, before anything is written, where all photos have no room by the size of the first ones."""
        if not first.numbers or self.compression:
            return
        needed = bytes_of(first.arrays) / len(first.numbers) * len(self.photos)
        free = free_bytes(self.folder)
        if needed * ROUGHLY > free:
            raise DataError(
                f"shards of {len(self.photos)} photos need about {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are "
                f"free at {self.folder}: make room, or give another out=<folder>. Nothing was written"
            )

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        del trainer, pl_module
        if self.writer is not None:
            self.writer.abandon()
        if isinstance(exception, Interrupted) or not isinstance(exception, Exception):
            log.warning("Stopped. Whole shards are kept in %s; the same command goes on after them.", self.folder)
