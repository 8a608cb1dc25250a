"""How photos and captions become shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from rich.console import Console

from threeshnet.cli.made_shards import show, show_leakage, show_share
from threeshnet.errors import ConfigError, Problems, no_numbers
from threeshnet.features.extractor import Extractor
from threeshnet.features.predict import choose_sources
from threeshnet.files import check_writable
from threeshnet.installation import current_commit
from threeshnet.records import AnnotatedSet
from threeshnet.settings import DataSettings, plain
from threeshnet.shards.make import ShardSettings, make_shards
from threeshnet.shards.manifest import view_name

OF_THE_PROCESS = ("part", "of", "device")  # which of several processes this is: the manifest is the same from all


def make_data(settings: DataSettings) -> None:
    """Photos and captions to shards, or with `view` to the shards of other views of them: a set for each of `views`."""
    wanted = [None] if settings.view is None else numbers(settings.views)
    check_writable("out", Path(settings.out) / settings.data.name)
    annotated = instantiate(settings.data.reader).read(Path(settings.raw))
    extractor = instantiate(settings.data.extractor or settings.extractor)
    grid, segmentation = instantiate(settings.grid), instantiate(settings.segmentation)
    sources = choose_sources(
        extractor, grid=grid, segmentation=segmentation, fields=settings.fields, annotated=annotated
    )
    for number in wanted:
        make_set(settings, annotated, sources, number)


def numbers(views: Sequence[Any]) -> list[int]:
    """Which views are made.  Raises ConfigError for anything but different numbers, and for none."""
    problems = Problems("make data")
    problems.extend(no_numbers("views", views) if views else ["views=[]: name the views to make, as [1, 2, 3]"])
    problems.raise_as(ConfigError)
    return list(views)


def make_set(settings: DataSettings, annotated: AnnotatedSet, sources: Sequence[Extractor], number: int | None) -> None:
    """One set of shards: the photos as they are, or one view of them."""
    name = settings.data.name if number is None else view_name(settings.data.name, number)
    config = plain(settings) | {"views": [] if number is None else [number]}
    made = make_shards(
        annotated._replace(name=name),
        sources=sources,
        folder=Path(settings.out) / name,
        raw=Path(settings.raw),
        settings=ShardSettings(
            images_per_shard=settings.images_per_shard,
            limit=settings.limit,
            part=settings.part,
            parts=settings.of,
            batch_size=settings.batch_size,
            workers=settings.workers,
            on_error=settings.on_error,
            compression=settings.compression,
            overwrite=settings.overwrite,
            accelerator=settings.accelerator,
            device=settings.device,
            precision=settings.precision,
            progress=settings.progress and settings.device == 0,  # bars of several processes overwrite each other
            config={key: value for key, value in config.items() if key not in OF_THE_PROCESS},
            commit=current_commit(),
            view=None if number is None else instantiate(settings.view, number=number),
        ),
    )
    console = Console()
    if made.finished is None:
        show_share(made, console, part=settings.part, parts=settings.of)
        return
    show(made, console)
    if settings.leakage_distance is not None and number is None:  # a box of a photo says less than the photo does
        show_leakage(made.folder, console, settings.leakage_distance)
