"""Where the configuration of this installation lies, and which version of the code it is."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_IN_WHEEL, _IN_CHECKOUT = _HERE / "conf", _HERE.parents[1] / "conf"
CONF = Path(os.environ.get("THREESHNET_CONF", _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_CHECKOUT)).resolve()
NO_HOME = Path("/nonexistent")


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


def home() -> Path:
    """The user's home directory; a folder that does not exist where there is none, as in containers without HOME."""
    try:
        return Path.home()
    except RuntimeError:
        return NO_HOME


def cache_folder() -> Path:
    """The cache of this user: below home, or a temporary folder where nothing can be written there."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache") / "threeshnet"
    there = next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
    return folder if os.access(there, os.W_OK | os.X_OK) else own_temporary_folder()


def own_temporary_folder() -> Path:
    """A temporary folder of this user alone, the same one each time unless somebody else has taken its name."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"threeshnet-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    taken = folder.is_symlink() or (user != "user" and folder.stat().st_uid != user)
    return Path(tempfile.mkdtemp(prefix="threeshnet-")) if taken else folder


def provide_home() -> None:
    """Set $HOME where there is none, as in containers: W&B and matplotlib ask for it."""
    if home() == NO_HOME:
        os.environ["HOME"] = str(own_temporary_folder())


def current_commit() -> str:
    """The commit of the working tree, followed by `+` when files differ from it.

    Without a checkout of our own, as in a container image or a ZIP: the value of $THREESHNET_COMMIT, else `unknown`.
    """
    described = git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+")
    return described.strip() if described else os.environ.get("THREESHNET_COMMIT", "unknown")


def git(*words: str) -> str | None:
    """What git says of our checkout; None without git or a checkout."""
    return _git(*words) if _is_checkout() else None


@functools.cache
def _is_checkout() -> bool:
    """Whether git keeps this file as ours: a ZIP or an environment may lie inside of another repository."""
    name = Path(__file__).resolve().name
    below_top = _git("ls-files", "--error-unmatch", "--full-name", name)
    return below_top is not None and below_top.strip() == f"src/{_HERE.name}/{name}"


def _git(*words: str) -> str | None:
    """The variables of a git hook name another repository, so they are left out."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    options: dict[str, Any] = {"cwd": _HERE, "env": variables, "capture_output": True, "text": True, "check": True}
    options |= {"encoding": "utf-8", "errors": "surrogateescape"}
    try:
        return subprocess.run(["git", *words], **options).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
