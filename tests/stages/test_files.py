"""Files that are whole or not there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from threeshnet.files import HASHED_BYTES, sha256, write_rows


def test_rows_are_written_by_column(tmp_path: Path) -> None:
    file = tmp_path / "new" / "rows.csv"
    write_rows(file, ("a", "b"), [{"b": "x,y", "a": 1}, {"a": 2}])
    assert file.read_bytes() == b'a,b\n1,"x,y"\n2,\n'
    assert [entry.name for entry in file.parent.iterdir()] == ["rows.csv"]


def test_what_has_no_column_or_fails_halfway_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    def torn() -> Iterator[dict[str, int]]:
        yield {"a": 2}
        raise RuntimeError("cut")

    file = tmp_path / "rows.csv"
    write_rows(file, ["a"], [{"a": 1}])
    with pytest.raises(ValueError, match="'b'"):
        write_rows(file, ["a"], [{"a": 1, "b": 2}])
    with pytest.raises(RuntimeError):
        write_rows(file, ["a"], torn())
    assert file.read_text() == "a\n1\n"


def test_one_hash_of_files(tmp_path: Path) -> None:
    first, second, seen = tmp_path / "first", tmp_path / "second", []
    first.write_bytes(b"a" * (HASHED_BYTES + 1))
    second.write_bytes(b"b")
    assert sha256(first) == hashlib.sha256(first.read_bytes()).hexdigest()
    both = hashlib.sha256(first.read_bytes() + second.read_bytes()).hexdigest()
    assert sha256(first, second, advance=seen.append) == both
    assert seen == [HASHED_BYTES, 1, 1]
