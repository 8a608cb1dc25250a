"""What settings are made of, and how a command was called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Number = int | float  # keeps 1 as 1, so that equal settings are written alike
Texts = str | list[str]
Part = dict[str, Any]
Wandb = Literal["off", "offline", "online"]
OnError = Literal["skip", "stop"]


@dataclass(frozen=True)
class Invocation:
    """How a command was called: all that code behind the door may learn of the command line."""

    command: str  # the verb, as `train`
    overrides: tuple[str, ...] = ()  # as they were typed
    choices: Mapping[str, Any] = field(default_factory=dict)  # the file chosen in each group, by the group's name
    output_dir: Path | None = None  # of one job of a multirun


class Settings(BaseModel):
    """A group of settings.  No other keys, and no conversion: `"3"` is not 3."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def plain(settings: Settings) -> dict[str, Any]:
    """Settings as plain dictionaries and lists."""
    return settings.model_dump(exclude_unset=True)
