"""How photos and captions become shards."""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from threeshnet.commands import current_commit
from threeshnet.commands.errors import quiet
from threeshnet.commands.made_shards import show, show_leakage, show_share
from threeshnet.features.predict import choose_sources
from threeshnet.shards.make import make_shards

OF_THE_PROCESS = ("part", "of", "device")  # which of several processes this is: the manifest is the same from all


def make_data(cfg: DictConfig) -> None:
    """Photos and captions to shards."""
    quiet()
    raw = Path(cfg.raw)
    annotated = instantiate(cfg.data.reader).read(raw)
    extractor = instantiate(cfg.data.get("extractor") or cfg.extractor)
    grid, segmentation = instantiate(cfg.get("grid")), instantiate(cfg.segmentation)
    sources = choose_sources(extractor, grid=grid, segmentation=segmentation, fields=cfg.fields, annotated=annotated)
    settings: dict = OmegaConf.to_container(cfg, resolve=True)  # pyright: ignore
    made = make_shards(
        annotated,
        sources=sources,
        folder=Path(cfg.out) / cfg.data.name,
        raw=raw,
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
        view=instantiate(cfg.get("view")),
    )
    console = Console()
    if made.finished is None:
        show_share(made, console, part=cfg.part, parts=cfg.of)
        return
    show(made, console)
    if cfg.leakage_distance is not None:
        show_leakage(made.folder, console, cfg.leakage_distance)
