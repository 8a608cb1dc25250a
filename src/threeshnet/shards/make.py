"""Photos to a shard folder: plan, extract what is missing, write the manifest last."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import h5py
import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.accelerators import CUDAAccelerator
from pytorch_lightning.plugins.environments import LightningEnvironment  # pyright: ignore[reportPrivateImportUsage]
from torch.utils.data import DataLoader

from threeshnet.errors import ConfigError, one_of
from threeshnet.features.extractor import Extractor
from threeshnet.features.photos import DECODER, LoadedBatch, PhotoBatches
from threeshnet.features.predict import Extraction, PhotoProgress
from threeshnet.features.views import View
from threeshnet.files import sha256
from threeshnet.records import AnnotatedSet
from threeshnet.shards.compression import filter_options
from threeshnet.shards.fill import ShardFiller, batches_within_shards
from threeshnet.shards.left_out import printable, write_left_out
from threeshnet.shards.manifest import MANIFEST, Manifest, ShardEntry, SplitEntry
from threeshnet.shards.plan import (
    PlannedShard,
    folder_fingerprint,
    masks_digest,
    plan_shards,
    remove_shards,
    share_of,
    stored_left_out,
    unfinished,
)
from threeshnet.shards.schema import layout_of_file

ON_ERROR = ("skip", "stop")
ASIDE = ".unfinished-"  # a folder in the shard folder, of one process


@dataclass(frozen=True)
class MadeShards:
    """What a run did. `speed`: photos a second of each split that was worked on."""

    folder: Path
    made: int  # shard files made now
    kept: int  # shard files that were there
    missing: int  # shard files of the set that other parts have still to make
    speed: Mapping[str, float]
    finished: Manifest | None  # None while any is missing

    @property
    def manifest(self) -> Manifest:
        """The manifest; DataError while shards are missing."""
        return self.finished or Manifest.load(self.folder)


def make_shards(
    annotated: AnnotatedSet,
    *,
    sources: Sequence[Extractor],
    folder: Path,
    raw: Path,
    images_per_shard: int = 1000,
    limit: int | None = None,
    part: int = 0,
    parts: int = 1,
    batch_size: int = 32,
    workers: int = 1,
    on_error: Literal["skip", "stop"] = "skip",
    overwrite: bool = False,
    accelerator: str = "auto",
    device: int = 0,
    precision: Any = "32-true",
    progress: bool = True,
    compression: str | None = None,
    config: Mapping[str, Any] | None = None,
    commit: str = "unknown",
    view: View | None = None,
) -> MadeShards:
    """Make the shards of a data set in `folder`, but for those that are there already.

    Process `part` of `parts` makes its share; whoever then finds all shards there writes the manifest. Raises
    DataError when the folder holds shards made otherwise and `overwrite` is off, and for damaged photos with
    on_error="stop". With `view` the sources see that view of each photo; ConfigError where one reads no pixels.
    """
    check_settings(images_per_shard=images_per_shard, batch_size=batch_size, on_error=on_error)
    filter_options(compression)
    refuse_masks(sources, view)
    makers = {field: source.identity() for source in sources for field in source.fields}
    tables = {field: table for source in sources for field, table in source.tables().items()}
    # Shards without compression or view are made by what they were made by before there was a choice.
    chosen = [compression, view and view.identity]
    made_by = [makers, tables, DECODER, str(precision), *filter(None, chosen)]
    planned = plan_shards(annotated, raw=raw, makers=made_by, images_per_shard=images_per_shard, limit=limit)
    share = {shard.file for shard in share_of(planned, part=part, parts=parts)}
    if overwrite:
        refuse_parts(parts)
        remove_shards(folder)
    absent = unfinished(folder, planned, contents=True)
    pending = [shard for shard in absent if shard.file in share]
    folder.mkdir(parents=True, exist_ok=True)
    grid_size = next((source.grid_size for source in sources if "grid" in source.fields), None)
    where: Any = {"folder": folder, "pending": pending, "raw": raw}
    filler = ShardFiller(**where, grid_size=grid_size, on_error=on_error, compression=compression)
    if absent:
        (folder / MANIFEST).unlink(missing_ok=True)
    if pending:
        trainer = predictor(filler, accelerator=accelerator, device=device, precision=precision, bar=progress)
        extract(trainer, sources, filler, pending, batch_size=batch_size, workers=workers, view=view)
    if parts == 1:
        remove_aside(folder)
    missing = unfinished(folder, planned)
    finished = None
    if not missing:
        recipes = {field: dict(source.recipe) for source in sources for field in source.fields}
        facts = {"extractors": makers, "recipes": recipes, "precision": str(precision)}
        facts |= {"config": config or {}, "commit": commit}
        finished = finish(annotated, folder, planned, raw, tables, facts)
    speed = {split: count / filler.seconds[split] for split, count in filler.done.items()}
    return MadeShards(folder, len(pending), len(share) - len(pending), len(missing), speed, finished)


def check_settings(*, images_per_shard: int, batch_size: int, on_error: str) -> None:
    """ConfigError for settings that cannot be."""
    for name, value in (("images_per_shard", images_per_shard), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"{name}={value}: 1 is the least")
    if on_error not in ON_ERROR:
        raise ConfigError(one_of("on_error", on_error, ON_ERROR))


def refuse_masks(sources: Sequence[Extractor], view: View | None) -> None:
    """ConfigError for a view of photos whose masks come from files: those would be of the whole photo."""
    blind = [source.name for source in sources if not source.needs_pixels]
    if view and blind:
        raise ConfigError(
            f"view={view.identity.split()[0]}: {', '.join(blind)} reads no photo and would be of the whole of it; "
            "take one that looks at the view, as segmentation=own does"
        )


def refuse_parts(parts: int) -> None:
    """ConfigError for overwrite=true with several parts: each would remove what the others have made."""
    if parts > 1:
        raise ConfigError(
            f"overwrite=true with of={parts}: the parts would remove each other's shards; remove the folder first, "
            "or choose another one (out=…, or make data OUT=…)"
        )


def remove_aside(folder: Path) -> None:
    """Remove what processes left that were killed while they wrote a manifest; for one that works there alone."""
    for left in folder.glob(f"{ASIDE}*"):
        shutil.rmtree(left, ignore_errors=True)


def predictor(filler: ShardFiller, *, accelerator: str, device: int, precision: Any, bar: bool) -> pl.Trainer:
    """A trainer that does nothing but predict, alone in its process, with `filler` to write.

    `device` counts this machine's processes, so that each takes a GPU of its own; the parts of torchrun or SLURM know
    nothing of each other, and without a plugin Lightning would take them for one run over several devices.
    """
    on_gpu = accelerator in ("auto", "gpu", "cuda") and CUDAAccelerator.is_available()
    try:
        return pl.Trainer(
            accelerator=accelerator,
            devices=[device % CUDAAccelerator.auto_device_count()] if on_gpu else 1,
            plugins=[LightningEnvironment()],
            precision=precision,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=bar,
            callbacks=[filler, *([PhotoProgress(len(filler.photos))] if bar else [])],
        )
    except (ValueError, MisconfigurationException) as error:
        raise ConfigError(f"accelerator={accelerator!r}, precision={precision!r}: {error}") from error


def extract(
    trainer: pl.Trainer,
    sources: Sequence[Extractor],
    filler: ShardFiller,
    pending: Sequence[PlannedShard],
    *,
    batch_size: int,
    workers: int,
    view: View | None = None,
) -> None:
    """Run the sources over the pending photos in Lightning's predict loop; `filler` writes."""
    loader = DataLoader(
        PhotoBatches(filler.photos, sources, list(batches_within_shards(pending, batch_size)), view),
        batch_size=None,  # an item is a batch
        num_workers=workers,
        collate_fn=_as_it_is,  # pyright: ignore[reportArgumentType]
    )
    trainer.predict(Extraction(sources), loader, return_predictions=False)


def _as_it_is(batch: LoadedBatch) -> LoadedBatch:
    return batch


def finish(
    annotated: AnnotatedSet,
    folder: Path,
    planned: Sequence[PlannedShard],
    raw: Path,
    tables: Mapping[str, tuple[str, ...]],
    facts: Mapping[str, Any],
) -> Manifest:
    """The manifest of a whole set: loaded when it is there, else written, and the list of what was left out before it.

    `facts` are entries of the manifest as they are. Several parts may write at once: each
    writes the same in a folder of its own and renames it.
    """
    if (folder / MANIFEST).is_file():
        return Manifest.load(folder)
    splits: dict[str, list[ShardEntry]] = {}
    left_out = [printable(problem) for problem in annotated.problems]
    for shard in planned:
        file = folder / shard.file
        with h5py.File(file, "r") as opened:
            layout = layout_of_file(opened)
            images, captions = int(opened.attrs["images"]), int(opened.attrs["captions"])  # pyright: ignore
        splits.setdefault(shard.split, []).append(ShardEntry(shard.file, images, captions, sha256(file)))
        left_out += [f"{shard.split}: {reason}" for reason in stored_left_out(file)]
    manifest = Manifest(
        dataset=annotated.name,
        layout=layout,  # pyright: ignore[reportPossiblyUnbound]
        splits={
            name: SplitEntry(sum(item.images for item in items), sum(item.captions for item in items), tuple(items))
            for name, items in splits.items()
        },
        class_names=tables.get("seg", ()),
        label_names=tables.get("region", ()),
        raw=str(raw),
        left_out=tuple(left_out),
        fingerprint=folder_fingerprint(planned),
        masks=masks_digest(planned),
        **facts,
    )
    with TemporaryDirectory(dir=folder, prefix=ASIDE) as aside:
        write_left_out(folder, manifest.left_out, aside=Path(aside))
        manifest.save(Path(aside)).replace(folder / MANIFEST)
    return manifest
