"""How checkpoints are scored on a split."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, ListConfig

from threeshnet.batches.datamodule import RetrievalDataModule
from threeshnet.cli.errors import quiet
from threeshnet.encoders.official import is_official_checkpoint, load_official_checkpoint
from threeshnet.errors import CheckpointError, ConfigError, Problems
from threeshnet.evaluation.extending import check_extras, perturb_inputs, recorded, scored_views
from threeshnet.evaluation.finishing import leave
from threeshnet.evaluation.scoring import scored_of, scores_of
from threeshnet.evaluation.table import print_results
from threeshnet.installation import current_commit
from threeshnet.metrics.protocols import check_protocol, share_photos
from threeshnet.runs.facts import machine
from threeshnet.runs.identity import data_fingerprint
from threeshnet.runs.run import LAST, PREVIOUS, Run
from threeshnet.runs.tracking import track_evaluation
from threeshnet.settings import Invocation
from threeshnet.shards.manifest import Manifest, open_shards
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.checkpoint import checkpoint_hash, load_model, read_checkpoint
from threeshnet.training.collect import Embeddings
from threeshnet.training.encoding import EncodingModule

OFFICIAL_FIELDS = ["region", "seg"]


def evaluate(cfg: DictConfig, invocation: Invocation) -> None:
    """Score checkpoints on a split."""
    quiet()
    started = time.perf_counter()
    files = [Path(file) for file in (cfg.checkpoint if isinstance(cfg.checkpoint, ListConfig) else [cfg.checkpoint])]
    check_extras(cfg, len(files))
    hashes = hashes_of(files)
    views = scored_views(cfg)
    scored = []
    for file in files:
        ready = prepare(cfg, file, cfg.split, views)
        known = training_of([ready.about], ready.split)
        check_protocol(cfg.protocol, len(files), scored_of(ready.split, **known))
        scored.append(encode(cfg, ready, cfg.perturb))
        del ready  # so that there is one model in memory, however many are averaged
    split, about = scored[0].split, [one.about for one in scored]
    bank = encode(cfg, prepare(cfg, files[0], cfg.bank)).embeddings if cfg.bank else None
    extras: dict[str, Any] = {"extended": cfg.extended, "bank": bank, "correction": cfg.correction}
    scores = scores_of(cfg.protocol, [one.embeddings for one in scored], split, **training_of(about, split), **extras)
    metrics = scores.metrics | {
        "seed": cfg.seed if cfg.seed is not None else one_of_all([one.get("seed") for one in about]),
        "resumed_at_step": 0,
        "checkpoint": hashes,
        "commit": current_commit(),
        "fingerprint": data_fingerprint(split.manifest),
        "machine": machine(),
        "trained": about,
    }
    metrics |= recorded(cfg, views)
    run = Run(cfg.out or files[0].parent)
    leave(run, metrics, scores.ranked)
    print_results(metrics, seconds=time.perf_counter() - started)
    track_evaluation(cfg, run, invocation, split, metrics)


class Prepared(NamedTuple):
    """A model, and the split that it will see."""

    model: Any
    datamodule: RetrievalDataModule
    split: ShardedSplit
    about: dict[str, Any]  # what the checkpoint says of its training; the authors' say nothing


class Embedded(NamedTuple):
    """A split as a model sees it."""

    embeddings: Embeddings
    split: ShardedSplit
    about: dict[str, Any]


def hashes_of(files: Sequence[Path]) -> list[str]:
    """The checkpoints' hashes.  Raises ConfigError for those not there, and two that are one: their mean is the one."""
    hashes, problems = [], Problems("checkpoint")
    for file in files:
        try:
            hashes.append(checkpoint_hash(file))
        except CheckpointError as error:
            problems.add(str(error))
    problems.raise_as(ConfigError)
    for number, own in enumerate(hashes):
        first = hashes.index(own)
        if first < number:
            problems.add(f"{files[number]} is the same model as {files[first]}, {own}")
    problems.raise_as(ConfigError, "Name each model once.")
    return hashes


def training_of(about: Sequence[Mapping[str, Any]], split: ShardedSplit) -> dict[str, Any]:
    """What was trained on, for `Scored`: of several models that of the one which has most surely seen the split."""
    own = split.manifest.dataset

    def seen(one: Mapping[str, Any]) -> int:
        data = one.get("data")
        if data == own:
            return 2 * (split.name in one.get("train_splits", ()))
        return int(data is not None and share_photos(data, own))

    chosen = max(about, key=seen)  # the first of equals
    return {"trained_on": chosen.get("data"), "train_splits": tuple(map(str, chosen.get("train_splits", ())))}


def prepare(cfg: DictConfig, file: Path, split: str, views: Sequence[str] = ()) -> Prepared:
    """A checkpoint's model and a split, its images to be seen in those other views too."""
    model, card = load(cfg, file)
    about = about_training(cfg, file, card)
    folder = open_shards(cfg.shards)
    datamodule = RetrievalDataModule(
        shards=folder,
        dataset=Manifest.load(folder).dataset,
        tokenizer=model.tokenizer,
        fields=card["fields"],
        train_splits=[],
        dev_split=None,
        test_split=split,
        evaluation_batch_size=cfg.batch_size,
        workers=cfg.workers,
        scored_views=views,
    )
    check_classes(file, card["class_table"], datamodule.manifest.class_table)
    return Prepared(model, datamodule, datamodule.split(str(datamodule.test_split)), about)


def encode(cfg: DictConfig, ready: Prepared, perturb: str | None = None) -> Embedded:
    """Embeddings of the split by the model."""
    if perturb:
        perturb_inputs(perturb, ready.model, ready.split, cfg.perturb_seed)
    module = EncodingModule(model=ready.model)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    try:
        trainer = pl.Trainer(accelerator=cfg.accelerator, devices=1, use_distributed_sampler=False, **quiet)
    except (ValueError, MisconfigurationException) as error:
        raise ConfigError(f"accelerator={cfg.accelerator!r}: {error}") from error
    trainer.test(module, datamodule=ready.datamodule, verbose=False)
    assert module.embeddings is not None
    return Embedded(module.embeddings, ready.split, ready.about)


def about_training(cfg: DictConfig, file: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its training, and on what data it was where only the caller knows."""
    named = ("experiment", "data", "official_activation")
    about = {name: card[name] for name in named if name in card} | card.get("run", {})
    if cfg.trained_on is not None and about.setdefault("data", cfg.trained_on) != cfg.trained_on:
        raise ConfigError(f"trained_on={cfg.trained_on!r}, but {file} says that it was trained on {about['data']!r}")
    about |= {"selection": "last"} if file.name in (LAST, PREVIOUS) else {}  # whatever the run would have selected
    return about


def one_of_all(values: Sequence[Any]) -> Any:
    """What all of them are, None where they differ."""
    return values[0] if all(value == values[0] for value in values) else None


def load(cfg: DictConfig, file: Path) -> tuple[Any, dict[str, Any]]:
    """The model and its card: the shard fields that it reads, its class table (the authors' files name none)."""
    allow: dict[str, bool] = {"allow_pickle": cfg.allow_pickle}
    if is_official_checkpoint(file, **allow):
        if cfg.text_config is None:
            raise ConfigError(f"{file} is an authors' checkpoint: name its BERT's folder, TEXT=<folder> (text_config=)")
        official = load_official_checkpoint(file, cfg.text_config, cfg.official_activation, **allow)
        read = {"fields": OFFICIAL_FIELDS, "class_table": None}
        return official, read | {"official_activation": cfg.official_activation}
    card = dict(read_checkpoint(file)["threeshnet"])
    return load_model(file), card | {"fields": list(card["fields"])}


def check_classes(file: Path, trained: str | None, found: str | None) -> None:
    """Class 7 must mean the same in training and in scoring."""
    if trained is not None and found is not None and trained != found:
        raise ConfigError(
            f"{file} was trained with the class table {trained[:12]} and these shards have {found[:12]}; make the "
            "shards with the segmentation that the model was trained with"
        )
