"""Where the shards of a run lie."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from omegaconf import DictConfig

from threeshnet.errors import DataError
from threeshnet.shards.manifest import open_shards


def shards_folder(cfg: DictConfig) -> Path:
    """The shards of the data set; what needs no raw data is made now.  Raises DataError when there are none."""
    try:
        return open_shards(cfg.shards, cfg.data.name)
    except DataError as missing:
        if not cfg.data.get("made_here"):
            raise DataError(f"{missing}\n{cfg.data.how_to_get}") from missing
    command = ["-m", "threeshnet.cli.shards", f"data={cfg.data.name}", f"out='{cfg.shards}'"]
    if subprocess.run([sys.executable, *command], check=False).returncode:
        raise DataError(f"the shards of {cfg.data.name} could not be made; see above")
    return open_shards(cfg.shards, cfg.data.name)
