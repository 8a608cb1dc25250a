"""From photos to shards: resumed, skipped, refused, with damaged photos, and the command around it."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from threeshnet.cli import main
from threeshnet.errors import ConfigError, DataError
from threeshnet.features.tiny import Tiny
from threeshnet.installation import CONF
from threeshnet.records import AnnotatedSet, Photo
from threeshnet.shards.fill import batches_within_shards
from threeshnet.shards.make import MadeShards
from threeshnet.shards.plan import plan_shards
from threeshnet.shards.reader import ShardedSplit
from threeshnet.shards.verify import verify

from .pictures import quiet_shards


def annotated_of(folder: Path, train: int = 7, dev: int = 2) -> AnnotatedSet:
    folder.mkdir(exist_ok=True)
    photos = []
    for number, split in enumerate(["train"] * train + ["dev"] * dev):
        file = folder / f"{number}.png"
        if not file.exists():
            pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), np.uint8)
            Image.fromarray(pixels).save(file)
        photos.append(Photo(f"p{number}", file, split, (f"one {number}", f"two {number}")))
    return AnnotatedSet("toy", tuple(photos))


def make(tmp_path: Path, **options: Any) -> MadeShards:
    annotated = options.pop("annotated", None) or annotated_of(tmp_path / "raw")
    where = {"folder": tmp_path / "shards", "raw": tmp_path / "raw"}
    return quiet_shards(annotated, **where | {"images_per_shard": 3, "batch_size": 2} | options)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("here", ["", "elsewhere", "data/shards"])
def test_photos_are_found_from_wherever_their_shards_are_read(
    here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`raw` was relative to where the shards were made; absolute ones, and photos that have moved, are as they were."""
    made = make(tmp_path)
    photos, shards = tmp_path / "data/raw/world", tmp_path / "data/shards/world"
    for folder in (photos, shards, tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / here)
    relative = replace(made.manifest, raw="data/raw/world")
    assert relative.photos(shards).resolve() == photos
    assert relative.photos(Path(os.path.relpath(shards))).resolve() == photos
    assert replace(made.manifest, raw="gone").photos(shards) == Path("gone")
    assert replace(made.manifest, raw=str(photos)).photos(shards) == photos


def test_photos_become_shards(tmp_path: Path) -> None:
    made = make(tmp_path)
    assert {name: entry.images for name, entry in made.manifest.splits.items()} == {"train": 7, "dev": 2}
    assert [entry.images for entry in made.manifest.splits["train"].shards] == [2, 2, 3]
    assert (made.made, made.kept) == (4, 0)
    split = ShardedSplit(made.folder, "train")
    assert split.image_ids == [f"p{number}" for number in range(7)]
    assert split.caption_texts[:2] == ["one 0", "two 0"]
    assert split.image_path(0) == tmp_path / "raw" / "0.png"
    assert split.sizes()[0].tolist() == [20, 20]
    assert made.manifest.extractors["grid"]["name"] == "tiny"
    assert len(made.manifest.class_names) == made.manifest.classes == 5
    assert verify(made.folder) == made.manifest


def test_a_second_run_does_nothing_and_gives_the_same(tmp_path: Path) -> None:
    first = make(tmp_path)
    before = contents(first.folder)
    second = make(tmp_path)
    assert (second.made, second.kept) == (0, 4)
    assert second.manifest == first.manifest
    assert contents(first.folder) == before


def test_an_interrupted_run_continues_to_the_same_bytes(tmp_path: Path) -> None:
    folder = make(tmp_path).folder
    whole = contents(folder)
    for name in ("manifest.json", "train-00001.h5", "dev-00000.h5"):
        (folder / name).unlink()
    (folder / "train-00001.h5.partial").write_bytes(b"half")
    again = make(tmp_path)
    assert (again.made, again.kept) == (2, 2)
    assert contents(folder) == whole


@pytest.mark.parametrize(
    "options", [{"sources": [Tiny(seed=1)]}, {"limit": 4}, {"images_per_shard": 4}, {"sources": [Tiny(classes=4)]}]
)
def test_other_settings_are_not_mixed_in(tmp_path: Path, options: dict) -> None:
    before = contents(make(tmp_path).folder)
    with pytest.raises(
        DataError, match=r"(?s)shards of other photos.*manifest.json: it says data set 'toy'.*overwrite"
    ):
        make(tmp_path, **options)
    assert contents(tmp_path / "shards") == before
    made = make(tmp_path, overwrite=True, **options)
    assert made.kept == 0


@pytest.mark.parametrize("change", ["captions", "pixels", "settings of a run that was interrupted"])
def test_other_content_is_not_mixed_in(tmp_path: Path, change: str) -> None:
    folder, annotated, sources = make(tmp_path).folder, annotated_of(tmp_path / "raw"), [Tiny()]
    if change == "captions":
        first, *others = annotated.photos
        annotated = annotated._replace(photos=(first._replace(captions=("other", "captions")), *others))
    elif change == "pixels":  # under the same name
        Image.new("RGB", (9, 9), "red").save(tmp_path / "raw" / "0.png")
    else:
        (folder / "manifest.json").unlink()
        sources = [Tiny(seed=1)]
    with pytest.raises(DataError, match=r"train-00000.h5: made differently"):
        make(tmp_path, annotated=annotated, sources=sources)


def test_damaged_photos_are_left_out_with_their_reason(tmp_path: Path) -> None:
    annotated = annotated_of(tmp_path / "raw")
    annotated.photos[3].file.write_bytes(b"\xff\xd8 no picture")
    annotated.photos[4].file.unlink()
    annotated = annotated._replace(problems=("p99: an empty caption",))
    made = make(tmp_path, annotated=annotated)
    assert made.manifest.splits["train"].images == 5
    assert made.manifest.left_out[0] == "p99: an empty caption"
    assert made.manifest.left_out[1].startswith("train: p3: ")
    assert "missing" in made.manifest.left_out[2]
    assert ShardedSplit(made.folder, "train").image_ids == ["p0", "p1", "p2", "p5", "p6"]
    (made.folder / "manifest.json").unlink()
    assert make(tmp_path, annotated=annotated).manifest == made.manifest
    with pytest.raises(DataError, match=r"p3: .*on_error=skip"):
        make(tmp_path, annotated=annotated, overwrite=True, on_error="stop")
    assert [file.name for file in made.folder.iterdir()] == ["train-00000.h5"]


def test_no_photo_that_can_be_read_is_an_error(tmp_path: Path) -> None:
    annotated = annotated_of(tmp_path / "raw")
    moved = tuple(photo._replace(file=tmp_path / "elsewhere" / photo.file.name) for photo in annotated.photos)
    with pytest.raises(DataError, match=r"none of its 2 photos can be read.*missing"):
        make(tmp_path, annotated=annotated._replace(photos=moved))


@pytest.mark.parametrize(("workers", "small"), [(2, False), (None, False), (None, True)])
def test_workers_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int | None, small: bool
) -> None:
    """Nor whether they extract too; with photos that cannot be read, a whole batch of them among others."""
    annotated = annotated_of(tmp_path / "raw")
    for number in (2, 3, 4, 8):
        annotated.photos[number].file.write_bytes(b"no picture")
    one = make(tmp_path, annotated=annotated, images_per_shard=7)
    here, forward = [], Tiny.forward
    monkeypatch.setattr(Tiny, "small", small)
    monkeypatch.setattr(Tiny, "forward", lambda self, inputs: here.append(1) or forward(self, inputs))
    where: Any = {"folder": tmp_path / "other", "images_per_shard": 7}
    two = make(tmp_path, annotated=annotated, workers=workers, **where)
    assert contents(one.folder) == contents(two.folder)
    assert bool(here) != small


def test_batches_keep_to_their_shard(tmp_path: Path) -> None:
    annotated = annotated_of(tmp_path / "raw")
    planned = plan_shards(annotated, raw=tmp_path, makers=[], images_per_shard=3)
    assert list(batches_within_shards(planned, 2)) == [[0, 1], [2, 3], [4, 5], [6], [7, 8]]


def test_ids_must_be_unique_and_settings_sane(tmp_path: Path) -> None:
    annotated = annotated_of(tmp_path / "raw")
    with pytest.raises(DataError, match="'p0' occurs 2 times"):
        make(tmp_path, annotated=annotated._replace(photos=(*annotated.photos, annotated.photos[0])))
    with pytest.raises(DataError, match="no photos"):
        make(tmp_path, annotated=annotated._replace(photos=()))
    with pytest.raises(ConfigError, match="batch_size=0"):
        make(tmp_path, batch_size=0)
    with pytest.raises(ConfigError, match="on_error='ignore' does not exist; there are: skip, stop"):
        make(tmp_path, on_error="ignore")


# --- the command

SMALL = ["data=synthetic", "images=10", "progress=false", "workers=0", "accelerator=cpu"]
WIDTHS = [f"data.extractor.{key}" for key in ("region_width=6", "grid_width=4", "classes=3")]


def run_main(*overrides: str) -> None:
    main(["data", *overrides])


def test_the_command_makes_synthetic_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_main(*SMALL, *WIDTHS, f"out={tmp_path}")
    assert "testall" in capsys.readouterr().out
    split = ShardedSplit(tmp_path / "synthetic", "testall")
    assert (split.images, split.captions) == (2, 10)
    assert split.manifest.config["images"] == 10
    run_main(*SMALL, *WIDTHS, f"out={tmp_path}")
    assert "0 shard files made, 3 were there already" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(file.stem for file in (CONF / "segmentation").glob("*.yaml")))
def test_every_segmentation_composes_with_every_extractor(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for extractor in (file.stem for file in (CONF / "extractor").glob("*.yaml")):
            cfg = compose("data", ["data=synthetic", f"segmentation={name}", f"extractor={extractor}"])
            assert cfg.segmentation._target_.startswith("threeshnet.features.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=synthetic", "imags=3"], "'imags' is not a setting of data; did you mean images?"),
        (["data=synthetic", "data.extractor.clases=3"], "did you mean data.extractor.classes"),
        (["data=synthetic", "images=2"], "images=2: each of the splits"),
        (["data=no_such_data"], "synthetic"),
        ([], "synthetic"),
    ],
)
def test_what_is_wrong_ends_with_one_message(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["threeshnet", "data", f"out={tmp_path}", *words])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []
