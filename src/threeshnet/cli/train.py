"""How a model is trained, selected and scored."""

from __future__ import annotations

import logging
import time

import pytorch_lightning as pl
from hydra.utils import instantiate

from threeshnet.cli.data import make_here
from threeshnet.evaluation.calibrate import calibrate
from threeshnet.evaluation.finish import finish, show
from threeshnet.evaluation.scores import facts_of_run, scores_of
from threeshnet.files import check_writable
from threeshnet.nn.collectives import leave_together
from threeshnet.runs.facts import job_facts, machine, training_facts
from threeshnet.runs.rank import process_rank
from threeshnet.runs.resume import check_own_settings, checkpoint_to_resume, finished_metrics, interruptible, run_of
from threeshnet.runs.tracking import Tracker, training_name
from threeshnet.settings import Invocation, TrainSettings, plain
from threeshnet.shards.manifest import Manifest
from threeshnet.shards.provide import provide_shards
from threeshnet.training import building
from threeshnet.training.checkpoint import check_resumable, checkpoint_hash, read_checkpoint
from threeshnet.training.csv_log import carry_on
from threeshnet.training.monitoring import seconds_of
from threeshnet.training.signals import Signals

log = logging.getLogger(__name__)


def announce(stage: str) -> None:
    """Say what begins now, once for all processes of a run."""
    if process_rank() == 0:
        log.info(stage)


def train(settings: TrainSettings, invocation: Invocation) -> None:
    """Train, select, score once."""
    started = time.perf_counter()
    run = run_of(settings, invocation)
    check_writable("out", run.folder)
    shards = provide_shards(settings.shards, settings.data, make=make_here)
    tracker = Tracker(settings, run, invocation, name=training_name(settings))
    with run.lock(), interruptible(run, invocation), Signals() as signals, tracker:
        resumed = checkpoint_to_resume(run, resume=settings.resume)
        begun = read_checkpoint(resumed) if resumed else None
        manifest = Manifest.load(shards)
        settings = building.with_sizes(settings, manifest)
        facts = training_facts(settings, invocation.choices, shards, manifest)
        if begun:
            check_own_settings(run, settings, facts, begun)
        if metrics := finished_metrics(run, settings, begun):
            show(metrics, run, 60 * metrics["minutes"], "finished already: ")
            return
        pl.seed_everything(settings.seed, verbose=False)
        model = instantiate(settings.model)
        if resumed and begun:
            check_resumable(resumed, begun, model)
        datamodule = building.build_datamodule(settings, shards, model)
        module = building.build_module(settings, model, manifest, facts)
        trainer = building.build_trainer(settings, run, signals, tracker.start(manifest))
        run.write_settings(plain(settings))
        run.write_job(job_facts(settings, facts))
        step = carry_on(trainer.loggers, begun)
        announce(f"2 of 3: training, {settings.trainer['max_epochs']} epochs")
        trainer.fit(module, datamodule=datamodule, ckpt_path=resumed, weights_only=True)

        selection, checkpoint = run.selected(settings.selection)
        announce(f"3 of 3: scores and pictures of the {selection} checkpoint")
        if selection != settings.selection:
            log.warning("no epoch was finished, so no checkpoint was compared on dev: scoring the last weights")
        module.load_state_dict(read_checkpoint(checkpoint)["state_dict"])
        calibrate(trainer, module, datamodule, checkpoint)
        trainer.test(module, datamodule=datamodule, verbose=False)
        split = datamodule.split(str(datamodule.test_split))
        seconds = seconds_of(begun) + time.perf_counter() - started
        scores = scores_of("full", [module.embeddings], split)  # pyright: ignore[reportArgumentType]
        metrics = scores.metrics | {
            **facts_of_run(facts | {"selection": selection}, trainer),
            "selection": selection,
            "checkpoint": checkpoint_hash(checkpoint),
            "machine": machine(),
            "resumed_at_step": step,
            "minutes": round(seconds / 60, 2),
        }
        finish(
            run,
            module,
            scores._replace(metrics=metrics),
            fields=building.fields_read(settings),
            pictures=settings.highlights,
            seconds=seconds,
        )
        tracker.finish(metrics, split, checkpoint)
        leave_together()
