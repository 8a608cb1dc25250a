"""Fit the calibration of a model on the dev split, and store it in the checkpoint's card."""

from __future__ import annotations

import logging
from pathlib import Path

import pytorch_lightning as pl

from threeshnet.batches.datamodule import RetrievalDataModule
from threeshnet.errors import CheckpointError, ConfigError
from threeshnet.metrics.answerability import Calibration
from threeshnet.metrics.answerability_fit import FEWEST
from threeshnet.nn.collectives import gather_objects, process_index
from threeshnet.runs.checkpoint_files import explained, size_of, write_checkpoint
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.checkpoint import checkpoint_hash, read_checkpoint
from threeshnet.training.encoding import Embeddings, EncodingModule

log = logging.getLogger(__name__)
CALIBRATION = "calibration"  # key of a checkpoint's card


def calibrate(trainer: pl.Trainer, module: EncodingModule, datamodule: RetrievalDataModule, checkpoint: Path) -> None:
    """Calibrate the module's weights on the dev split, and store the calibration in their checkpoint.

    Nothing happens without a dev split, or where the model was trained on it. Every process must call it. Raises
    CheckpointError, in every process, when the checkpoint cannot be written.
    """
    dev = datamodule.dev_split
    if dev is None or dev in datamodule.train_splits:
        log.info("no dev split that the model was not trained on: the checkpoint gets no calibration")
        return
    scored, datamodule.test_split = datamodule.test_split, dev
    try:
        trainer.test(module, datamodule=datamodule, verbose=False)
    finally:
        datamodule.test_split = scored
    assert module.embeddings is not None
    fault = ""
    if process_index() == 0:
        try:
            if calibration := fitted(module.embeddings, datamodule.split(dev)):
                store(calibration, checkpoint)
        except CheckpointError as error:
            fault = str(error)
    if fault := next(filter(None, gather_objects(fault)), ""):
        raise CheckpointError(fault)


def calibrate_checkpoint(file: Path, embeddings: Embeddings, split: ShardedSplit) -> str:
    """Calibrate a checkpoint by the embeddings of a split, as `make train` does at its end; returns its new hash.

    Raises CheckpointError for a checkpoint of others, one that was trained on the split, or one that cannot be
    written, and ConfigError for too few photos.
    """
    content = read_checkpoint(file)
    if split.name in content["threeshnet"].get("run", {}).get("train_splits", ()):
        raise CheckpointError(f"{file} was trained on {split.name!r}: calibrate it on another split")
    calibration = fitted(embeddings, split)
    if calibration is None:
        raise ConfigError(f"split={split.name} has {split.images} photos: a calibration takes {FEWEST} or more")
    store(calibration, file)
    return checkpoint_hash(file)


def fitted(embeddings: Embeddings, split: ShardedSplit) -> Calibration | None:
    """The calibration by a split that the model was not trained on; None, with a warning, for too few photos."""
    if split.images < FEWEST:
        log.warning("%s has %d photos: a calibration takes %d or more", split.name, split.images, FEWEST)
        return None
    return Calibration.fit(embeddings.images.numpy(), embeddings.captions.numpy(), split.owners)


def store(calibration: Calibration, file: Path) -> None:
    """Write a calibration into the card of a checkpoint; weights and everything else stay.

    A checkpoint that has it already is not written again, so a run that is scored again keeps its checkpoint's hash.
    Raises CheckpointError when the file cannot be written; it is then as it was.
    """
    content, plain = read_checkpoint(file), calibration.model_dump(mode="json")
    if content["threeshnet"].get(CALIBRATION) == plain:
        return
    content["threeshnet"] = {**content["threeshnet"], CALIBRATION: plain}
    try:
        write_checkpoint(content, file)
    except OSError as error:
        raise CheckpointError(explained(error, file, size_of(content))) from error
