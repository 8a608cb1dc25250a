"""Checkpoints on the disk: whole or not there, and the one before behind them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from threeshnet.errors import CheckpointError
from threeshnet.files import NO_ROOM
from threeshnet.runs import checkpoint_files
from threeshnet.runs.checkpoint_files import fault_of, newest_whole, size_of, write_checkpoint
from threeshnet.runs.run import Run
from threeshnet.training.whole_files import WholeFiles

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


def step(folder: Path, name: str) -> int:
    return torch.load(folder / name, weights_only=True)["step"]


def write(folder: Path, number: int) -> None:
    write_checkpoint({"step": number, "weights": torch.full((500,), float(number))}, folder / LAST)


@pytest.mark.parametrize("links", [True, False])
def test_the_one_before_is_kept_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refusing(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:  # as on some file systems
        monkeypatch.setattr(os, "link", refusing)
    for number in range(3):
        write(tmp_path, number)
    assert (step(tmp_path, LAST), step(tmp_path, PREVIOUS)) == (2, 1)
    assert sorted(file.name for file in tmp_path.iterdir()) == [LAST, PREVIOUS]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_failed_write_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    write(tmp_path, 0)

    def failing(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(checkpoint_files.os, "fsync", failing)
    files = WholeFiles()
    files.save_checkpoint({"step": 1, "weights": torch.zeros(1_000_000)}, tmp_path / LAST)
    assert files.failure is not None
    assert f"{tmp_path / LAST} cannot be written: {os.strerror(code)}" in files.failure
    assert ("needs 4.0 MB" in files.failure) == (code in NO_ROOM)
    assert step(tmp_path, LAST) == 0
    assert [file.name for file in tmp_path.iterdir()] == [LAST]
    monkeypatch.undo()
    files.save_checkpoint({"step": 1}, tmp_path / LAST)
    assert files.failure is None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    write(folder, 5)
    return (folder / LAST).read_bytes()


@given(share=st.floats(0, 0.999))
def test_a_cut_file_is_recognised(tmp_path_factory: pytest.TempPathFactory, whole: bytes, share: float) -> None:
    file = tmp_path_factory.mktemp("cut") / LAST
    file.write_bytes(whole[: int(share * len(whole))])
    assert "cut short" in str(fault_of(file))


@given(place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_a_flipped_bit_is_recognised_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, place: int, bit: int
) -> None:
    """Between the records there is padding, which nobody reads."""
    content = bytearray(whole)
    content[place % len(whole)] ^= 1 << bit
    file = tmp_path_factory.mktemp("flipped") / LAST
    file.write_bytes(content)
    if fault_of(file) is None:
        read = torch.load(file, weights_only=True)
        assert read["step"] == 5
        assert torch.equal(read["weights"], torch.full((500,), 5.0))


def test_a_torn_one_is_skipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(tmp_path)
    assert newest_whole(run) is None
    write(run.checkpoints, 0)
    write(run.checkpoints, 1)
    assert newest_whole(run) == run.last
    os.truncate(run.last, 100)
    assert newest_whole(run) == run.previous
    assert f"{run.last} is torn" in caplog.text
    os.truncate(run.previous, 100)
    with pytest.raises(CheckpointError, match="No checkpoint of this run can be read"):
        newest_whole(run)


def test_memory_that_is_shared_is_counted_once() -> None:
    weights = torch.zeros(10)
    assert size_of({"a": weights, "b": [weights[:5], {"c": torch.zeros(3, dtype=torch.int64)}], "d": "text"}) == 40 + 24
