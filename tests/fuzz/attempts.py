"""What a hostile case asks of a command, and what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from ..forks import CANARY_VALUE, Ended

DONE, REFUSED = "done", "refused"
GOOD_OUTCOMES = (DONE, REFUSED)
HYDRAS = "Error executing job with overrides"  # a line that Hydra prints before the exception goes on
LONGEST_MESSAGE = 20_000  # characters that a person can be asked to scroll through


class Attempt(NamedTuple):
    """A command line over something hostile."""

    overrides: list[str]
    what: str  # was done to the input
    names: tuple[str, ...] = ()  # of which a refusal has to say one: the file, the key, or its value
    given: Path | None = None  # a folder of runs that were made before: what their files hold is not the command's
    own_conf: bool = False  # a user's own yaml, whose interpolations are followed


def judged(ended: Ended, attempt: Attempt, folder: Path) -> tuple[str, str]:
    """The outcome, and the first line of the message.

    `done` is exit code 0 with numbers that are finite; `refused` is exit code 1 with a message of ours that names what
    is wrong. Everything else is a fault of the suite: `traceback`, `signal`, `hang`, `silent`, `vague`, `code`, `nan`,
    `executed`, `resolved` (an interpolation of an input was followed).
    """
    said = [line for line in ended.err.splitlines() if line.strip() and not line.startswith(HYDRAS)]
    first = said[0][:300] if said else ""
    last = said[-1][:300] if said else ""
    if trace_of(folder).exists():
        return "executed", first
    if not attempt.own_conf and (where := resolved_in(ended, folder)):
        return "resolved", where
    if ended.code is None:
        return "hang", last
    if ended.code < 0:
        return f"signal {-ended.code}", last
    if "Traceback (most recent call last)" in ended.err:
        return "traceback", last
    if ended.code == 0:
        strange = not_finite(folder, attempt.given)
        return ("nan", strange) if strange else (DONE, first)
    if ended.code == 2 and "error: unrecognized arguments" in ended.err:  # argparse, before anything of ours
        return REFUSED, last
    if ended.code != 1:
        return f"code {ended.code}", first
    if not said:
        return "silent", ""
    if len(ended.err) > LONGEST_MESSAGE:
        return "endless", first
    if attempt.names and not any(name and name in ended.err for name in attempt.names):
        return "vague", first
    return REFUSED, next((line for line in said if not line.startswith("[")), first)[:300]


def resolved_in(ended: Ended, folder: Path) -> str:
    """Where the value of a variable of the environment stands that no command was asked for; empty where nowhere."""
    value = CANARY_VALUE.encode()
    if value in (ended.out + ended.err).encode():
        return "the output"
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return next((file.name for file in files if value in file.read_bytes()), "")


def trace_of(folder: Path) -> Path:
    """A file that is there when something in an input was run."""
    return folder / "executed"


def not_finite(folder: Path, but: Path | None) -> str:
    """Which of the numbers in a metrics.json below a folder, `but` for those in another one, is no number."""

    def strange(constant: str) -> Any:
        raise ValueError(constant)

    for file in (file for file in folder.rglob("metrics.json") if but is None or but not in file.parents):
        try:
            json.loads(file.read_text(encoding="utf-8"), parse_constant=strange)
        except ValueError as error:
            return f"{file.name} holds {error}"
    return ""
