"""What a hostile case asks of a command, and what came of it."""

from __future__ import annotations

import json
import re
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..forks import CANARY_VALUE, Ended

DONE, REFUSED = "done", "refused"
GOOD_OUTCOMES = (DONE, REFUSED)
HYDRAS = "Error executing job with overrides"  # a line that Hydra prints before the exception goes on
A_WARNING = re.compile(r"\S.*:\d+: \w*Warning: ")
LIBRARIES = sysconfig.get_path("purelib")
LONGEST_MESSAGE = 20_000  # characters that a person can be asked to scroll through


class Attempt(NamedTuple):
    """A command line over something hostile."""

    overrides: list[str]
    what: str  # was done to the input
    names: tuple[str, ...] = ()  # of which a refusal has to say one: the file, the key, or its value
    given: Path | None = None  # a folder of runs that were made before: what their files hold is not the command's
    own_conf: bool = False  # a user's own yaml, whose interpolations are followed


def judged(ended: Ended, attempt: Attempt, folder: Path) -> tuple[str, str]:
    """The outcome, and the first line of the error at the end.

    `done` is exit code 0 with numbers that are finite; `refused` is exit code 1 with a message of ours that names what
    is wrong. Everything else is a fault of the suite: `traceback`, `signal`, `hang`, `silent`, `vague`, `code`, `nan`,
    `executed`, `resolved` (an interpolation of an input was followed).
    """
    said = [line for line in ended.err.splitlines() if line.strip() and not line.startswith(HYDRAS)]
    last = said[-1] if said else ""
    said = said[after_remarks(said) :] or said
    first = said[0] if said else ""
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
    return REFUSED, first


def after_remarks(lines: Sequence[str]) -> int:
    """Where the error begins: after the log, and after warnings of libraries, which are two lines each.

    >>> after_remarks(["[INFO] a", "x.py:5: UserWarning: b", "  warn(c)", "a.json: 1 problem", "  - d"])
    3
    """
    begun = 0
    for number, line in enumerate(lines):
        if line.startswith("[") or A_WARNING.match(line):
            begun = number + 1
        elif begun and begun == number and line.startswith(" "):  # the line of code that warned
            begun += 1
    return begun


def without_places(text: str, *folders: Path) -> str:
    """A text with "…" for folders of this machine: rows are read elsewhere, and compared.

    >>> without_places(f"{LIBRARIES}/torch/a.py and /x/y/z", Path("/x/y"))
    '…/torch/a.py and …/z'
    >>> without_places("{'path': '/x/run-3/exec: expected", Path("/x/run-317"))
    "{'path': '…: expected"
    """
    for folder in (*folders, LIBRARIES):
        text = text.replace(str(folder), "…")
    for folder in folders:  # messages cut long values, and so paths
        text = re.sub(rf"{re.escape(str(folder.parent))}/[^\s'\",;:]*", "…", text)
    return text


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
