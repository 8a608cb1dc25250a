"""How photos and captions become shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console

from threeshnet.cli.made_shards import show, show_leakage, show_share
from threeshnet.errors import ConfigError, Problems, no_numbers
from threeshnet.features.extractor import Extractor
from threeshnet.features.predict import choose_sources
from threeshnet.installation import current_commit
from threeshnet.records import AnnotatedSet
from threeshnet.shards.make import make_shards
from threeshnet.shards.manifest import view_name

OF_THE_PROCESS = ("part", "of", "device")  # which of several processes this is: the manifest is the same from all


def make_data(cfg: DictConfig) -> None:
    """Photos and captions to shards, or with `view` to the shards of other views of them: a set for each of `views`."""
    wanted = [None] if cfg.get("view") is None else numbers(cfg.views)
    annotated = instantiate(cfg.data.reader).read(Path(cfg.raw))
    extractor = instantiate(cfg.data.get("extractor") or cfg.extractor)
    grid, segmentation = instantiate(cfg.get("grid")), instantiate(cfg.segmentation)
    sources = choose_sources(extractor, grid=grid, segmentation=segmentation, fields=cfg.fields, annotated=annotated)
    for number in wanted:
        make_set(cfg, annotated, sources, number)


def numbers(views: ListConfig) -> list[int]:
    """Which views are made.  Raises ConfigError for anything but different numbers, and for none."""
    problems = Problems("make data")
    problems.extend(no_numbers("views", views) if views else ["views=[]: name the views to make, as [1, 2, 3]"])
    problems.raise_as(ConfigError)
    return list(views)


def make_set(cfg: DictConfig, annotated: AnnotatedSet, sources: Sequence[Extractor], number: int | None) -> None:
    """One set of shards: the photos as they are, or one view of them."""
    name = cfg.data.name if number is None else view_name(cfg.data.name, number)
    settings: dict = OmegaConf.to_container(cfg, resolve=True)  # pyright: ignore
    settings["views"] = [] if number is None else [number]
    made = make_shards(
        annotated._replace(name=name),
        sources=sources,
        folder=Path(cfg.out) / name,
        raw=Path(cfg.raw),
        images_per_shard=cfg.images_per_shard,
        limit=cfg.limit,
        part=cfg.part,
        parts=cfg.of,
        batch_size=cfg.batch_size,
        workers=cfg.workers,
        on_error=cfg.on_error,
        compression=cfg.compression,
        overwrite=cfg.overwrite,
        accelerator=cfg.accelerator,
        device=cfg.device,
        precision=cfg.precision,
        progress=cfg.progress and cfg.device == 0,  # the bars of several processes would overwrite each other
        config={key: value for key, value in settings.items() if key not in OF_THE_PROCESS},
        commit=current_commit(),
        view=None if number is None else instantiate(cfg.view, number=number),
    )
    console = Console()
    if made.finished is None:
        show_share(made, console, part=cfg.part, parts=cfg.of)
        return
    show(made, console)
    if cfg.leakage_distance is not None and number is None:  # a box of a photo says less than the photo does
        show_leakage(made.folder, console, cfg.leakage_distance)
