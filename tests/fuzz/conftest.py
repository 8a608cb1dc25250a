"""The good inputs, and the file that a row a case goes into."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from ..forks import Forks
from .arena import Arena
from .cases import CASES, Case

COLUMNS = ("id", "command", "kind", "what", "outcome", "seconds", "message")
Row = tuple[str, ...]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--hostile-rows", help="CSV that a row of each hostile case is added to; cases in it are skipped")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The 5,000 tests of `make nightly` are made when they are asked for: leaving them out takes seconds too."""
    if "nightly_case" in metafunc.fixturenames:
        left_out = metafunc.config.getoption("markexpr") == "not nightly"
        metafunc.parametrize("nightly_case", [] if left_out else list(CASES))


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Arena:
    return Arena(tmp_path_factory.mktemp("arena"), forks)


@pytest.fixture(scope="session")
def written(request: pytest.FixtureRequest) -> Callable[[Case, Row], None]:
    """Adds the row of a case to the file that was asked for; nothing where none was."""
    name = request.config.getoption("--hostile-rows")

    def write(case: Case, row: Row) -> None:
        if name is None:
            return
        file = Path(name)
        begun = not file.is_file()
        with file.open("a", newline="", encoding="utf-8") as stream:
            rows = csv.writer(stream, lineterminator="\n")
            rows.writerows([COLUMNS] if begun else [])
            rows.writerow((case.id, case.kind.command, case.kind.name, *row))

    return write


@pytest.fixture(scope="session")
def finished(request: pytest.FixtureRequest) -> frozenset[str]:
    """Cases that have a row already: a run that was cut goes on where it was."""
    name = request.config.getoption("--hostile-rows")
    if name is None or not Path(name).is_file():
        return frozenset()
    with Path(name).open(newline="", encoding="utf-8") as stream:
        return frozenset(row["id"] for row in csv.DictReader(stream))
