"""From config to objects: data, model, module and trainer of a training run."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from pytorch_lightning.loggers import Logger

from threeshnet.batches.datamodule import Augmentation, BatchOptions, RetrievalDataModule, Splits
from threeshnet.encoders.model import RetrievalModel
from threeshnet.errors import ConfigError, Problems
from threeshnet.runs.run import Run
from threeshnet.settings import TrainSettings, plain
from threeshnet.shards.manifest import Manifest
from threeshnet.threads import cores, set_threads
from threeshnet.training.agreement import Agreement
from threeshnet.training.best_checkpoint import BestModelCheckpoint
from threeshnet.training.checkpoint import maker_facts, model_card
from threeshnet.training.last_checkpoint import LastCheckpoint
from threeshnet.training.module import RetrievalModule
from threeshnet.training.monitoring import CollapseWatch, PlainBar, ProgressWriter, RichBar, StepClock
from threeshnet.training.random_states import RandomStates
from threeshnet.training.schedules import Optimization
from threeshnet.training.signals import Signals
from threeshnet.training.trainer_options import lightning_options, module_options
from threeshnet.training.whole_files import WholeFiles

log = logging.getLogger(__name__)
GUIDING_PARTS = {"scene", "category", "segments"}  # parts that read the segmentation


def with_sizes(settings: TrainSettings, manifest: Manifest) -> TrainSettings:
    """The settings with the shards' widths and class count.  Raises ConfigError when a field is not in the shards."""
    problems = Problems("fields that the model reads")
    problems.extend(
        f"fields: {name!r} is not in these shards, which hold {', '.join(manifest.fields)}"
        for name in fields_read(settings)
        if name not in manifest.fields
    )
    if settings.boxes and "region" in settings.features.fields and not manifest.layout.boxes:
        problems.add(f"boxes=[{','.join(settings.boxes)}] needs boxes of regions, which these shards do not hold")
    problems.raise_as(
        ConfigError, "Make the shards with an extractor that gives them, or choose other features, fusion and parts."
    )
    return settings.with_sizes(
        region_width=manifest.layout.region_width, grid_width=manifest.layout.grid_width, classes=manifest.classes
    )


def fields_read(settings: TrainSettings) -> list[str]:
    """The shard fields that the model reads: the segmentation only when something is guided by it."""
    guided = bool(settings.fusion) or bool(GUIDING_PARTS & set(settings.parts))
    return [*settings.features.fields, *(["seg"] if guided else [])]


def build_datamodule(settings: TrainSettings, folder: Path, model: RetrievalModel) -> RetrievalDataModule:
    check_selection(settings)
    augment = instantiate(plain(settings.augment), _convert_="all")
    for name in ("drop_tokens", "alter_words"):
        if augment[name] is not None and not callable(augment[name]):
            raise ConfigError(
                f"augment.{name}={augment[name]!r}: expected a part, with a `_target_` as in conf/augment"
            )
    if augment["alter_words"] is not None:
        augment["alter_words"] = augment["alter_words"](tokenizer=model.tokenizer)
    return RetrievalDataModule(
        folder,
        tokenizer=model.tokenizer,
        fields=fields_read(settings),
        splits=Splits(train=settings.data.train_splits, dev=settings.data.dev_split, test=settings.data.test_split),
        batches=BatchOptions(**plain(settings.batches)),
        augment=Augmentation(**augment),
        seed=settings.seed,
    )


def check_selection(settings: TrainSettings) -> None:
    """Raises ConfigError when the scored split or the dev split is trained on, or `best` has no dev split."""
    data, trained = settings.data, set(settings.data.train_splits)
    if data.test_split in trained:
        raise ConfigError(f"data.train_splits={sorted(trained)} holds the split that is scored, {data.test_split!r}")
    if data.dev_split in trained:
        raise ConfigError(
            f"data.train_splits={sorted(trained)} holds the dev split, so nothing can be selected on it: "
            "set data.dev_split=null selection=last"
        )
    if settings.selection == "best" and data.dev_split is None:
        raise ConfigError("selection=best needs a dev split, and data.dev_split is null; set selection=last")


def build_module(
    settings: TrainSettings, model: RetrievalModel, manifest: Manifest, run_facts: Mapping[str, Any]
) -> RetrievalModule:
    """`run_facts` (`training_facts`) go into every checkpoint."""
    fields, rates = fields_read(settings), settings.optimization
    facts = {"fields": fields, "class_table": manifest.class_table, "data": manifest.dataset}
    facts |= maker_facts(manifest, fields) | {"experiment": settings.experiment_name, "run": run_facts}
    optimizer, schedule = instantiate(settings.optimizer), instantiate(settings.schedule)
    return RetrievalModule(
        model=model,
        objective=instantiate(settings.objective),
        optimization=Optimization(optimizer, schedule, rates.learning_rate, rates.pretrained_factor),
        chunk=rates.chunk,
        card=model_card(settings.model, model, facts),
        **module_options(settings.trainer),
    )


def _built(part: Mapping[str, Any], **options: Any) -> Any:
    """A part with options that Hydra does not look into: a folder may have `${` in its name."""
    build = instantiate(part, _partial_=True)
    try:
        return build(**options)
    except Exception as error:
        name = f"{build.func.__module__}.{build.func.__qualname__}"
        raise InstantiationException(f"Error in call to target '{name}':\n{error!r}") from error


def build_trainer(
    settings: TrainSettings, run: Run, signals: Signals, more_loggers: Iterable[Logger] = ()
) -> pl.Trainer:
    folder = str(run.folder)
    loggers = [*(_built(logger, save_dir=folder) for logger in settings.logger.values()), *more_loggers]
    options, files = lightning_options(settings.trainer), WholeFiles()
    items = callbacks(settings, run) + keepers(settings, run, files, signals)
    trainer = _built(options, logger=loggers, callbacks=items, plugins=[files], default_root_dir=folder)
    # Lightning starts the other processes with these variables; by itself it knows no quota.
    if trainer.num_devices > 1 and (number := set_threads(os.environ, cores() // trainer.num_devices)):
        torch.set_num_threads(number)
    return trainer


def callbacks(settings: TrainSettings, run: Run) -> list[pl.Callback]:
    """The mean of the weights where it is asked for, the step clock, the watch, progress.json and a progress bar.

    The mean comes before the keepers of checkpoints: what they save after a step holds the mean of that step.
    """
    progress = ProgressWriter(run=run)
    items: list[pl.Callback] = [StepClock(), CollapseWatch(), progress]
    if settings.averaging:
        items.insert(0, instantiate(settings.averaging))
    if settings.trainer.get("enable_progress_bar", True):
        bar = RichBar(writer=progress) if sys.stderr.isatty() else PlainBar(writer=progress, refresh_rate=50)
        items.append(bar)
    return items


def keepers(settings: TrainSettings, run: Run, files: WholeFiles, signals: Signals) -> list[pl.Callback]:
    """Random states, then the best checkpoint and the last one, which holds the best score."""
    shared: dict[str, Any] = {"run": run, "files": files, "agreement": Agreement()}
    states = RandomStates()
    best = [BestModelCheckpoint(**shared)] if settings.data.dev_split is not None else []
    last = LastCheckpoint(**shared, signals=signals, random_states=states, **plain(settings.checkpoints))
    return [states, *best, last]
