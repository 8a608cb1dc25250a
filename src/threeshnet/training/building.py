"""From config to objects: data, model, module and trainer of a training run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import RichProgressBar, TQDMProgressBar
from pytorch_lightning.loggers import Logger

from threeshnet.batches.datamodule import RetrievalDataModule
from threeshnet.encoders.model import RetrievalModel
from threeshnet.errors import ConfigError, Problems
from threeshnet.runs.checkpoint_files import WholeFiles
from threeshnet.runs.run import Run
from threeshnet.shards.manifest import Manifest
from threeshnet.training.agreement import Agreement
from threeshnet.training.best_checkpoint import BestModelCheckpoint
from threeshnet.training.checkpoint import maker_facts, model_card
from threeshnet.training.last_checkpoint import LastCheckpoint
from threeshnet.training.module import RetrievalModule
from threeshnet.training.monitoring import CollapseWatch, ProgressWriter, StepClock
from threeshnet.training.random_states import RandomStates
from threeshnet.training.schedules import Optimization
from threeshnet.training.signals import Signals
from threeshnet.training.trainer_options import of_lightning, of_module

log = logging.getLogger(__name__)
GUIDING_PARTS = {"scene", "category"}  # parts that read the segmentation


def fill_sizes(cfg: DictConfig, manifest: Manifest) -> None:
    """Widths and class count come from the shards.  Raises ConfigError when those lack what the model reads."""
    problems = Problems("what the model reads")
    problems.extend(
        f"fields: {name!r} is not in these shards, which hold {', '.join(manifest.fields)}"
        for name in fields_read(cfg)
        if name not in manifest.fields
    )
    if cfg.boxes and "region" in cfg.features.fields and not manifest.layout.boxes:
        problems.add(f"boxes=[{','.join(cfg.boxes)}] asks for boxes of regions, which these shards do not hold")
    problems.raise_as(
        ConfigError,
        "Make them with an extractor that gives it (`make data`), or choose other features, fusion and parts.",
    )
    for name in ("region_width", "grid_width", "classes"):
        cfg.sizes[name] = getattr(manifest, name)


def fields_read(cfg: DictConfig) -> list[str]:
    """The shard fields that the model reads: the segmentation only when something is guided by it."""
    guided = bool(cfg.fusion) or bool(GUIDING_PARTS & set(cfg.parts))
    return [*cfg.features.fields, *(["seg"] if guided else [])]


def build_datamodule(cfg: DictConfig, folder: Path, model: RetrievalModel) -> RetrievalDataModule:
    check_selection(cfg)
    augment = instantiate(cfg.augment, _convert_="all")
    if augment["alter_words"] is not None:
        augment["alter_words"] = augment["alter_words"](tokenizer=model.tokenizer)
    return RetrievalDataModule(
        shards=folder,
        dataset=cfg.data.name,
        tokenizer=model.tokenizer,
        fields=fields_read(cfg),
        train_splits=list(cfg.data.train_splits),
        dev_split=cfg.data.dev_split,
        test_split=cfg.data.test_split,
        seed=cfg.seed,
        **augment,
        **cfg.batches,
    )


def check_selection(cfg: DictConfig) -> None:
    """The held-out split is never looked at in training, and `best` needs a dev split that is not trained on."""
    data, trained = cfg.data, set(cfg.data.train_splits)
    if cfg.selection not in ("best", "last"):
        raise ConfigError(f"selection={cfg.selection!r} does not exist; there are: best, last")
    if data.test_split in trained:
        raise ConfigError(f"data.train_splits={sorted(trained)} holds the split that is scored, {data.test_split!r}")
    if data.dev_split in trained:
        raise ConfigError(
            f"data.train_splits={sorted(trained)} holds the dev split; with it trained on, nothing can be selected: "
            "set data.dev_split=null selection=last"
        )
    if cfg.selection == "best" and data.dev_split is None:
        raise ConfigError("selection=best needs a dev split, and data.dev_split is null; set selection=last")


def build_module(
    cfg: DictConfig, model: RetrievalModel, manifest: Manifest, about: Mapping[str, Any]
) -> RetrievalModule:
    """`about` is what the run says of itself (`about_run`): its checkpoints say it too."""
    recipe: Any = OmegaConf.to_container(cfg.model, resolve=True)
    facts = {"fields": fields_read(cfg), "class_table": manifest.class_table, "data": manifest.dataset}
    facts |= maker_facts(manifest, fields_read(cfg)) | {"experiment": cfg.experiment_name, "run": about}
    return RetrievalModule(
        model=model,
        objective=instantiate(cfg.objective),
        optimization=Optimization(
            instantiate(cfg.optimizer),
            instantiate(cfg.schedule),
            cfg.optimization.learning_rate,
            cfg.optimization.pretrained_factor,
        ),
        chunk=cfg.optimization.chunk,
        card=model_card(recipe, model, facts),
        **of_module(cfg),
    )


def build_trainer(cfg: DictConfig, run: Run, signals: Signals, more_loggers: Iterable[Logger] = ()) -> pl.Trainer:
    loggers = [*(instantiate(settings, save_dir=str(run.folder)) for settings in cfg.logger.values()), *more_loggers]
    settings, files = of_lightning(cfg), WholeFiles()
    found = callbacks(cfg, run) + keepers(cfg, run, files, signals)
    return instantiate(settings, logger=loggers, callbacks=found, plugins=[files], default_root_dir=str(run.folder))


def callbacks(cfg: DictConfig, run: Run) -> list[pl.Callback]:
    """The mean of the weights where it is asked for, the step clock, the watch, progress.json and a progress bar."""
    found: list[pl.Callback] = [*averaging(cfg), StepClock(), CollapseWatch(), ProgressWriter(run=run)]
    if cfg.trainer.get("enable_progress_bar", True):
        found.append(RichProgressBar() if sys.stderr.isatty() else TQDMProgressBar(refresh_rate=50))
    return found


def averaging(cfg: DictConfig) -> list[pl.Callback]:
    """Before the keepers of checkpoints: what they save after a step holds the mean of that step."""
    return [instantiate(cfg.averaging)] if cfg.averaging else []


def keepers(cfg: DictConfig, run: Run, files: WholeFiles, signals: Signals) -> list[pl.Callback]:
    """Random states, then the best checkpoint and the last one, which holds the best score."""
    shared: dict[str, Any] = {"run": run, "files": files, "agreement": Agreement()}
    states = RandomStates()
    best = [BestModelCheckpoint(**shared)] if cfg.data.dev_split is not None else []
    return [states, *best, LastCheckpoint(**shared, signals=signals, random_states=states, **cfg.checkpoints)]
