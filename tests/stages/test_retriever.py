"""A checkpoint that encodes photos: the embeddings are those of its shards, and what is missing is said."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import threeshnet
from threeshnet import Retriever
from threeshnet.batches.dataset import ImageDataset
from threeshnet.errors import CheckpointError, ConfigError, DataError
from threeshnet.features.extractor import Extractor
from threeshnet.features.lite0 import Lite0
from threeshnet.features.recipes import built
from threeshnet.features.segmentation import ShuffledSegmentation
from threeshnet.features.sources import names
from threeshnet.features.tiny import Tiny
from threeshnet.index.sources import PhotoFolder
from threeshnet.shards.reader import ShardedSplit

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def shards(photo_shards: Path) -> Path:
    return photo_shards


@pytest.fixture(scope="module")
def run(photo_run: Path) -> Path:
    return photo_run


@pytest.fixture(scope="module")
def retriever(run: Path) -> Retriever:
    return Retriever.load(run, device="cpu")


def photos_of(split: ShardedSplit) -> list[Path]:
    return [split.image_path(number) for number in range(len(split))]


def from_shards(retriever: Retriever, split: ShardedSplit) -> torch.Tensor:
    data = ImageDataset(split=split, fields=retriever.card["fields"])
    return retriever.model.encode_images(data.__getitems__(range(len(split)))[0])


def test_photos_have_the_embeddings_of_their_shards(retriever: Retriever, shards: Path) -> None:
    split = ShardedSplit(shards, "test")
    files, expected = photos_of(split), from_shards(retriever, split)
    torch.testing.assert_close(retriever.encode_photos(files), expected, atol=1e-6, rtol=0)
    pictures = [Image.open(file) for file in files]
    torch.testing.assert_close(retriever.encode_photos(pictures, batch_size=7), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(retriever.encode_photos(files, workers=1), expected, atol=1e-6, rtol=0)
    (first,) = retriever.image_batches(files[:16])
    arrays = split.read(range(16))
    assert first.grid is not None
    assert arrays.grid is not None
    assert first.grid.values.dtype == torch.float16
    assert torch.equal(first.grid.values, torch.from_numpy(arrays.grid))


def test_similarity_ranks_as_evaluation_does(retriever: Retriever, run: Path, shards: Path) -> None:
    split = ShardedSplit(shards, "test")
    images, texts = retriever.encode_photos(photos_of(split)), retriever.encode_texts(split.caption_texts)
    recalls = threeshnet.metrics.recall(retriever.similarity(images, texts), torch.from_numpy(split.owners))
    assert f'"rsum": {recalls["rsum"]}' in (run / "metrics.json").read_text()


def test_every_unreadable_photo_is_named_once(retriever: Retriever, tmp_path: Path, shards: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "page.jpg").write_text("<html>")
    good = photos_of(ShardedSplit(shards, "test"))[0]
    with pytest.raises(DataError) as refused:
        retriever.encode_photos([tmp_path / "empty.jpg", good, tmp_path / "page.jpg", "none.jpg"], batch_size=2)
    said = str(refused.value)
    assert all(
        text in said for text in ("3 problems", "empty.jpg: empty (0 bytes)", "page.jpg: a web page", "none.jpg")
    )
    with pytest.raises(ValueError, match="list with one photo"):
        retriever.encode_photos(str(good))


def test_a_picture_of_the_caller_stays_as_it_is(retriever: Retriever) -> None:
    turned = Image.new("RGB", (20, 10), "red")
    turned.getexif()[0x0112] = 6  # to be turned by a quarter
    retriever.encode_photos([turned])
    assert turned.size == (20, 10)


@pytest.mark.parametrize("suffix", ["", "checkpoints/last.ckpt"])
def test_what_a_retriever_is_loaded_from(run: Path, retriever: Retriever, suffix: str) -> None:
    texts = ["a dog", "a red bus"]
    assert torch.equal(Retriever.load(run / suffix).encode_texts(texts), retriever.encode_texts(texts))


def test_a_name_on_the_hub(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(run / "checkpoints" / "last.ckpt", tmp_path / "model.ckpt")
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("threeshnet.pretrained.snapshot_download", lambda *_, **__: str(tmp_path))
    assert Retriever.load("someone/model").encode_texts(["a dog"]).shape == (1, 32)

    def offline(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr("threeshnet.pretrained.snapshot_download", offline)
    with pytest.raises(CheckpointError, match="someone/model: no such folder, and the Hugging Face hub"):
        Retriever.load("someone/model")
    with pytest.raises(CheckpointError, match=r"empty: no checkpoint in it \(\*\.ckpt"):
        Retriever.load(tmp_path / "empty")
    shutil.copy(run / "checkpoints" / "last.ckpt", tmp_path)
    with pytest.raises(CheckpointError, match=r"2 checkpoints in it, name one: .*last\.ckpt, .*model\.ckpt"):
        Retriever.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"gone\.ckpt: no such file or folder"):
        Retriever.load("gone.ckpt")


# ---- extractors that are missing or different


def changed(run: Path, folder: Path, change: Any) -> Path:
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    change(content["threeshnet"])
    torch.save(content, folder / "changed.ckpt")
    return folder / "changed.ckpt"


def forget(card: dict[str, Any]) -> None:
    del card["extractors"], card["class_names"]


def test_a_checkpoint_of_before_takes_the_extractor_of_the_caller(run: Path, tmp_path: Path, shards: Path) -> None:
    file = changed(run, tmp_path, forget)
    split = ShardedSplit(shards, "test")
    files = photos_of(split)[:3]
    older = Retriever.load(file)
    assert older.encode_texts(["a dog"]).shape == (1, 32)  # texts need none
    with pytest.raises(
        CheckpointError, match=r"(?s)changed\.ckpt: .*region: the checkpoint does not say .*extractor=<"
    ) as said:
        older.encode_photos(files)
    assert all(name in str(said.value) for name in (*names("extractor"), *names("segmentation")))
    expected = Retriever.load(run).encode_photos(files)
    recipe = {"_target_": "threeshnet.features.tiny.Tiny", "width": 16}
    for given in ("tiny", recipe, Tiny()):
        assert torch.equal(Retriever.load(file, extractor=given).encode_photos(files), expected)
    both = Retriever.load(file, extractor="tiny", segmentation=Tiny(fields=["seg"]))
    assert torch.equal(both.encode_photos(files), expected)
    with pytest.raises(ConfigError, match="extractor='dog' does not exist; there are: clip"):
        Retriever.load(file, extractor="dog").encode_photos(files)
    with pytest.raises(CheckpointError, match=r"trained with the class table .* has other classes"):
        Retriever.load(file, extractor=Tiny(classes=6)).encode_photos(files)
    with pytest.raises(CheckpointError, match="its model cannot read what tiny made"):
        Retriever.load(file, extractor=Tiny(width=8)).encode_photos(files)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"weights": "of another seed"}, "another extractor: weights 'of another seed' was expected, 'random, seed 0'"),
        (
            {"recipe": {"_target_": "threeshnet.features.lite0.Lite0", "weights": "/etc/passwd"}},
            "region: .*weights='/etc/passwd' is a path of the machine that made the shards",
        ),
        (
            {"recipe": {"_target_": "os.system", "command": "true"}},
            "region: .*'os.system' is no extractor of threeshnet.features",
        ),
        (
            {"name": "precomp", "recipe": {}},
            "region: the training read precomp, which is no extractor that can be built",
        ),
    ],
)
def test_an_extractor_that_is_not_at_hand(
    run: Path, tmp_path: Path, shards: Path, entries: dict[str, Any], message: str
) -> None:
    file = changed(run, tmp_path, lambda card: card["extractors"]["region"].update(entries))
    with pytest.raises(CheckpointError, match=rf"(?s){message}.*Give them"):
        Retriever.load(file).encode_photos(photos_of(ShardedSplit(shards, "test"))[:1])


def in_precision(name: str) -> Any:
    def change(card: dict[str, Any]) -> None:
        for maker in card["extractors"].values():
            maker["precision"] = name

    return change


def test_precisions(run: Path, tmp_path: Path, shards: Path) -> None:
    files = photos_of(ShardedSplit(shards, "test"))[:2]
    with pytest.raises(ConfigError, match="precision='64-true' of the extractor"):
        Retriever.load(changed(run, tmp_path, in_precision("64-true"))).encode_photos(files)
    half = changed(run, tmp_path, in_precision("bf16-mixed"))
    difference = Retriever.load(half).encode_photos(files) - Retriever.load(run).encode_photos(files)
    assert 0 < difference.abs().max() < 0.1


def test_annotated_segmentation_needs_masks(demo_shards: Path, tmp_path: Path, one_step) -> None:
    retriever = Retriever.load(one_step(tmp_path / "run", demo_shards))
    split = ShardedSplit(demo_shards, "test")
    files = photos_of(split)
    with pytest.raises(CheckpointError, match=r"annotated segmentation, .* mask=<PNG> \(masks=\["):
        retriever.encode_photos(files)
    masks = [file.parent.parent / "segmentation" / file.name for file in files]
    found = retriever.encode_photos(files, masks=masks)
    torch.testing.assert_close(found, from_shards(retriever, split), atol=1e-6, rtol=0)
    folder = PhotoFolder(retriever, files[0].parent, masks=masks[0].parent)
    by_name = {item.file: item for item in folder.items()}
    indexed = np.concatenate([batch.embeddings for batch in folder.encode([by_name[file.name] for file in files])])
    torch.testing.assert_close(torch.from_numpy(indexed), found, atol=1e-6, rtol=0)


def test_the_authors_checkpoint() -> None:
    file, photo = GOLDEN / "official_checkpoint.pth", Image.new("RGB", (64, 48), "green")
    with pytest.raises(CheckpointError, match="authors' checkpoint: give its BERT, text_config="):
        Retriever.load(file)
    retriever = Retriever.load(file, text_config=GOLDEN / "bert")
    assert retriever.encode_texts(["a dog", "two cats"]).shape[0] == 2
    with pytest.raises(CheckpointError, match="region: the checkpoint does not say what made it"):
        retriever.encode_photos([photo])
    sizes = retriever.model.state_dict()
    width = sizes["image_encoder.project.linear.weight"].shape[1]
    classes = sizes["image_encoder.parts.category.embed.embed.weight"].shape[1]
    given = Retriever.load(file, text_config=GOLDEN / "bert", extractor=Tiny(width=width, classes=classes))
    assert given.encode_photos([photo]).norm().item() == pytest.approx(1, abs=1e-5)


# ---- recipes


@pytest.mark.parametrize(
    "recipe",
    [
        {"_target_": "threeshnet.features.extractor.Path"},
        {"_target_": "threeshnet.features.tiny.torch.load"},
        {"_target_": "threeshnet.training.checkpoint.load_model"},
        {"_target_": "threeshnet.features..tiny.Tiny"},
        {"_target_": "threeshnet.features.tiny.Tiny", "width": {"_target_": "os.system"}},
        {"_target_": "threeshnet.features.tiny.Tiny", "width": object()},
        {"_target_": "threeshnet.features.backbone.BackboneGrid", "name": "../secret"},
        {"_target_": 5},
        {},
    ],
)
def test_a_recipe_names_neither_code_nor_files(recipe: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="the recipe of an extractor in a checkpoint"):
        built(recipe)


def test_an_extractor_keeps_its_recipe() -> None:
    nested = ShuffledSegmentation(source=Tiny(width=4, fields=["seg"]), seed=3)
    target = "threeshnet.features.tiny.Tiny"
    assert nested.recipe["source"] == {"_target_": target, "width": 4, "fields": ["seg"]}
    again = built(nested.recipe)
    assert isinstance(again, ShuffledSegmentation)
    assert again.source.identity() == nested.source.identity()

    class Own(Extractor):
        def __init__(self, *, network: torch.nn.Module) -> None:
            super().__init__()

    assert Own(network=torch.nn.Identity()).recipe == {}
    assert Lite0.__module__ in Lite0(fields=["grid"]).recipe["_target_"]
