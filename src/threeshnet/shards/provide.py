"""Shards of a data set: those that lie in a folder, or new ones where they need no raw data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from threeshnet.errors import DataError
from threeshnet.overrides import text
from threeshnet.processes import ends_with
from threeshnet.settings import DataSet
from threeshnet.shards.manifest import open_shards


def provide_shards(folder: str | Path, data: DataSet) -> Path:
    """The folder of a data set's shards below `folder`.  Raises DataError when there are none.

    Data sets marked `made_here` need no raw data, so their shards are made now.
    """
    name = data.name
    try:
        return open_shards(folder, name)
    except DataError as missing:
        if not data.made_here:
            raise DataError(f"{missing}\n{data.how_to_get}") from missing
    command = ["-m", "threeshnet", "data", f"data={name}", text("out", folder)]
    before = ends_with(os.getpid())
    if subprocess.run([sys.executable, *command], check=False, preexec_fn=before).returncode:
        raise DataError(f"the shards of {name} could not be made; see above")
    return open_shards(folder, name)
