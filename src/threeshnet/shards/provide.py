"""Shards of a data set: those that lie in a folder, or new ones where they need no raw data."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from threeshnet.errors import DataError
from threeshnet.overrides import text
from threeshnet.processes import ends_with
from threeshnet.settings import DataSet
from threeshnet.shards.manifest import open_shards


def provide_shards(folder: str | Path, data: DataSet, make: Callable[[Sequence[str]], None] | None = None) -> Path:
    """The folder of a data set's shards below `folder`.  Raises DataError when there are none.

    Data sets marked `made_here` need no raw data, so their shards are made now: by `make`, which gets the words of
    `threeshnet data`, else by that command in a process of its own.
    """
    name = data.name
    try:
        return open_shards(folder, name)
    except DataError as missing:
        if not data.made_here:
            raise DataError(f"{missing}\n{data.how_to_get}") from missing
    (make or _by_command)([f"data={name}", text("out", folder)])
    return open_shards(folder, name)


def _by_command(words: Sequence[str]) -> None:
    command = [sys.executable, "-m", "threeshnet", "data", *words]
    if subprocess.run(command, check=False, preexec_fn=ends_with(os.getpid())).returncode:
        raise DataError(f"the shards could not be made ({' '.join(words)}); see above")
