"""Weights & Biases: settings, data and code of a job at the start, tables and scores at the end."""

from __future__ import annotations

import logging
import netrc
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from threeshnet.installation import current_commit, git, home
from threeshnet.runs.facts import variant_name
from threeshnet.runs.rank import process_rank
from threeshnet.runs.run import Run
from threeshnet.settings import EvaluateSettings, Invocation, TrainSettings, plain
from threeshnet.shards.manifest import Manifest
from threeshnet.shards.reader import ShardedSplit

if TYPE_CHECKING:
    from threeshnet.runs.wandb_log import WandbLog

log = logging.getLogger(__name__)
SERVICE = "https://api.wandb.ai"
STAGED = "WANDB_DATA_DIR"  # where pictures of tables wait for the upload
LONGEST_TAG = 64
TAGGED = ("features", "recipe", "text", "pooling", "objective", "activation")  # groups whose choice becomes a tag


class Tracker:
    """The W&B run of a job, on rank 0 alone; nothing where W&B is off. It ends with the job, however that ends."""

    def __init__(
        self, settings: TrainSettings | EvaluateSettings, run: Run, invocation: Invocation, *, name: str
    ) -> None:
        self.settings, self.run, self.invocation, self.name = settings, run, invocation, name
        self.mode = mode_of(settings.wandb) if process_rank() == 0 else "off"
        self.log: WandbLog | None = None
        self.staged = os.environ.get(STAGED)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.log is None:
            return
        self.log.close(int(getattr(error, "exit_code", 1)) if kind else 0)
        if self.staged is None:
            os.environ.pop(STAGED, None)

    def start(self, manifest: Manifest) -> list[WandbLog]:
        """Begin the W&B run, or continue it; returns the loggers that the trainer takes beside the CSV log."""
        if self.mode == "off":
            return []
        from threeshnet.runs.wandb_log import WandbLog, open_run  # importing wandb takes a second

        # Pictures of tables wait for the upload beside the run, and not in the home directory.
        os.environ.setdefault(STAGED, str(self.run.wandb_folder))
        config = plain(self.settings)
        facts = {
            "variant": variant_name(config.get("factors"), self.name),
            "shards_manifest": facts_of_data(manifest),
            "code": facts_of_code(),
        }
        project = str(self.settings.wandb_project)
        number = secrets.token_hex(4)
        if isinstance(self.settings, TrainSettings):
            number = self.run.wandb_id(project=project, resumed=self.settings.resume)
        wandb_run = open_run(
            self.run.folder,
            mode=self.mode,
            project=project,
            id=number,
            name=self.name,
            group=config.get("study"),
            job_type=self.invocation.command,
            tags=[tag[:LONGEST_TAG] for tag in tags(config, self.invocation.choices)],
            config=config | facts,
        )
        self.log = None if wandb_run is None else WandbLog(wandb_run, self.run.folder)
        return [] if self.log is None else [self.log]

    def finish(self, metrics: dict[str, Any], split: ShardedSplit, checkpoint: Path) -> None:
        """Log tables, pictures and the scores of the selected checkpoint, and the checkpoint itself on request."""
        if self.log is None:
            return
        from threeshnet.runs.wandb_media import media

        log, run = self.log, self.log.experiment
        log.attempt("logging tables", lambda: run.log(media(self.run.inspection, self.run.folder, split.image_path)))
        log.attempt("logging scores", run.summary.update, summary(metrics))
        if isinstance(self.settings, TrainSettings) and self.settings.wandb_artifact:
            name = f"{self.settings.experiment_name}-{run.id}"
            log.attempt("logging the checkpoint", send_checkpoint, run, name, metrics, checkpoint)


def send_checkpoint(run: Any, name: str, metrics: dict[str, Any], checkpoint: Path) -> None:
    import wandb

    artifact = wandb.Artifact(name, "model", metadata=summary(metrics))
    artifact.add_file(str(checkpoint), name=checkpoint.name)
    run.log_artifact(artifact, aliases=[str(metrics["selection"])])


def mode_of(mode: str) -> str:
    """`off`, `offline` or `online` as requested, and offline where nobody is logged in."""
    if mode == "online" and (reason := why_offline()):
        log.warning("wandb=online, but %s: the run is written offline; `wandb sync` sends it later", reason)
        return "offline"
    return mode


def why_offline() -> str | None:
    """Why nothing can be sent: no key in the environment, none in .netrc for the service, or WANDB_MODE; else None."""
    if (mode := os.environ.get("WANDB_MODE", "online")) != "online":
        return f"WANDB_MODE={mode}"
    if os.environ.get("WANDB_API_KEY"):
        return None
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or SERVICE).netloc
    file = Path(os.environ.get("NETRC") or home() / ".netrc")
    try:
        login = netrc.netrc(file).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        login = None
    return None if login else f"there is neither WANDB_API_KEY nor an entry for {host} in {file} (`wandb login`)"


def training_name(settings: TrainSettings) -> str:
    return str(settings.job_name or f"{settings.experiment_name}-seed{settings.seed}")


def track_evaluation(
    settings: EvaluateSettings, run: Run, invocation: Invocation, split: ShardedSplit, metrics: dict[str, Any]
) -> None:
    """Log the scores of checkpoints of earlier trainings."""
    name = "-".join(str(metrics[key]) for key in ("data", "split", "protocol", "correction") if metrics.get(key))
    with Tracker(settings, run, invocation, name=name) as tracker:
        for log in tracker.start(split.manifest):
            log.attempt("logging scores", log.experiment.summary.update, summary(metrics))


def tags(config: Mapping[str, Any], choices: Mapping[str, Any]) -> list[str]:
    """The experiment or the protocol, and the choices in the groups that studies compare."""
    chosen = [f"{group}={choices[group]}" for group in TAGGED if isinstance(choices.get(group), str)]
    return [*(str(config[key]) for key in ("experiment_name", "protocol") if key in config), *chosen]


def facts_of_data(manifest: Manifest) -> dict[str, Any]:
    return {
        "dataset": manifest.dataset,
        "fingerprint": manifest.fingerprint,
        "class_table": manifest.class_table,
        "fields": list(manifest.fields),
        "splits": {
            name: {"images": split.images, "captions": split.captions} for name, split in manifest.splits.items()
        },
        "extractors": {
            name: {key: maker[key] for key in ("name", "version", "weights") if key in maker}
            for name, maker in manifest.extractors.items()
        },
        "commit": manifest.commit,
    }


def facts_of_code() -> dict[str, Any]:
    """The commit, and how far the files differ from it: counts alone, for a patch may hold secrets."""
    commit = current_commit()
    facts: dict[str, Any] = {"commit": commit.removesuffix("+"), "dirty": commit.endswith("+")}
    diff = git("diff", "HEAD", "--numstat")
    if diff is None:
        return facts
    changed = [line.split("\t")[:2] for line in diff.splitlines()]
    added, removed = (sum(int(row[side]) for row in changed if row[side].isdigit()) for side in (0, 1))
    return facts | {"changed_files": len(changed), "lines_added": added, "lines_removed": removed}


def summary(metrics: dict[str, Any]) -> dict[str, Any]:
    """Scores of the selected checkpoint as `test/…`, and what identifies it.

    >>> summary({"split": "test", "rsum": 30.0, "i2t": {"R@1": 10.0}, "t2i": {"R@1": 20.0}, "checkpoint": "ab12"})
    {'test/rsum': 30.0, 'test/i2t_R@1': 10.0, 'test/t2i_R@1': 20.0, 'checkpoint': 'ab12', 'split': 'test'}
    """
    scores = {"test/rsum": metrics["rsum"]}
    for side in ("i2t", "t2i"):
        scores |= {f"test/{side}_{name}": value for name, value in metrics[side].items()}
    kept = ("checkpoint", "selection", "protocol", "split", "parameters", "minutes", "steps")
    return scores | {name: metrics[name] for name in sorted(kept) if name in metrics}
