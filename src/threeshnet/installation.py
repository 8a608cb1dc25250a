"""Where the configuration of this installation lies, and which version of the code it is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

CONF = Path(os.environ.get("THREESHNET_CONF", Path(__file__).parents[2] / "conf")).resolve()


def current_commit() -> str:
    """The commit of the working tree, followed by `+` when files differ from it.

    Without a `.git` folder, as in a container image: the value of $THREESHNET_COMMIT, else `unknown`.
    """
    here = Path(__file__).parent
    try:
        asked = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
        return subprocess.run(asked, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("THREESHNET_COMMIT", "unknown")
