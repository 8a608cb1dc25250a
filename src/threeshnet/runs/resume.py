"""Where a training works, and how it goes on: from which checkpoint, and whether anything is left to do."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from threeshnet.errors import ConfigError, Interrupted, Problems, shortened
from threeshnet.nn.collectives import leave_together
from threeshnet.overrides import text
from threeshnet.processes import SHARED_OUT
from threeshnet.runs.checkpoint_files import newest_whole
from threeshnet.runs.find import resumable
from threeshnet.runs.identity import changes, flat
from threeshnet.runs.rank import process_rank
from threeshnet.runs.run import Run
from threeshnet.settings import Invocation, TrainSettings, plain

log = logging.getLogger(__name__)
# Settings that a resumed run may change, beside names, folders and logging: how long, on what, and what is kept of it.
LIMITS = tuple(f"trainer.{name}" for name in ("max_epochs", "max_steps", "min_epochs", "min_steps", "max_time"))
MACHINES = tuple(f"trainer.{name}" for name in ("accelerator", "devices", "num_nodes", "strategy"))
READING = ("batches.workers", "batches.evaluation_batch_size", "data.reader", "data.how_to_get", "data.extractor")
BERT_NAMES = ("text.name", "text.tokenizer.name", "text.encoder.bert.name")
BERT_NAMES += ("model.tokenizer.name", "model.text_encoder.bert.name")
MAY_DIFFER = (*LIMITS, *MACHINES, *READING, "selection", "checkpoints", "trainer.enable_model_summary")
OWN_SETTINGS = (
    "A run goes on with the settings that it began with; epochs, steps, devices, selection, logging and folders may "
    "differ. For other settings give another OUT (out=<folder>)."
)
EPOCHS = "epochs"  # key of a checkpoint: the epochs that are finished, with their evaluation
LONGEST_VALUE = 200  # characters in a message
STARTED_BESIDE_OTHERS = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")  # the number of processes, by torchrun and by srun


def run_of(settings: TrainSettings, invocation: Invocation) -> Run:
    """The run in `out`, in a multirun's folder of this job, the newest one to resume, or a new one named by the time.

    Raises ConfigError where torchrun or srun started several processes without `out`: each would name another folder.
    """
    if shared := os.environ.get(SHARED_OUT):
        return Run(shared)
    if folder := settings.out or invocation.output_dir:
        return Run(Path(folder).absolute())
    several = next((name for name in STARTED_BESIDE_OTHERS if int(os.environ.get(name) or 1) > 1), None)
    if several:
        raise ConfigError(f"{several}={os.environ[several]} processes need one folder: give it as out=<folder>")
    runs = Path("runs").absolute() / settings.experiment_name
    earlier = resumable(runs) if settings.resume else []
    return earlier[-1] if earlier else Run(runs / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))


def checkpoint_to_resume(run: Run, *, resume: bool) -> Path | None:
    """The newest whole checkpoint, if any.  Raises ConfigError for a folder that holds a run, without `resume`."""
    if not resume:
        if run.last.exists() and process_rank() == 0:
            raise ConfigError(
                f"out={run.folder} holds a run already ({run.last.relative_to(run.folder)}): go on with it by RESUME=1 "
                "(resume=true), or give another OUT (out=<folder>)"
            )
        return None
    newest = newest_whole(run)
    if newest is None:
        log.warning("resume=true, but %s is not there: starting afresh", run.last)
    return newest


def check_own_settings(run: Run, settings: TrainSettings, facts: Mapping[str, Any], begun: Mapping[str, Any]) -> None:
    """Raises ConfigError, once, for every setting that is not the run's own, and for other data.

    `facts` are those of this training (`training_facts`), `begun` is the content of the run's checkpoint.
    """
    problems = Problems(f"out={run.folder} holds a run with other settings")
    own = run.settings
    if own is not None:
        changed = changes(own, plain(settings), but=(*MAY_DIFFER, *moved_bert(own, settings, begun)))
        copies = [key for key in changed if key.startswith("model.")]  # of features, text, dim and others
        for key in changed if len(copies) == len(changed) else [key for key in changed if key not in copies]:
            given, before = changed[key]
            problems.add(f"{key}={shortened(given, LONGEST_VALUE)}, but the run began with {before}")
    trained: Mapping[str, Any] = begun["threeshnet"].get("run", {})
    for name in ("fingerprint", "views"):
        if name in trained and trained[name] != facts[name]:
            problems.add(f"shards={settings.shards}: {name} {facts[name]}, but the run began with {trained[name]}")
    problems.raise_as(ConfigError, OWN_SETTINGS)


def moved_bert(own: Mapping[str, Any], settings: TrainSettings, begun: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings that name the BERT, where another name now has the run's vocabulary and architecture."""
    names = {key: value for key, value in flat(plain(settings)).items() if key in BERT_NAMES}
    before = flat(own)
    others = {value for key, value in names.items() if before.get(key) != value}
    if len(others) != 1:
        return ()
    from threeshnet.encoders.text.sources import is_same_bert  # transformers take a second

    return BERT_NAMES if is_same_bert(str(*others), begun["threeshnet"].get("model", {})) else ()


def finished_metrics(run: Run, settings: TrainSettings, checkpoint: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The metrics of a run that has nothing left to do under these settings, else None.

    Scores from before a run goes on (with more epochs, or another selection) are kept under another name.
    """
    if checkpoint is None or not run.is_finished:
        return None
    metrics, limits = run.metrics, settings.trainer
    epochs, steps = checkpoint.get(EPOCHS, 0), checkpoint["global_step"]
    ended = epochs >= limits["max_epochs"] >= 0 or steps >= limits["max_steps"] >= 0
    selection, _ = run.selected(settings.selection)
    if ended and (metrics["steps"], metrics["selection"]) == (steps, selection):
        return metrics
    run.set_scores_aside(metrics)
    return None


@contextmanager
def interruptible(run: Run, invocation: Invocation) -> Iterator[None]:
    """When the run is interrupted, its processes end together, and the error names the command that goes on."""
    try:
        yield
    except Interrupted as interrupted:
        leave_together()
        words = [word for word in invocation.overrides if word.split("=")[0] not in ("out", "resume")]
        plainly = re.fullmatch(r"[\w/.:-]+", str(run.folder))
        words += [f"out={run.folder}" if plainly else text("out", run.folder), "resume=true"]
        command = shlex.join(["threeshnet", "train", *words])
        raise Interrupted(f"{interrupted}. To go on: {command}") from interrupted
