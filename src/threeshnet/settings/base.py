"""What settings are made of, and how a command was called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

A_PART = "a part, with a `_target_` as in a file of conf/"

Number = int | float  # keeps 1 as 1, so that equal settings are written alike
Texts = str | list[str]
Names = dict[str, Any]  # names with values, whatever they are
Wandb = Literal["off", "offline", "online"]
OnError = Literal["skip", "stop"]


def _names_its_class(part: Names) -> Names:
    """A file of conf/ that is empty or cut short leaves a part that nobody can build."""
    if not isinstance(part.get("_target_"), str):
        raise PydanticCustomError("no_part", A_PART)
    return part


Part = Annotated[Names, AfterValidator(_names_its_class)]


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
