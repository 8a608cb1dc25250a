"""Photos to a shard folder: plan, extract what is missing, write the manifest last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from threeshnet.errors import ConfigError, one_of
from threeshnet.features.extractor import Extractor
from threeshnet.features.photos import LoadedBatch, PhotoBatches
from threeshnet.features.predict import Extraction, PhotoProgress
from threeshnet.records import AnnotatedSet
from threeshnet.shards.fill import ShardFiller, batches_within_shards
from threeshnet.shards.manifest import MANIFEST, Manifest, ShardEntry, SplitEntry, file_sha256
from threeshnet.shards.plan import (
    PlannedShard,
    folder_fingerprint,
    plan_shards,
    remove_shards,
    stored_left_out,
    unfinished,
)
from threeshnet.shards.schema import layout_of_file

ON_ERROR = ("skip", "stop")


@dataclass(frozen=True)
class MadeShards:
    """What a run did. `speed`: photos a second of each split that was worked on."""

    folder: Path
    manifest: Manifest
    made: int  # shard files made now
    kept: int  # shard files that were there
    speed: Mapping[str, float]


def make_shards(
    annotated: AnnotatedSet,
    *,
    sources: Sequence[Extractor],
    folder: Path,
    raw: Path,
    images_per_shard: int = 1000,
    limit: int | None = None,
    batch_size: int = 32,
    workers: int = 1,
    on_error: Literal["skip", "stop"] = "skip",
    overwrite: bool = False,
    accelerator: str = "auto",
    precision: Any = "32-true",
    progress: bool = True,
    config: Mapping[str, Any] | None = None,
    commit: str = "unknown",
) -> MadeShards:
    """Make the shards of a data set in `folder`, but for those that are there already.

    Raises DataError when the folder holds shards made otherwise and `overwrite` is off, and for damaged photos with
    on_error="stop".
    """
    check_sizes(images_per_shard=images_per_shard, batch_size=batch_size, on_error=on_error)
    makers = {field: source.identity() for source in sources for field in source.fields}
    tables = [source.class_names for source in sources if "seg" in source.fields]
    planned = plan_shards(annotated, raw=raw, makers=[makers, tables], images_per_shard=images_per_shard, limit=limit)
    if overwrite:
        remove_shards(folder)
    pending = unfinished(folder, planned)
    folder.mkdir(parents=True, exist_ok=True)
    grid_size = next((source.grid_size for source in sources if "grid" in source.fields), None)
    filler = ShardFiller(folder=folder, pending=pending, raw=raw, grid_size=grid_size, on_error=on_error)
    if pending:
        (folder / MANIFEST).unlink(missing_ok=True)
        trainer = predictor(filler, accelerator=accelerator, precision=precision, bar=progress)
        extract(trainer, sources, filler, pending, batch_size=batch_size, workers=workers)
    manifest = _manifest(annotated, folder, planned, raw, makers, tables, config or {}, commit)
    speed = {split: count / filler.seconds[split] for split, count in filler.done.items()}
    return MadeShards(folder, manifest, len(pending), len(planned) - len(pending), speed)


def check_sizes(*, images_per_shard: int, batch_size: int, on_error: str) -> None:
    """ConfigError for settings that cannot be."""
    for name, value in (("images_per_shard", images_per_shard), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"{name}={value}: 1 is the least")
    if on_error not in ON_ERROR:
        raise ConfigError(one_of("on_error", on_error, ON_ERROR))


def predictor(filler: ShardFiller, *, accelerator: str, precision: Any, bar: bool) -> pl.Trainer:
    """A trainer that does nothing but predict, with `filler` to write."""
    return pl.Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=bar,
        callbacks=[filler, *([PhotoProgress(len(filler.photos))] if bar else [])],
    )


def extract(
    trainer: pl.Trainer,
    sources: Sequence[Extractor],
    filler: ShardFiller,
    pending: Sequence[PlannedShard],
    *,
    batch_size: int,
    workers: int,
) -> None:
    """Run the sources over the pending photos in Lightning's predict loop; `filler` writes."""
    loader = DataLoader(
        PhotoBatches(filler.photos, sources, list(batches_within_shards(pending, batch_size))),
        batch_size=None,  # an item is a batch
        num_workers=workers,
        collate_fn=_as_it_is,  # pyright: ignore[reportArgumentType]
    )
    trainer.predict(Extraction(sources), loader, return_predictions=False)


def _as_it_is(batch: LoadedBatch) -> LoadedBatch:
    return batch


def _manifest(
    annotated: AnnotatedSet,
    folder: Path,
    planned: Sequence[PlannedShard],
    raw: Path,
    makers: Mapping[str, Mapping[str, str]],
    tables: Sequence[tuple[str, ...]],
    config: Mapping[str, Any],
    commit: str,
) -> Manifest:
    """The manifest of finished files: loaded when it is there, else written."""
    if (folder / MANIFEST).is_file():
        return Manifest.load(folder)
    splits: dict[str, list[ShardEntry]] = {}
    left_out = list(annotated.problems)
    for shard in planned:
        file = folder / shard.file
        with h5py.File(file, "r") as opened:
            layout = layout_of_file(opened)
            images, captions = int(opened.attrs["images"]), int(opened.attrs["captions"])  # pyright: ignore
        splits.setdefault(shard.split, []).append(ShardEntry(shard.file, images, captions, file_sha256(file)))
        left_out += [f"{shard.split}: {reason}" for reason in stored_left_out(file)]
    manifest = Manifest(
        dataset=annotated.name,
        layout=layout,  # pyright: ignore[reportPossiblyUnbound]
        splits={
            name: SplitEntry(sum(item.images for item in items), sum(item.captions for item in items), tuple(items))
            for name, items in splits.items()
        },
        class_names=tables[0] if tables else (),
        extractors=makers,
        raw=str(raw),
        left_out=tuple(left_out),
        config=config,
        commit=commit,
        fingerprint=folder_fingerprint(planned),
    )
    manifest.save(folder)
    return manifest
