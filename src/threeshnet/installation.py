"""Where the configuration of this installation lies, and which version of the code it is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_IN_WHEEL, _IN_CHECKOUT = _HERE / "conf", _HERE.parents[1] / "conf"
CONF = Path(os.environ.get("THREESHNET_CONF", _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_CHECKOUT)).resolve()


def own_conf() -> Path | None:
    """The folder `conf` of the working directory, whose files join those of the package; None where that is CONF."""
    own = Path("conf").resolve()
    return own if own.is_dir() and own != CONF else None


def conf_files(group: str = "") -> dict[str, Path]:
    """The yaml files of a group by name, the user's own too.  A name of the package cannot be taken by another file."""
    folders = [folder / group for folder in (own_conf(), CONF) if folder is not None]
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def experiments_folder() -> Path:
    """Where rows and pages of studies lie: in the checkout, or the relative path `experiments` without one."""
    checkout = _HERE.parents[1]
    return (checkout if _IN_CHECKOUT.is_dir() else Path()) / "experiments"


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
