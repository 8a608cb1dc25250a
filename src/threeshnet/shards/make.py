"""Photos to a shard folder: plan, extract what is missing, write the manifest last."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import h5py
import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator
from pytorch_lightning.plugins.environments import LightningEnvironment  # pyright: ignore[reportPrivateImportUsage]
from torch.utils.data import DataLoader

from threeshnet.errors import ConfigError, one_of
from threeshnet.features.extractor import Extractor
from threeshnet.features.photos import DECODER, LoadedBatch, PhotoBatches
from threeshnet.features.predict import Extracted, ExtractedBatches, Extraction, PhotoProgress
from threeshnet.features.views import View
from threeshnet.files import sha256
from threeshnet.processes import reads_for
from threeshnet.records import AnnotatedSet
from threeshnet.shards.fill import ShardFiller, batches_within_shards
from threeshnet.shards.manifest import LEFT_OUT_LIST, MANIFEST, Manifest, ShardEntry, SplitEntry, printable
from threeshnet.shards.plan import (
    PlannedShard,
    folder_fingerprint,
    masks_digest,
    plan_shards,
    remove_shards,
    stored_left_out,
    unfinished,
)
from threeshnet.shards.schema import layout_of_file
from threeshnet.shards.writer import filter_options
from threeshnet.threads import cores

ON_ERROR = ("skip", "stop")
WORKER_BYTES = 2 << 30  # of memory, for a worker that extracts: lite0 takes 1.8 GB for 16 photos
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


@dataclass(frozen=True)
class ShardSettings:
    """How shards are made; process `part` of `parts` makes its share.

    Raises ConfigError for settings that cannot be.
    """

    images_per_shard: int = 1000
    limit: int | None = None  # the first so many photos of each split
    part: int = 0
    parts: int = 1
    batch_size: int = 32
    workers: int | None = 1  # processes that load photos; None is as many as are fast, see `loader_of`
    on_error: Literal["skip", "stop"] = "skip"  # what to do about a damaged photo
    overwrite: bool = False  # replace shards that were made otherwise
    accelerator: str = "auto"
    device: int = 0  # which GPU of this machine
    precision: Any = "32-true"  # of the extractors, as Lightning names it
    progress: bool = True
    compression: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)  # for the manifest
    commit: str = "unknown"
    view: View | None = None

    def __post_init__(self) -> None:
        for name in ("images_per_shard", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: 1 is the least")
        if self.on_error not in ON_ERROR:
            raise ConfigError(one_of("on_error", self.on_error, ON_ERROR))
        filter_options(self.compression)
        if not isinstance(self.part, int) or not isinstance(self.parts, int) or self.parts < 1:
            raise ConfigError(f"part={self.part} of={self.parts}: whole numbers are needed, such as part=0 of=1")
        if not 0 <= self.part < self.parts:
            raise ConfigError(f"part={self.part} of={self.parts}: the parts of {self.parts} are 0 to {self.parts - 1}")
        if self.overwrite and self.parts > 1:
            raise ConfigError(
                f"overwrite=true with of={self.parts}: the parts would remove each other's shards; remove the folder "
                "first, or choose another one (out=…, or make data OUT=…)"
            )

    @property
    def of_the_content(self) -> list[str]:
        """What the fingerprint holds of the settings; a default adds nothing, so that earlier shards keep theirs."""
        return [str(self.precision), *filter(None, [self.compression, self.view.identity if self.view else None])]


def make_shards(
    annotated: AnnotatedSet,
    *,
    sources: Sequence[Extractor],
    folder: Path,
    raw: Path,
    settings: ShardSettings = ShardSettings(),
) -> MadeShards:
    """Make the shards of a data set in `folder` that are missing; the process that finds all writes the manifest.

    With `settings.view` the sources get that view of each photo. Raises DataError when the folder holds shards made
    otherwise and `overwrite` is off, and for damaged photos with on_error="stop"; ConfigError for a view where a source
    reads no pixels.
    """
    refuse_masks(sources, settings.view)
    makers = {field: source.identity() for source in sources for field in source.fields}
    tables = {field: table for source in sources for field, table in source.tables().items()}
    made_by = [makers, tables, DECODER, *settings.of_the_content]
    cut = {"images_per_shard": settings.images_per_shard, "limit": settings.limit}
    planned = plan_shards(annotated, raw=raw, makers=made_by, **cut)
    share = {shard.file for shard in planned[settings.part :: settings.parts]}  # so that splits are shared too
    if settings.overwrite:
        remove_shards(folder)
    absent = unfinished(folder, planned, contents=True)
    pending = [shard for shard in absent if shard.file in share]
    folder.mkdir(parents=True, exist_ok=True)
    grid_size = next((source.grid_size for source in sources if "grid" in source.fields), None)
    where: Any = {"folder": folder, "pending": pending, "raw": raw, "grid_size": grid_size}
    filler = ShardFiller(**where, on_error=settings.on_error, compression=settings.compression)
    if absent:
        (folder / MANIFEST).unlink(missing_ok=True)
    if pending:
        batches = list(batches_within_shards(pending, settings.batch_size))
        photos = PhotoBatches(filler.photos, sources, batches, settings.view)
        trainer, extraction = predictor(filler, settings), Extraction(sources)
        loader = loader_of(photos, extraction, trainer, settings)
        trainer.predict(extraction, loader, return_predictions=False)
    if settings.parts == 1:  # alone in the folder, so these are of processes that were killed
        for left in folder.glob(f"{ASIDE}*"):
            shutil.rmtree(left, ignore_errors=True)
    missing = unfinished(folder, planned)
    finished = None
    if not missing:
        recipes = {field: dict(source.recipe) for source in sources for field in source.fields}
        facts = {"extractors": makers, "recipes": recipes, "precision": str(settings.precision)}
        facts |= {"config": settings.config, "commit": settings.commit}
        finished = finish(annotated, folder, planned, raw, tables, facts)
    speed = {split: count / filler.seconds[split] for split, count in filler.done.items()}
    return MadeShards(folder, len(pending), len(share) - len(pending), len(missing), speed, finished)


def refuse_masks(sources: Sequence[Extractor], view: View | None) -> None:
    """ConfigError for a view of photos whose masks come from files: those would be of the whole photo."""
    blind = [source.name for source in sources if not source.needs_pixels]
    if view and blind:
        raise ConfigError(
            f"view={view.identity.split()[0]}: {', '.join(blind)} reads no photo, so it would segment the whole photo; "
            "take one that looks at the view, as segmentation=own does"
        )


def loader_of(
    photos: PhotoBatches, extraction: Extraction, trainer: pl.Trainer, settings: ShardSettings
) -> DataLoader[Any]:
    """Batches for `trainer`. Without a number of workers, CPUs extract by small networks in a worker for each core.

    One process with several threads leaves the cores waiting for each other, between layers and while it decodes.
    There are fewer workers than cores where they would take more than half of the memory.
    """
    items, as_it_is, workers = photos, LoadedBatch._make, settings.workers
    if workers is None:
        workers = 1
        if isinstance(trainer.accelerator, CPUAccelerator) and all(source.small for source in photos.sources):
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            workers = max(1, min(cores(), memory // 2 // WORKER_BYTES))
            items, as_it_is = ExtractedBatches(photos, extraction, trainer.precision_plugin), Extracted._make
    return DataLoader(
        items,
        batch_size=None,  # an item is a batch
        num_workers=workers,
        collate_fn=as_it_is,
        worker_init_fn=partial(reads_for, os.getpid()),
    )


def predictor(filler: ShardFiller, settings: ShardSettings) -> pl.Trainer:
    """A trainer that does nothing but predict, alone in its process, with `filler` to write.

    `settings.device` counts this machine's processes, so that each takes a GPU of its own. The parts of torchrun or
    SLURM know nothing of each other; without a plugin Lightning would take them for one run over several devices.
    """
    accelerator, precision = settings.accelerator, settings.precision
    on_gpu = accelerator in ("auto", "gpu", "cuda") and CUDAAccelerator.is_available()
    try:
        return pl.Trainer(
            accelerator=accelerator,
            devices=[settings.device % CUDAAccelerator.auto_device_count()] if on_gpu else 1,
            plugins=[LightningEnvironment()],
            precision=precision,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=settings.progress,
            callbacks=[filler, *([PhotoProgress(len(filler.photos))] if settings.progress else [])],
        )
    except (ValueError, MisconfigurationException) as error:
        raise ConfigError(f"accelerator={accelerator!r}, precision={precision!r}: {error}") from error


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
        listed = Path(aside) / LEFT_OUT_LIST
        listed.write_text("".join(f"{reason}\n" for reason in left_out), encoding="utf-8")
        listed.replace(folder / LEFT_OUT_LIST) if left_out else (folder / LEFT_OUT_LIST).unlink(missing_ok=True)
        manifest.save(Path(aside)).replace(folder / MANIFEST)
    return manifest
