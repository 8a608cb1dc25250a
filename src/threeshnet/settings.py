"""Settings of the commands, and how a command was called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Invocation:
    """How a command was called: all that code behind the door may learn of the command line."""

    command: str  # the verb, as `train`
    overrides: tuple[str, ...] = ()  # as they were typed
    choices: Mapping[str, Any] = field(default_factory=dict)  # the file chosen in each group, by the group's name
    output_dir: Path | None = None  # of one job of a multirun


def plain(settings: Any) -> dict[str, Any]:
    """Settings as plain dictionaries and lists, in the order of their file."""
    if hasattr(settings, "model_dump"):
        return settings.model_dump()
    from omegaconf import OmegaConf  # TEMPORARY: until every command hands typed settings on

    content: Any = OmegaConf.to_container(settings, resolve=True)
    return content
