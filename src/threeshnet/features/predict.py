"""Extraction as a Lightning module: batches of loaded photos in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.plugins import Precision
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from threeshnet.errors import ConfigError
from threeshnet.features.extractor import FIELDS, Extractor, checked_fields, merged
from threeshnet.features.fingerprints import Fingerprints
from threeshnet.features.photos import LoadedBatch, PhotoBatches
from threeshnet.records import AnnotatedSet, ImageArrays
from threeshnet.threads import adapt_threads


class Extracted(NamedTuple):
    """What became of one batch."""

    numbers: list[int]  # of the photos that have arrays, in the list that is worked on
    sizes: list[tuple[int, int]]
    arrays: ImageArrays
    damaged: list[tuple[int, str]]  # number, reason
    fingerprints: Fingerprints | None = None  # of the photos that have arrays, where they were decoded


class Extraction(pl.LightningModule):
    """Runs every source on its part of a batch and joins what they give, unless a loading process did so."""

    def __init__(self, sources: Sequence[Extractor]) -> None:
        super().__init__()
        self.sources = nn.ModuleList(sources)

    def predict_step(self, batch: LoadedBatch | Extracted) -> Extracted:
        if isinstance(batch, Extracted):
            return batch
        adapt_threads()
        return self.extracted(batch)

    def extracted(self, batch: LoadedBatch) -> Extracted:
        """The arrays of a batch."""
        if not batch.numbers:
            return Extracted([], [], ImageArrays(), batch.damaged)
        made: Any = [(source, source(inputs)) for source, inputs in zip(self.sources, batch.inputs, strict=True)]
        return Extracted(batch.numbers, batch.sizes, merged(made), batch.damaged, batch.fingerprints)


class ExtractedBatches(Dataset[Extracted]):
    """Loads and extracts a batch: for loading processes, which have one thread each."""

    def __init__(self, photos: PhotoBatches, extraction: Extraction, precision: Precision) -> None:
        self.photos, self.precision, self.extraction = photos, precision, extraction.eval()
        precision.convert_module(extraction)  # in place

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, item: int) -> Extracted:
        batch: Any = self.precision.convert_input(self.photos[item])
        with torch.inference_mode(), self.precision.predict_step_context():
            return self.extraction.extracted(batch)


class PhotoProgress(TQDMProgressBar):
    """A progress bar that counts photos, not batches."""

    def __init__(self, photos: int) -> None:
        super().__init__()
        self.photos = photos

    def init_predict_tqdm(self) -> Any:
        shown: Any = {"unit": "photo", "desc": "Extracting", "smoothing": 0, "dynamic_ncols": True}
        return tqdm(total=self.photos, disable=self.is_disabled, **shown)

    def on_predict_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Lightning would set the bar back to batches here."""

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any) -> None:
        self.predict_progress_bar.update(len(outputs.numbers) + len(outputs.damaged))


def choose_sources(
    extractor: Extractor,
    *,
    grid: Extractor | None = None,
    segmentation: Extractor | None = None,
    fields: Sequence[str],
    annotated: AnnotatedSet,
) -> list[Extractor]:
    """The extractors that together give `fields`, each asked for its own part; ConfigError when none gives one.

    `grid` and `segmentation` take these fields over from `extractor`.
    """
    wanted = checked_fields(fields, FIELDS, "fields")
    others: dict[str, Extractor] = {}
    for field, other in (("grid", grid), ("seg", segmentation)):
        if other and field in wanted and (prepared := other.prepare(annotated)):
            others[field] = prepared
    first = extractor.prepare(annotated)
    sources = [first.only([field for field in wanted if field not in others])] if first else []
    sources += [other.only([field]) for field, other in others.items()]
    given = {field for source in sources for field in source.fields}
    if missing := [field for field in wanted if field not in given]:
        raise ConfigError(
            f"fields={list(wanted)}: nothing gives {', '.join(missing)}; extractor {extractor.name!r} is able to give "
            f"{', '.join(extractor.able)}; choose another extractor, segmentation or fewer fields"
        )
    return [source for source in sources if source.fields]
