"""Hostile inputs to every command: each case ends in success or in one clear error.

pytest tests/fuzz                                       a sample, as in `make test`
make nightly                                            all of them
make nightly ARGS="-k evaluate-checkpoint-017"          one of them, again
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ..forks import Ended
from .arena import GIGABYTES, GOOD, ROOT, Arena
from .attempts import GOOD_OUTCOMES, judged, without_places
from .cases import CASES, COMMANDS, Case
from .use_inputs import SERVERS, served

SECONDS = 300  # a case takes one or two; machines that are shared take their time


def check(case: Case, arena: Arena, folder: Path, written: Callable[..., None]) -> None:
    attempt = case.attempt(arena, folder)
    ended = run(arena, case.kind.command, attempt.overrides, folder)
    outcome, message = judged(ended, attempt, folder)
    what, said = (one_line(without_places(text, folder, arena.folder, ROOT)) for text in (attempt.what, message))
    written(case, (what[:200], outcome, f"{ended.seconds:.2f}", said[:300]))
    line = f"threeshnet {case.kind.command} {shlex.join(attempt.overrides)}"
    assert outcome in GOOD_OUTCOMES, f"{case.id}: {attempt.what}\n{outcome}: {message}\n{line}\n{ended.err[-5000:]}"


def run(arena: Arena, command: str, words: list[str], folder: Path) -> Ended:
    begin = partial(served, arena.forks) if command in SERVERS else arena.forks.run
    return begin(command, words, folder=folder, seconds=SECONDS, gigabytes=GIGABYTES)


def one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


@pytest.mark.parametrize("name", [case.id for case in CASES.values() if case.in_sample])
def test_a_sample_of_hostile_inputs(name: str, arena: Arena, tmp_path: Path) -> None:
    check(CASES[name], arena, tmp_path, lambda *_: None)


@pytest.mark.nightly
def test_every_hostile_input(
    nightly_case: str, arena: Arena, tmp_path: Path, finished: frozenset[str], written
) -> None:
    if nightly_case in finished:
        pytest.skip("it has its row")
    check(CASES[nightly_case], arena, tmp_path, written)


def test_there_are_five_thousand_cases() -> None:
    assert len(CASES) >= 5000


def test_every_command_has_hostile_cases() -> None:
    """A new command has its settings spoiled unasked; it is named here until `arena.GOOD` has a good input of it."""
    assert {case.kind.command for case in CASES.values()} == set(COMMANDS)
    if without := set(COMMANDS) - set(GOOD):
        pytest.skip(f"no good input in tests/fuzz/arena.py, only refusals: {', '.join(sorted(without))}")


@pytest.mark.parametrize("command", sorted(GOOD))
def test_the_good_input_is_taken(command: str, arena: Arena, tmp_path: Path) -> None:
    """Else every refusal would prove nothing."""
    ended = run(arena, command, GOOD[command](arena), tmp_path)
    assert ended.code == 0, ended.err
