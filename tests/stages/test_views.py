"""Other views of the photos: how they are made, and how training reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import threeshnet
from threeshnet.batches.collate import collate_images
from threeshnet.batches.datamodule import Augmentation, BatchOptions, RetrievalDataModule
from threeshnet.batches.dataset import CaptionDataset
from threeshnet.batches.tokenizers import SPECIALS, Wordpieces
from threeshnet.errors import ConfigError, DataError
from threeshnet.evaluation.table import named_protocol
from threeshnet.features.photos import PhotoBatches
from threeshnet.features.segmentation import AnnotatedSegmentation
from threeshnet.features.tiny import Tiny
from threeshnet.features.views import RandomCrop
from threeshnet.metrics.ranks import rank_similarity
from threeshnet.metrics.recalls import recall_of_ranks
from threeshnet.records import AnnotatedSet, Photo
from threeshnet.runs.identity import identity, views_read
from threeshnet.runs.run import METRICS
from threeshnet.shards import remote
from threeshnet.shards.manifest import Manifest
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.checkpoint import read_checkpoint

from .pictures import quiet_shards

WORDS = ("a", "red", "dog", "on", "grass")
SIZES = {"train": 6, "dev": 3, "test": 2}
FIELDS = ("grid", "seg")


def photo_of(name: str, split: str = "train") -> Photo:
    return Photo(name, Path(f"{name}.png"), split, ("a red dog", "a dog on grass"))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def make(folder: Path, name: str, **options: Any) -> Path:
    """Shards of eleven photos below `folder`, named as a data set."""
    raw = folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    photos = []
    for split, count in SIZES.items():
        for number in range(count):
            file = raw / f"{split}{number}.png"
            if not file.exists():
                noise(40, 30, seed=len(photos)).save(file)
            photos.append(photo_of(f"{split}{number}", split)._replace(file=file))
    given: dict[str, Any] = {"sources": [Tiny(fields=FIELDS)], "images_per_shard": 4, "batch_size": 2} | options
    return quiet_shards(AnnotatedSet(name, tuple(photos)), raw, folder / name, **given).folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos as they are, and two views of them beside."""
    folder = tmp_path_factory.mktemp("views")
    for number in (1, 2):
        make(folder, f"small_view{number}", view=RandomCrop(number=number))
    return make(folder, "small")


@pytest.fixture
def tokenizer() -> Wordpieces:
    return Wordpieces([*SPECIALS, *WORDS])


@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    number=st.integers(0, 9),
    least=st.floats(0.0, 1.0),
    name=st.text(min_size=1),
)
def test_a_crop_is_a_box_of_the_photo(width: int, height: int, number: int, least: float, name: str) -> None:
    view = RandomCrop(number=number, least_area=least, mirrored=0.0)
    photo, image = photo_of(name), noise(width, height)
    seen = view(photo, image)
    assert seen.tobytes() == view(photo, image).tobytes()  # the same whenever it is asked for
    assert 1 <= seen.width <= width
    assert 1 <= seen.height <= height
    rounded = (seen.width + 0.5) * (seen.height + 0.5)
    assert rounded >= least * width * height
    found, whole = np.asarray(seen), np.asarray(image)
    corners = np.argwhere((whole[: height - seen.height + 1, : width - seen.width + 1] == found[0, 0]).all(axis=-1))
    assert any(np.array_equal(whole[y : y + seen.height, x : x + seen.width], found) for y, x in corners)


def test_a_mirror_image_is_one() -> None:
    image = noise(20, 10)
    seen = RandomCrop(least_area=1.0, mirrored=1.0)(photo_of("a"), image)
    assert np.array_equal(np.asarray(seen), np.asarray(image)[:, ::-1])


def test_views_and_photos_differ_and_half_are_mirrored() -> None:
    image = noise(60, 40)
    sizes = [[RandomCrop(number=n)(photo_of(str(i)), image).size for i in range(50)] for n in (1, 2)]
    assert sizes[0] != sizes[1]
    assert len(set(sizes[0])) > 25
    mirrored = [RandomCrop(least_area=1.0)(photo_of(str(i)), image) != image for i in range(200)]
    assert 70 < sum(mirrored) < 130


@pytest.mark.parametrize(
    ("options", "said"),
    [({"least_area": 1.5, "mirrored": -1}, "least_area=1.5(.|\n)*mirrored=-1"), ({"number": -1}, "number=-1 must not")],
)
def test_a_view_that_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RandomCrop(**options)


def test_sources_see_the_view_and_fingerprints_the_photo(tmp_path: Path) -> None:
    image = noise(40, 30)
    image.save(tmp_path / "a.png")
    photo = photo_of("a")._replace(file=tmp_path / "a.png")
    view = RandomCrop(least_area=0.5, mirrored=1.0)
    plain, seen = (PhotoBatches([photo], [Tiny()], [[0]], with_view)[0] for with_view in (None, view))
    expected = Tiny().load(photo, view(photo, image))
    assert all((seen.inputs[0][key][0] == expected[key]).all() for key in expected)
    assert seen.sizes == [view(photo, image).size] != plain.sizes
    assert repr(seen.fingerprints) == repr(plain.fingerprints)


def test_shards_of_a_view_are_other_shards(shards: Path) -> None:
    own, one, two = (ShardedSplit(shards.parent / name, "train") for name in ("small", "small_view1", "small_view2"))
    assert list(own.image_ids) == list(one.image_ids) == list(two.image_ids)
    grids = [np.asarray(split.read(range(6)).grid) for split in (own, one, two)]
    assert not np.array_equal(grids[0], grids[1])
    assert not np.array_equal(grids[1], grids[2])
    assert len({split.manifest.fingerprint for split in (own, one, two)}) == 3
    with pytest.raises(DataError, match="small_view1"):
        make(shards.parent, "small_view1", view=RandomCrop(number=3))


def test_a_view_of_masks_from_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"view=random_crop: annotated reads no photo, .* segmentation=own"):
        make(tmp_path, "small", sources=[Tiny(fields=["grid"]), AnnotatedSegmentation()], view=RandomCrop())


def splits_of(shards: Path, name: str) -> list[ShardedSplit]:
    return [ShardedSplit(shards.parent / name, split) for split in ("train", "dev")]


def dataset(shards: Path, tokenizer: Wordpieces, *views: str, **options: Any) -> CaptionDataset:
    others = [splits_of(shards, name) for name in views]
    return CaptionDataset(
        splits=splits_of(shards, "small"), tokenizer=tokenizer, fields=FIELDS, views=others, **options
    )


def test_each_pair_sees_one_of_the_views(shards: Path, tokenizer: Wordpieces) -> None:
    """Against every view read plainly: a pair has the row of one, all views come, and other epochs bring others."""
    found = dataset(shards, tokenizer, "small_view1", "small_view2")
    rows = list(range(len(found)))
    names = ("small", "small_view1", "small_view2")
    whole = [[np.asarray(split.read(range(split.images)).grid) for split in splits_of(shards, name)] for name in names]
    grids = [np.concatenate(view) for view in whole]
    seen: list[tuple[int, ...]] = []
    for epoch in range(4):
        batch = found.__getitems__([(epoch, row) for row in rows])
        grid = batch.images.grid
        which = []
        for place, owner in enumerate(batch.owners.tolist()):
            same = [np.array_equal(grid.values[place].numpy(), view[owner]) for view in grids]
            assert sum(same) == 1
            which.append(same.index(True))
        seen.append(tuple(which))
    assert len(set(seen)) == 4
    shares = np.bincount(np.concatenate(seen), minlength=3) / (4 * len(rows))
    assert (abs(shares - 1 / 3) < 0.2).all()


def module_of(shards: Path, tokenizer: Wordpieces, **options: Any) -> RetrievalDataModule:
    augment = Augmentation(views=options.pop("views", ()))
    given = {"fields": FIELDS, "batches": BatchOptions(batch_size=4), "augment": augment}
    return RetrievalDataModule(shards, tokenizer=tokenizer, **given, **options)


def test_views_are_for_training_alone(shards: Path, tokenizer: Wordpieces) -> None:
    module = module_of(shards, tokenizer, views=["small_view1"])
    loader = module.train_dataloader()
    assert len(loader.dataset.seen_as) == 2  # pyright: ignore
    images, _ = next(iter(module.val_dataloader()[0]))
    assert np.array_equal(images.grid.values.numpy(), ShardedSplit(shards, "dev").read(range(3)).grid)  # pyright: ignore


def test_a_view_of_other_photos_is_refused(shards: Path, tokenizer: Wordpieces, tmp_path: Path) -> None:
    for name in ("small", "small_view1"):
        (tmp_path / name).symlink_to(shards.parent / name)
    make(tmp_path, "wide", sources=[Tiny(fields=FIELDS, width=8)], view=RandomCrop())
    make(tmp_path, "few", limit=2, view=RandomCrop())
    make(tmp_path, "no_seg", sources=[Tiny(fields=["grid"])], view=RandomCrop())
    said = {
        "wide": "grid is made by .*'Tiny|tiny.*ours by",
        "few": "the images of split 'train' differ, or their order does",
        "no_seg": "seg is made by None, ours by",
    }
    for name, reason in said.items():
        module = module_of(tmp_path / "small", tokenizer, views=["small_view1", name])
        with pytest.raises(ConfigError, match=rf"views: {name}(.|\n)*{reason}(.|\n)*view=random_crop"):
            module.train_dataloader()
    with pytest.raises(DataError, match="No shards of small_view9"):
        module_of(tmp_path / "small", tokenizer, views=["small_view9"])


def test_held_out_images_are_seen_in_other_views_too(shards: Path, tokenizer: Wordpieces) -> None:
    module = module_of(shards, tokenizer, scored_views=["small_view2", "small_view1"])
    images, captions, *views = module.test_dataloader()
    assert len(views) == 2
    for loader, name in zip((images, *views), ("small", "small_view2", "small_view1"), strict=True):
        ((batch, numbers),) = list(loader)
        expected = ShardedSplit(shards.parent / name, "test").read(range(2)).grid
        assert np.array_equal(batch.grid.values.numpy(), expected)  # pyright: ignore
        assert numbers.tolist() == [0, 1]
    assert sum(len(numbers) for _, numbers in captions) == 4
    assert len(module_of(shards, tokenizer).test_dataloader()) == 2
    with pytest.raises(DataError, match="No shards of small_view9"):
        module_of(shards, tokenizer, scored_views=["small_view9"])


def test_a_run_is_another_with_other_views(shards: Path) -> None:
    one, other = views_read(shards, ["small_view1"]), views_read(shards, ["small_view2"])
    assert [text.split()[0] for text in (*one, *other)] == ["small_view1", "small_view2"]
    names = [identity({"seed": 0}, "data", views) for views in ((), one, other, [*one, *other])]
    assert len(set(names)) == 4
    assert names[0] == identity({"seed": 0}, "data")


def check_mean_of_views(command: Any, file: Path, shards: Path, words: list[str]) -> None:
    """The slow twin: each view encoded by itself, and the mean of what comes out, ranked."""
    ended = command("evaluate", f"checkpoint={file}", *words, "views=[3,1]")
    assert ended.code == 0, ended.err
    found = json.loads((shards.parent / "scored" / METRICS).read_text())
    assert [text.split()[0] for text in found["scored_views"]] == ["folder_view3", "folder_view1"]
    assert named_protocol(found) == "full, mean of 3 views"
    assert "| scored views | folder_view3 (" in (shards.parent / "scored" / "MODEL_CARD.md").read_text()
    model = threeshnet.load_model(file)
    splits = [ShardedSplit(shards / name, "test") for name in ("folder", "folder_view1", "folder_view3")]
    with torch.inference_mode():
        seen = [
            model.encode_images(collate_images(split.read(range(split.images), ["grid", "seg"], extras=False)))
            for split in splits
        ]
        captions = model.encode_texts(list(splits[0].caption_texts))
    mean = torch.stack(seen).mean(dim=0)
    similarity = (mean / mean.norm(dim=1, keepdim=True)) @ captions.T
    alone = rank_similarity(similarity, splits[0].owners)
    assert {side: found[side] for side in ("i2t", "t2i")} == {
        side: recall for side, recall in recall_of_ranks(alone).items() if side in ("i2t", "t2i")
    }
    assert not torch.allclose(mean, seen[0], atol=1e-3)


def check_bucket(command: Any, folder: Path, train: list[str], score: list[str]) -> None:
    """What lies in a bucket trains the same weights as the folders do, and scores them alike."""
    bucket = f"memory://{folder.name}/shards"
    pytest.importorskip("fsspec").filesystem("memory").put(str(folder / "shards"), bucket, recursive=True)
    ended = command(
        "train", *train, f"shards={bucket}/folder", f"out={folder / 'afar'}", "augment.views=[folder_view1]"
    )
    assert ended.code == 0, ended.err
    files = [folder / run / "checkpoints" / "last.ckpt" for run in ("run", "afar")]
    here, afar = (read_checkpoint(file)["state_dict"] for file in files)
    assert here.keys() == afar.keys()
    assert all(torch.equal(here[name], afar[name]) for name in here)
    ended = command(
        "evaluate", f"checkpoint={files[1]}", *score, f"shards={bucket}/folder", f"out={folder / 'far'}", "views=[3,1]"
    )
    assert ended.code == 0, ended.err
    found, expected = (json.loads((folder / name / METRICS).read_text()) for name in ("far", "scored"))
    same = ("i2t", "t2i", "rsum", "scored_views")
    assert [found[key] for key in same] == [expected[key] for key in same]


def test_commands_make_views_and_train_with_them(tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for number in range(40):
        noise(30, 20, seed=number).save(raw / f"{number}.png")
    (raw / "captions.txt").write_text("".join(f"{number}.png\ta red dog {number}\n" for number in range(40)))
    words = ["data=folder", "extractor=tiny", f"raw={raw}", "workers=0", "accelerator=cpu", "progress=false"]
    words += ["data.reader.dev_percent=30", "data.reader.test_percent=30"]
    for more in ([], ["view=random_crop", "views=[1,3]"]):
        ended = command("data", *words, f"out={tmp_path / 'shards'}", *more)
        assert ended.code == 0, ended.err
    made = sorted(folder.name for folder in (tmp_path / "shards").iterdir())
    assert made == ["folder", "folder_view1", "folder_view3"]
    assert [Manifest.load(tmp_path / "shards" / name).dataset for name in made] == made
    wrong = dict.fromkeys(("[1,1]", "[-1]", "[one]"), "expected different numbers from 0") | {"[]": "name the views"}
    for views, said in wrong.items():
        ended = command("data", *words, f"out={tmp_path / 'shards'}", "view=random_crop", f"views={views}")
        assert (ended.code, said in ended.err) == (1, True), ended.err
    small = ["features=grid", "data=folder", "text=tiny", "dim=8", "trainer.max_steps=2", "batches.batch_size=4"]
    small += ["batches.workers=0", "trainer.accelerator=cpu", "highlights=0", f"shards={tmp_path / 'shards'}"]
    ended = command("train", *small, f"out={tmp_path / 'run'}", "augment.views=[folder_view1]")
    assert ended.code == 0, ended.err
    assert "| views | folder_view1 (" in (tmp_path / "run" / "MODEL_CARD.md").read_text()
    scored = [f"shards={tmp_path / 'shards' / 'folder'}", "workers=0", "accelerator=cpu", f"out={tmp_path / 'scored'}"]
    file = tmp_path / "run" / "checkpoints" / "last.ckpt"
    check_mean_of_views(command, file, tmp_path / "shards", scored)
    monkeypatch.setenv(remote.WHERE, str(tmp_path / "cache"))
    check_bucket(command, tmp_path, small[:-1], scored[1:-1])
    ended = command("train", *small, f"out={tmp_path / 'other'}", "augment.views=[folder_view2]")
    assert ended.code == 1
    assert "No shards of folder_view2: looked for" in ended.err
    assert "make data DATA=folder ARGS='view=random_crop views=[2]'" in ended.err
    ended = command("train", *small, f"out={tmp_path / 'other'}", "augment.views=folder_view1")
    assert ended.code == 1
    assert "augment.views" in ended.err
