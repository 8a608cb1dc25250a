"""Whether W&B is told of a run, and whether anything can be sent; without loading W&B."""

from __future__ import annotations

import logging
import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

from threeshnet.errors import ConfigError, one_of

log = logging.getLogger(__name__)
MODES = ("off", "offline", "online")
SERVICE = "https://api.wandb.ai"


def mode_of(asked: str | bool) -> str:
    """`off`, `offline` or `online`: what is asked for, and offline where nobody is logged in.  Raises ConfigError."""
    mode = "off" if asked is False else str(asked)  # YAML reads a bare off as false
    if mode not in MODES:
        raise ConfigError(one_of("wandb", mode, MODES))
    if mode == "online" and (reason := why_offline()):
        log.warning("wandb=online, but %s: the run is written offline; `wandb sync` sends it later", reason)
        return "offline"
    return mode


def why_offline() -> str | None:
    """Why nothing can be sent: no key in the environment, none in .netrc for the service, or WANDB_MODE; else None."""
    if (told := os.environ.get("WANDB_MODE", "online")) != "online":
        return f"WANDB_MODE={told}"
    if os.environ.get("WANDB_API_KEY"):
        return None
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or SERVICE).netloc
    file = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        known = netrc.netrc(file).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        known = None
    return None if known else f"there is neither WANDB_API_KEY nor an entry for {host} in {file} (`wandb login`)"
