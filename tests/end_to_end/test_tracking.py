"""What W&B is told of a run, read back from the file that an offline run leaves."""

from __future__ import annotations

import contextlib
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from wandb.proto.wandb_internal_pb2 import Record

from ..forks import Forks

BLOCK, HEADER = 32_768, 7  # of a .wandb file: LevelDB's log, (checksum, length, kind) before every piece
WHOLE, FIRST, LAST = 1, 2, 4  # kinds of pieces


def records(file: Path) -> Iterator[Record]:
    data, place, parts = file.read_bytes(), HEADER, b""
    assert data[:4] == b":W&B"
    while place + HEADER <= len(data):
        if (left := BLOCK - place % BLOCK) < HEADER:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        piece = data[place + HEADER : place + HEADER + length]
        parts = piece if kind in (WHOLE, FIRST) else parts + piece
        place += HEADER + length
        if kind in (WHOLE, LAST):
            record = Record()
            record.ParseFromString(parts)
            yield record


def numbers(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


class Told:
    """One segment of a run."""

    def __init__(self, found: list[Record]) -> None:
        (self.run,) = [record.run for record in found if record.HasField("run")]
        self.config = {item.key: json.loads(item.value_json) for item in self.run.config.update}
        self.history = [numbers(record.history.item) for record in found if record.HasField("history")]
        self.summary: dict[str, Any] = {}
        for record in found:
            self.summary |= numbers(record.summary.update)
        self.artifacts = {record.artifact.type: record.artifact for record in found if record.HasField("artifact")}
        self.tables = [record.artifact for record in found if record.artifact.type == "run_table"]
        self.metrics = {(record.metric.name or record.metric.glob_name): record.metric for record in found}
        self.exits = [record.exit.exit_code for record in found if record.HasField("exit")]
        self.system = any(record.HasField("stats") for record in found)


def segments(run: Path) -> list[Told]:
    return [Told(whole(file)) for file in sorted(run.glob("wandb/*run-*/*.wandb"))]


def whole(file: Path, seconds: float = 30) -> list[Record]:
    """To the last record, which W&B's service may write after the run has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(DecodeError):
            found = list(records(file))
            if any(record.HasField("exit") for record in found):
                return found
        time.sleep(0.05)
    raise AssertionError(f"{file}: no end after {seconds} s")


@pytest.fixture(scope="module")
def run(forks: Forks, tmp_path_factory: pytest.TempPathFactory, demo_shards: Path, small: list[str]) -> Path:
    """An epoch in two processes."""
    out = tmp_path_factory.mktemp("tracked") / "run"
    settings = [*small, f"shards={demo_shards}", "trainer.max_epochs=1", "highlights=2", f"out={out}"]
    settings += ["wandb=offline", "wandb_artifact=true", "trainer.devices=2", "trainer.log_every_n_steps=1"]
    words = ["experiment=region_demo", *settings]
    ended = forks.run("train", words, folder=out.parent, processes=2, seconds=500)
    assert ended.code == 0, ended.err
    return out


@pytest.fixture(scope="module")
def told(run: Path) -> Told:
    (only,) = segments(run)  # of two processes
    return only


def test_a_run_says_what_it_is(run: Path, told: Told, demo_shards: Path) -> None:
    manifest = json.loads((demo_shards / "manifest.json").read_text())
    assert (told.run.project, told.run.job_type) == ("threeshnet", "train")
    assert told.run.display_name == "region_demo-seed0"
    assert {"region_demo", "features=region", "recipe=official"} <= set(told.run.tags)
    assert told.config["trainer"]["max_epochs"] == 1
    data = told.config["shards_manifest"]
    assert (data["fingerprint"], data["class_table"]) == (manifest["fingerprint"], manifest["class_table"])
    assert data["extractors"]["region"]["name"] == manifest["extractors"]["region"]["name"]
    assert set(told.config["code"]) >= {"commit", "dirty"}
    assert told.exits == [0]
    assert told.system
    assert not list(run.rglob("diff.patch"))


def test_curves_have_axes_and_the_best_is_kept(run: Path, told: Told) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert told.metrics["train/*"].step_metric == "trainer/global_step"
    assert told.metrics["dev/rsum"].step_metric == "epoch"
    assert told.metrics["dev/rsum"].summary.max
    assert told.metrics["dev/t2i_mean_rank"].summary.min
    (dev,) = [row for row in told.history if "dev/rsum" in row]
    losses = [row for row in told.history if "train/loss" in row]
    assert [row["trainer/global_step"] for row in losses] == list(range(metrics["steps"]))
    assert told.summary["dev/rsum"] == {"max": dev["dev/rsum"]}
    assert told.summary["test/rsum"] == pytest.approx(metrics["rsum"])
    assert told.summary["checkpoint"] == metrics["checkpoint"]


def test_tables_hold_pictures_and_lie_in_the_run_directory(run: Path, told: Told) -> None:
    logged = {key.split("/_type")[0] for row in told.history for key in row}
    for key in ("held_out/retrievals", "held_out/confusions", "model/gpo_weights", "model/vsem_weights_regions"):
        assert any(name.startswith(key) for name in logged), key
    held = {content.path: Path(content.local_path) for table in told.tables for content in table.manifest.contents}
    pictures = [file for path, file in held.items() if path.startswith("media/images/")]
    assert len(pictures) == 4  # photo and highlight of two images
    (model,) = [Path(content.local_path) for content in told.artifacts["model"].manifest.contents]
    assert model.read_bytes() == (run / "checkpoints" / "best.ckpt").read_bytes()
    for file in [*held.values(), model]:
        assert file.is_relative_to(run)
        assert file.is_file()


def test_scores_of_a_checkpoint_are_a_run_of_their_own(run: Path, demo_shards: Path, command, tmp_path: Path) -> None:
    file, where = run / "checkpoints" / "best.ckpt", [f"shards={demo_shards}", f"out={tmp_path}", "split=dev"]
    ended = command("evaluate", f"checkpoint={file}", *where, "workers=0", "accelerator=cpu", "wandb=offline")
    assert ended.code == 0, ended.err
    (told,) = segments(tmp_path)
    assert (told.run.job_type, told.run.display_name) == ("evaluate", "demo-dev-full")
    assert told.summary["test/rsum"] == json.loads((tmp_path / "metrics.json").read_text())["rsum"]


def test_a_resumed_run_goes_on_in_the_same_one(run: Path, demo_shards: Path, command, small: list[str]) -> None:
    settings = [*small, f"shards={demo_shards}", "trainer.max_epochs=2", "highlights=0", f"out={run}"]
    ended = command("train", "experiment=region_demo", *settings, "wandb=offline", "resume=true", "study=lengths")
    assert ended.code == 0, ended.err
    first, second = segments(run)
    assert first.run.run_id == second.run.run_id == json.loads((run / "wandb_run.json").read_text())["id"]
    assert second.run.run_group == "lengths"
    assert {row["epoch"] for row in second.history if "dev/rsum" in row} == {1}
