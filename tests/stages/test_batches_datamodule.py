"""The data module over real shards, alone and in a Trainer that stops and goes on."""

from __future__ import annotations

import logging
import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from threeshnet.batches.augment import AlterWords, DropTokens
from threeshnet.batches.datamodule import Augmentation, BatchOptions, RetrievalDataModule, Splits
from threeshnet.batches.loader import TrainingLoader
from threeshnet.batches.tokenizers import SPECIALS, Wordpieces
from threeshnet.errors import ConfigError, DataError
from threeshnet.records import Batch, ImageArrays, Photo

from ..shard_folders import write_folder

WORDS = ("a", "red", "bike", "##s", "dog", "on", "grass")
CLASSES, GRID = 3, (2, 2)
DEFAULTS = {"fields": ("region", "grid", "seg"), "batch_size": 4, "test": "testall"}


def arrays_of(count: int, generator: np.random.Generator) -> ImageArrays:
    regions = [generator.normal(size=(1 + number % 4, 5)).astype(np.float16) for number in range(count)]
    return ImageArrays(
        regions=regions,
        grid=generator.normal(size=(count, 4, 6)).astype(np.float16),
        seg_semantic=generator.random((count, CLASSES, 7, 7)).astype(np.float16),
        seg_map=generator.integers(0, CLASSES, (count, 64, 64)).astype(np.uint8),
        seg_categories=np.ones((count, CLASSES), np.uint8),
    )


def photos_of(split: str, count: int) -> list[Photo]:
    captions = [tuple(" ".join(["a", *["red"] * turn, "bikes"]) for turn in range(2 + n % 3)) for n in range(count)]
    return [Photo(f"{split}{n}", Path(f"{split}{n}.png"), split, captions[n]) for n in range(count)]


def make_shards(folder: Path, sizes: dict[str, list[int]]) -> Path:
    """Shards of so many images for each split."""
    generator = np.random.default_rng(0)
    each = ((split, count) for split, counts in sizes.items() for count in counts)
    shards = [(photos_of(split, count), arrays_of(count, generator)) for split, count in each]
    write_folder(folder, shards, name="small", options={"grid_size": GRID}, class_names=("sky", "road", "dog"))
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("small"), {"train": [4, 3], "dev": [3], "testall": [5]})


@pytest.fixture(scope="module")
def tokenizer() -> Wordpieces:
    return Wordpieces([*SPECIALS, *WORDS])


def module_of(shards: Path, tokenizer: Wordpieces, **options: Any) -> RetrievalDataModule:
    """A data module; `options` are those of it and of its settings objects, by name."""
    given: dict[str, Any] = DEFAULTS | options
    taken = {
        name: kind(**{each.name: given.pop(each.name) for each in fields(kind) if each.name in given})
        for name, kind in (("splits", Splits), ("batches", BatchOptions), ("augment", Augmentation))
    }
    return RetrievalDataModule(shards, tokenizer=tokenizer, **taken, **given)


def augmentations(tokenizer: Wordpieces) -> dict[str, object]:
    return {"drop_tokens": DropTokens(probability=0.4), "alter_words": AlterWords(tokenizer=tokenizer, probability=0.4)}


def equal(one: object, other: object) -> bool:
    """Tensor by tensor, through named tuples and lists."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if one is None or other is None:
        return one is other
    return len(one) == len(other) and all(equal(*pair) for pair in zip(one, other, strict=True))  # pyright: ignore


def test_batches_have_the_promised_shapes_and_types(shards: Path, tokenizer: Wordpieces) -> None:
    batch = next(iter(module_of(shards, tokenizer).train_dataloader()))
    images = batch.images
    assert images.regions.values.dtype == images.grid.values.dtype == torch.float16  # as stored
    assert images.grid.values.shape == (4, 4, 6)
    assert images.grid.mask.all()
    assert images.seg_semantic.shape == (4, CLASSES, 7, 7)
    assert images.seg_map.dtype == torch.uint8
    assert images.seg_categories.dtype == torch.float32
    assert not images.regions.values[~images.regions.mask].any()
    assert batch.captions.values.dtype == batch.owners.dtype == batch.rows.dtype == torch.int64


@pytest.mark.parametrize("workers", [0, 2])
def test_two_epochs_are_the_same_with_any_number_of_workers(shards: Path, tokenizer: Wordpieces, workers: int) -> None:
    loader = module_of(shards, tokenizer, workers=workers, **augmentations(tokenizer)).train_dataloader()
    alone = module_of(shards, tokenizer, **augmentations(tokenizer)).train_dataloader()
    for epoch in range(2):
        for each in (loader, alone):
            each.batches.set_epoch(epoch)
        found = list(loader)
        assert equal(found, list(alone))
        assert len({row for batch in found for row in batch.rows.tolist()}) == 4 * len(loader)


def test_evaluation_gives_every_item_once(shards: Path, tokenizer: Wordpieces) -> None:
    module = module_of(shards, tokenizer, evaluation_batch_size=2)
    images, captions = module.test_dataloader()
    assert sorted(number for _, numbers in images for number in numbers.tolist()) == list(range(5))
    assert sorted(number for _, numbers in captions for number in numbers.tolist()) == list(range(14))
    assert module.split("testall").owners.shape == (14,)
    assert module_of(shards, tokenizer, dev=None).val_dataloader() == []


def test_training_on_two_splits_numbers_images_through(shards: Path, tokenizer: Wordpieces) -> None:
    both = module_of(shards, tokenizer, train=("train", "dev"), dev=None, drop_last=False)
    dataset = both.train_dataloader().dataset
    batch = dataset[(0, len(dataset) - 1)]
    dev = both.split("dev").read([2])
    assert batch.owners.tolist() == [9]
    assert np.array_equal(batch.images.grid.values[0].numpy(), dev.grid[0].astype(np.float32))


def test_a_missing_test_split_falls_back_to_the_only_other(
    shards: Path, tokenizer: Wordpieces, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert module_of(shards, tokenizer, test="test").test_split == "testall"
    assert "testall" in caplog.text


def test_problems_are_named_together(shards: Path, tokenizer: Wordpieces, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'pixels' is not in these shards, which hold grid, region, seg"):
        module_of(shards, tokenizer, fields=("pixels",))
    with pytest.raises(ConfigError, match=r"'restval'; there are: dev, testall, train(.|\n)*'val'"):
        module_of(shards, tokenizer, train=("restval",), dev="val")
    with pytest.raises(DataError, match="make data"):
        module_of(tmp_path, tokenizer)
    with pytest.raises(ConfigError, match="batch_size=400"):
        module_of(shards, tokenizer, batch_size=400).train_dataloader()


def test_limit_train_images_keeps_whole_images(shards: Path, tokenizer: Wordpieces) -> None:
    dataset = module_of(shards, tokenizer, limit_train_images=2).train_dataloader().dataset
    assert len(dataset) == 5
    with pytest.raises(ConfigError, match="limit_train_images=0"):
        module_of(shards, tokenizer, limit_train_images=0).train_dataloader()


def test_the_training_loader_crosses_to_another_process(shards: Path, tokenizer: Wordpieces) -> None:
    dataset = module_of(shards, tokenizer).train_dataloader().dataset
    before = dataset[(0, 1)]
    assert equal(before, pickle.loads(pickle.dumps(dataset))[(0, 1)])


class Recorder(pl.LightningModule):
    """Learns nothing and writes down the (epoch, rows) of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int]]] = []

    def training_step(self, batch: Batch) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch.rows.tolist()))
        return self.weight * batch.captions.values.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Save(Callback):
    """Keeps a checkpoint after `step` steps, as a preempted run would."""

    def __init__(self, file: Path, step: int) -> None:
        self.file, self.step = file, step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.file)


def fit(module: RetrievalDataModule, *callbacks: Callback, resume: Path | None = None, **options: object) -> Recorder:
    recorder = Recorder()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    settings = quiet | {"enable_model_summary": False, "use_distributed_sampler": False, "max_epochs": 3} | options
    trainer = pl.Trainer(callbacks=list(callbacks), **settings)  # pyright: ignore
    trainer.fit(recorder, datamodule=module, ckpt_path=resume, weights_only=False)
    return recorder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("step", "workers", "order"), [(1, 0, "shuffle"), (7, 0, "blocks"), (7, 1, "blocks"), (10, 0, "shuffle")]
)
def test_a_run_goes_on_in_the_middle_of_an_epoch(
    shards: Path, tokenizer: Wordpieces, tmp_path: Path, step: int, workers: int, order: str
) -> None:
    options = {"workers": workers, "order": order, "block_images": 2, "window_captions": 8}
    whole = fit(module_of(shards, tokenizer, **options), Save(tmp_path / "at.ckpt", step)).seen
    assert len(whole) == 15
    assert [epoch for epoch, _ in whole] == [0] * 5 + [1] * 5 + [2] * 5
    assert whole[0][1] != whole[5][1]
    rest = fit(module_of(shards, tokenizer, **options), resume=tmp_path / "at.ckpt").seen
    assert rest == whole[step:]


@pytest.mark.filterwarnings("ignore")
def test_a_shortened_epoch_is_not_resumed_in_its_middle(shards: Path, tokenizer: Wordpieces, tmp_path: Path) -> None:
    class SaveAtEpochEnd(Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, *_: object) -> None:
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(tmp_path / "end.ckpt")

    whole = fit(module_of(shards, tokenizer), SaveAtEpochEnd(), limit_train_batches=3).seen
    rest = fit(module_of(shards, tokenizer), resume=tmp_path / "end.ckpt", limit_train_batches=3).seen
    assert rest == whole[3:]


def test_other_settings_are_not_resumed_in_the_middle(shards: Path, tokenizer: Wordpieces) -> None:
    def loader(**order: object) -> TrainingLoader:
        return module_of(shards, tokenizer, **order).train_dataloader()

    blocks = {"order": "blocks", "block_images": 2, "window_captions": 4}
    state = loader(**blocks).state_dict() | {"batches": 2}
    loader(**blocks).load_state_dict(state)
    with pytest.raises(ConfigError, match="window_captions=6, but the run began with 4"):
        loader(**blocks | {"window_captions": 6}).load_state_dict(state)
    with pytest.raises(ConfigError, match="order=shuffle, but the run began with blocks"):
        loader().load_state_dict(state)
    with pytest.raises(ConfigError, match="batch_size=2, but the run began with 4"):
        loader(batch_size=2).load_state_dict(loader().state_dict() | {"batches": 2})
    before = {"epoch": 0, "batches": 2, "captions": 20, "batch_size": 4, "seed": 0}  # as states were without orders
    loader().load_state_dict(before)
    with pytest.raises(ConfigError, match="order=blocks, but the run began with shuffle"):
        loader(**blocks).load_state_dict(before)
