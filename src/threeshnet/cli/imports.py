"""How published feature arrays become shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.console import Console

from threeshnet.annotations.caption_lists import caption_files_beside, photo_ids, read_caption_lists
from threeshnet.cli.data import OF_SHARDS, show
from threeshnet.errors import ConfigError, Problems, one_of
from threeshnet.features.extractor import FIELDS
from threeshnet.features.published.join import joined
from threeshnet.features.published.layout import Request, opened_sources
from threeshnet.files import check_writable
from threeshnet.installation import conf_files, current_commit
from threeshnet.settings import ImportSettings, plain
from threeshnet.shards.make import ShardSettings, make_shards
from threeshnet.shards.schema import MAX_REGIONS

OF_LAYOUTS = ("cells", "channels", "regions")  # settings that their yaml refers to
SPLITS = ("train", "dev", "test", "testall")


def import_arrays(settings: ImportSettings) -> None:
    """Published feature arrays to shards."""
    console = Console()
    folders = paths(settings.raw)
    name = settings.name or (folders[0].resolve().stem if folders[0].is_file() else folders[0].resolve().name)
    check_writable("out", Path(settings.out) / name)
    request = requested(settings)
    sources, problems = opened_sources(folders, layout=layout_of(settings), request=request)
    has_own = any(entry.captions for source in sources for entry in source.entries)
    # Captions that come with the arrays are taken before lists that only lie beside them.
    lists = paths(settings.captions) if settings.captions else [] if has_own else caption_files_beside(folders)
    captions = read_caption_lists(lists, name=name, split=settings.split, ids=settings.ids) if lists else None
    options = {"dtype": settings.dtype, "surplus": settings.most_regions, "padding": settings.padding}
    join = joined(
        sources,
        name=name,
        captions=captions,
        request=request,
        most=MAX_REGIONS,
        options=options,
        problems=problems,
        numberings=lambda ids: photo_ids(lists, ids) if settings.ids is None else (),
    )
    for remark in [*(f"captions: {file}" for file in lists), *join.remarks]:
        console.print(remark, markup=False, highlight=False, soft_wrap=True)
    made = make_shards(
        join.annotated,
        sources=join.extractors,
        folder=Path(settings.out) / name,
        raw=folders[0] if folders[0].is_dir() else folders[0].parent,
        settings=ShardSettings(
            **settings.model_dump(include=OF_SHARDS | {"progress"}),
            accelerator="cpu",  # there is nothing to compute
            config=plain(settings),
            commit=current_commit(),
        ),
    )
    show(made, console)


def paths(value: Any) -> list[Path]:
    """One path or a list of them."""
    return [Path(item) for item in value] if isinstance(value, list) else [Path(value)]


def layout_of(settings: ImportSettings) -> Any:
    """The layout that was named; `auto` has all of `conf/layout`, so that a new yaml is tried too."""
    layout = settings.layout
    if "layouts" in layout:
        files = {name: file for name, file in sorted(conf_files("layout").items()) if name != "auto"}
        # their yaml refers to keys of the command, such as ${cells}
        root = OmegaConf.create({key: value for key, value in dict(settings).items() if key in OF_LAYOUTS})
        root.layouts = {name: OmegaConf.load(file) for name, file in files.items()}
        layout = layout | {"layouts": OmegaConf.to_container(root.layouts, resolve=True)}
    return instantiate(layout)


def requested(settings: ImportSettings) -> Request:
    """Which splits and fields are wanted. ConfigError for names that do not exist."""
    problems = Problems("what to import")
    for key, values, choices in (("splits", settings.splits, SPLITS), ("fields", settings.fields, FIELDS)):
        problems.extend(one_of(key, value, choices) for value in values or () if value not in choices)
    problems.raise_as(ConfigError)
    splits, fields = (None if names is None else tuple(names) for names in (settings.splits, settings.fields))
    return Request(splits, fields, settings.on_error)
