"""Compressed features: what shards are written with, and the package that other compressions need to be read."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from threeshnet.errors import ConfigError, DataError, one_of

GZIP: Mapping[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


def filter_options(name: str | None) -> Mapping[str, Any]:
    """What `create_dataset` takes for a compression: nothing for None.  Raises ConfigError for an unknown name."""
    if name not in (None, "gzip"):
        raise ConfigError(one_of("compression", name, ("gzip", "null")))
    return GZIP if name else {}


def check_filters(dataset: Any) -> None:
    """Raises DataError when an array has a compression that this installation cannot read.

    Earlier versions wrote Blosc, which HDF5 knows as soon as the package hdf5plugin is imported.
    """
    plist, h5z = dataset.id.get_create_plist(), importlib.import_module("h5py.h5z")
    filters = [plist.get_filter(number) for number in range(plist.get_nfilters())]
    if all(h5z.filter_avail(number) for number, *_ in filters):
        return
    with suppress(ImportError):
        importlib.import_module("hdf5plugin")
    absent = [
        f"{name.decode(errors='replace')} ({number})" for number, _, _, name in filters if not h5z.filter_avail(number)
    ]
    if absent:
        raise DataError(
            f"{dataset.file.filename}: {dataset.name} is compressed by {', '.join(absent)}, which needs a package: pip "
            "install hdf5plugin"
        )
