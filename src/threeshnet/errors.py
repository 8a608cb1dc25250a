"""Errors that a person can act on.

Every message names the key or the file, the value found, what was expected or exists, and the way out. Problems that
can be found together are gathered and raised together.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence

# Signals that ask to stop; Windows has no SIGUSR1.
STOPPING = tuple(signal.Signals[name] for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


class ThreeSHNetError(Exception):
    """Base of every error that the suite raises on purpose; commands print it as one message, without a traceback."""

    exit_code = 1


class ConfigError(ThreeSHNetError):
    """A setting, or settings that do not go together."""


class DataError(ThreeSHNetError):
    """Photos, annotations or shards that are missing or wrong."""


class IndexFault(DataError):
    """An index that is missing, damaged, or made for another model."""


class CheckpointError(ThreeSHNetError):
    """A checkpoint that is missing, torn, or does not fit."""


class Interrupted(ThreeSHNetError):
    """A signal asked to stop; the same command goes on, a training with `resume=true`."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


class Problems:
    """Gathers what is wrong so that it can be said once.

    >>> problems = Problems("captions.csv")
    >>> problems.add("line 3: empty caption")
    >>> problems.raise_as(DataError)
    Traceback (most recent call last):
    threeshnet.errors.DataError: captions.csv: 1 problem
      - line 3: empty caption
    """

    def __init__(self, subject: str, shown: int = 20) -> None:
        self.subject, self.shown = subject, shown
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        self.found.append(problem)

    def extend(self, problems: Iterable[str]) -> None:
        self.found.extend(problems)

    def __bool__(self) -> bool:
        return bool(self.found)

    def text(self, way_out: str = "") -> str:
        """The problems as one message, the first `shown` of them a line each."""
        count = len(self.found)
        lines = [f"{self.subject}: {count} problem{'s' if count != 1 else ''}"]
        lines += [f"  - {shortened(problem)}" for problem in self.found[: self.shown]]
        if count > self.shown:
            lines.append(f"  - and {count - self.shown} more")
        return "\n".join(lines + ([way_out] if way_out else []))

    def raise_as(self, error: type[ThreeSHNetError], way_out: str = "") -> None:
        """Raise `error` with every problem found, or return when there is none."""
        if self.found:
            raise error(self.text(way_out))


def shortened(text: str, most: int = 2000) -> str:
    """A text of bounded length: names and captions of untrusted files may have any.

    >>> shortened("a dog", 4)
    'a do…'
    """
    return text if len(text) <= most else f"{text[:most]}…"


def some(names: Sequence[object], shown: int = 3) -> str:
    """The first few of many names.

    >>> some(["a", "b", "c", "d"])
    'a, b, c, … (4)'
    """
    return ", ".join(map(str, names[:shown])) + (f", … ({len(names)})" if len(names) > shown else "")


def no_numbers(name: str, values: Iterable[object]) -> list[str]:
    """What is wrong with a list of numbers that have to be whole, not negative and different: nothing, or the message.

    >>> no_numbers("views", [1, 2]), no_numbers("views", [1, 1])
    ([], ['views=[1, 1]: expected different numbers from 0, as [1, 2, 3]'])
    """
    given = list(values)
    fit = all(type(number) is int and number >= 0 for number in given) and len(set(given)) == len(given)
    return [] if fit else [f"{name}={given}: expected different numbers from 0, as [1, 2, 3]"]


def one_of(name: str, value: object, known: Iterable[object]) -> str:
    """The message for a name that does not exist.

    >>> one_of("activation", "sigmod", ["sigmoid", "softmax"])
    "activation='sigmod' does not exist; there are: sigmoid, softmax"
    """
    return f"{name}={shortened(repr(value), 200)} does not exist; there are: {', '.join(str(item) for item in known)}"
