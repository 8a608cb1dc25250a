"""How published feature arrays become shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from rich.console import Console

from threeshnet.annotations.caption_lists import caption_files_beside, photo_ids, read_caption_lists
from threeshnet.cli.made_shards import show
from threeshnet.errors import ConfigError, Problems, one_of
from threeshnet.features.extractor import FIELDS
from threeshnet.features.published.join import joined
from threeshnet.features.published.layout import Request, opened_sources
from threeshnet.installation import CONF, current_commit
from threeshnet.shards.make import make_shards
from threeshnet.shards.schema import MAX_REGIONS

SPLITS = ("train", "dev", "test", "testall")


def import_arrays(cfg: DictConfig) -> None:
    """Published feature arrays to shards."""
    console = Console()
    folders = paths(cfg.raw)
    name = cfg.name or (folders[0].resolve().stem if folders[0].is_file() else folders[0].resolve().name)
    request = requested(cfg)
    sources, problems = opened_sources(folders, layout=layout_of(cfg), request=request)
    has_own = any(entry.captions for source in sources for entry in source.entries)
    # Captions that come with the arrays are taken before lists that only lie beside them.
    lists = paths(cfg.captions) if cfg.captions else [] if has_own else caption_files_beside(folders)
    captions = read_caption_lists(lists, name=name, split=cfg.split, ids=cfg.ids) if lists else None
    options = {"dtype": cfg.dtype, "surplus": cfg.most_regions, "padding": cfg.padding}
    join = joined(
        sources,
        name=name,
        captions=captions,
        request=request,
        most=MAX_REGIONS,
        options=options,
        problems=problems,
        numberings=lambda ids: photo_ids(lists, ids) if cfg.ids is None else (),
    )
    for remark in [*(f"captions: {file}" for file in lists), *join.remarks]:
        console.print(remark, markup=False, highlight=False, soft_wrap=True)
    made = make_shards(
        join.annotated,
        sources=join.extractors,
        folder=Path(cfg.out) / name,
        raw=folders[0] if folders[0].is_dir() else folders[0].parent,
        images_per_shard=cfg.images_per_shard,
        limit=cfg.limit,
        batch_size=cfg.batch_size,
        workers=cfg.workers,
        on_error=cfg.on_error,
        compression=cfg.compression,
        overwrite=cfg.overwrite,
        accelerator="cpu",  # there is nothing to compute
        progress=cfg.progress,
        config=OmegaConf.to_container(cfg, resolve=True),  # pyright: ignore
        commit=current_commit(),
    )
    show(made, console)


def paths(value: Any) -> list[Path]:
    """One path or a list of them."""
    return [Path(item) for item in value] if isinstance(value, ListConfig) else [Path(value)]


def layout_of(cfg: DictConfig) -> Any:
    """The layout that was named; `auto` has all of `conf/layout`, so that a new yaml is tried too."""
    if "layouts" in cfg.layout:
        with open_dict(cfg.layout):
            files = sorted((CONF / "layout").glob("*.yaml"))
            cfg.layout.layouts = {file.stem: OmegaConf.load(file) for file in files if file.stem != "auto"}
    return instantiate(cfg.layout)


def requested(cfg: DictConfig) -> Request:
    """Which splits and fields are wanted. ConfigError for names that do not exist."""
    problems = Problems("what to import")
    for key, known in (("splits", SPLITS), ("fields", FIELDS)):
        problems.extend(one_of(key, value, known) for value in cfg[key] or () if value not in known)
    problems.raise_as(ConfigError)
    splits, fields = (None if cfg[key] is None else tuple(cfg[key]) for key in ("splits", "fields"))
    return Request(splits, fields, cfg.on_error)
