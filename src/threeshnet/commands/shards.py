"""Photos and captions to shards: make data DATA=<name> [RAW=<folder>] [OUT=<shards>] [ARGS=…]."""

from __future__ import annotations

from pathlib import Path

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from threeshnet.commands import CONF, current_commit, run
from threeshnet.features.predict import choose_sources
from threeshnet.shards.make import MadeShards, make_shards


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="shards")
def main(cfg: DictConfig) -> None:
    raw = Path(cfg.raw)
    annotated = instantiate(cfg.data.reader).read(raw)
    extractor = instantiate(cfg.data.get("extractor") or cfg.extractor)
    grid, segmentation = instantiate(cfg.get("grid")), instantiate(cfg.segmentation)
    sources = choose_sources(extractor, grid=grid, segmentation=segmentation, fields=cfg.fields, annotated=annotated)
    made = make_shards(
        annotated,
        sources=sources,
        folder=Path(cfg.out) / cfg.data.name,
        raw=raw,
        images_per_shard=cfg.images_per_shard,
        limit=cfg.limit,
        batch_size=cfg.batch_size,
        workers=cfg.workers,
        on_error=cfg.on_error,
        overwrite=cfg.overwrite,
        accelerator=cfg.accelerator,
        precision=cfg.precision,
        progress=cfg.progress,
        config=OmegaConf.to_container(cfg, resolve=True),  # pyright: ignore
        commit=current_commit(),
    )
    show(made, Console())


def show(made: MadeShards, console: Console, shown: int = 20) -> None:
    """A row a split, the photos that were left out, and where the shards lie."""
    manifest = made.manifest
    table = Table(title=f"{manifest.dataset}: {', '.join(manifest.fields)}")
    for name in ("split", "images", "captions", "shards", "left out", "photos/s"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for name, split in manifest.splits.items():
        left_out = sum(line.startswith(f"{name}: ") for line in manifest.left_out)
        speed = f"{made.speed[name]:.0f}" if name in made.speed else "made before"
        cells = (split.images, split.captions, len(split.shards), left_out)
        table.add_row(name, *map(str, cells), speed)
    console.print(table)
    for line in manifest.left_out[:shown]:
        console.print(f"left out: {line}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    if len(manifest.left_out) > shown:
        console.print(f"and {len(manifest.left_out) - shown} more: see {made.folder / 'manifest.json'}")
    before = f", {made.kept} were there already" if made.kept else ""
    console.print(f"{made.made} shard files made{before}: {made.folder}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run(main)
