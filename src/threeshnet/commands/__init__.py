"""Thin mains: the only readers of the configuration."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from threeshnet.commands.errors import kept, run

__all__ = ["CONF", "current_commit", "kept", "run"]

CONF = Path(os.environ.get("THREESHNET_CONF", Path(__file__).parents[3] / "conf")).resolve()


def current_commit() -> str:
    """The commit of the working tree, `+` behind it when files differ from it.

    Where the code was copied without `.git`, as into an image: what $THREESHNET_COMMIT says, else `unknown`.
    """
    here = Path(__file__).parent
    try:
        asked = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
        return subprocess.run(asked, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("THREESHNET_COMMIT", "unknown")
