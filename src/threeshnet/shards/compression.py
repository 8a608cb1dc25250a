"""Compressed features: which filters there are to write with, and having those that a file needs to be read."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from threeshnet.errors import ConfigError, DataError, one_of

EXTRA = "pip install 'threeshnet[compression]', or pip install hdf5plugin"
BUILT_IN: Mapping[str, Mapping[str, Any]] = {
    "lzf": {"compression": "lzf", "shuffle": True},
    "gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
}
PLUGINS = {
    "blosc_lz4": "lz4",
    "blosc_zstd": "zstd",
}  # with bytes sorted by place, which gave smaller files than bits
CHOICES = (*BUILT_IN, *PLUGINS)


def filter_options(name: str | None) -> Mapping[str, Any]:
    """What `create_dataset` takes for a compression of that name; nothing for None.

    Raises ConfigError for another name, and when the package that has it is not installed.

    >>> filter_options("lzf")
    {'compression': 'lzf', 'shuffle': True}
    """
    if name is None:
        return {}
    if name not in CHOICES:
        raise ConfigError(one_of("compression", name, CHOICES))
    if name in BUILT_IN:
        return BUILT_IN[name]
    if not load_filters():
        raise ConfigError(f"compression={name!r} needs the package hdf5plugin: {EXTRA}; without it: lzf, gzip")
    plugin: Any = importlib.import_module("hdf5plugin")
    return dict(plugin.Blosc2(cname=PLUGINS[name], clevel=1, filters=plugin.Blosc2.SHUFFLE))


def load_filters() -> bool:
    """Let HDF5 know the filters of hdf5plugin, where that is installed; whether it is."""
    try:
        importlib.import_module("hdf5plugin")
    except ImportError:
        return False
    return True


def check_filters(dataset: Any) -> None:
    """Raises DataError when a data set is compressed by a filter that is not installed."""
    plist = dataset.id.get_create_plist()
    h5z = importlib.import_module("h5py.h5z")
    absent = [plist.get_filter(number) for number in range(plist.get_nfilters())]
    absent = [found for found in absent if not h5z.filter_avail(found[0])]
    if absent and load_filters():
        absent = [found for found in absent if not h5z.filter_avail(found[0])]
    if absent:
        names = ", ".join(f"{found[3].decode(errors='replace') or 'unnamed'} (number {found[0]})" for found in absent)
        raise DataError(f"{dataset.file.filename}: {dataset.name} is compressed by {names}; install it: {EXTRA}")
