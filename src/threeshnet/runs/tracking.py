"""What W&B is told of a job: its settings, data and code at the start, tables and scores at the end."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from threeshnet.evaluation.highlighting import INSPECTION
from threeshnet.installation import current_commit
from threeshnet.reports.study_runs import variant_name
from threeshnet.shards.manifest import Manifest
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.wandb_mode import mode_of

if TYPE_CHECKING:
    from threeshnet.training.wandb_log import WandbLog

STAGED = "WANDB_DATA_DIR"  # where pictures of tables wait for the upload
TAGGED = ("features", "recipe", "text", "pooling", "objective", "activation")  # groups whose choice becomes a tag


class Tracker:
    """The W&B run of a job, or nothing where W&B is off: on rank 0 alone, ended with the job, whatever ends it."""

    def __init__(self, cfg: DictConfig, folder: Path, *, job_type: str, name: str) -> None:
        self.cfg, self.folder, self.job_type, self.name = cfg, folder, job_type, name
        self.mode = mode_of(cfg.wandb) if rank_zero_only.rank == 0 else "off"
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
        """Begin the run, or go on with it; the loggers that the trainer takes beside the CSV log."""
        if self.mode == "off":
            return []
        from threeshnet.training.wandb_log import WandbLog, new_id, open_run, run_id  # a second that `off` is spared

        # Pictures of tables wait for the upload beside the run, and not in the home directory.
        os.environ.setdefault(STAGED, str(self.folder / "wandb"))
        config: Any = OmegaConf.to_container(self.cfg, resolve=True)
        variant = variant_name(config.get("factors"), self.name)
        facts = {"variant": variant, "shards_manifest": facts_of_data(manifest), "code": facts_of_code()}
        project, training = str(self.cfg.wandb_project), self.job_type == "train"
        run = open_run(
            self.folder,
            mode=self.mode,
            project=project,
            number=run_id(self.folder, project=project, resumed=self.cfg.resume) if training else new_id(),
            name=self.name,
            group=config.get("study"),
            job_type=self.job_type,
            tags=tags(config),
            config=config | facts,
        )
        self.log = None if run is None else WandbLog(run, self.folder)
        return [] if self.log is None else [self.log]

    def finish(self, metrics: dict[str, Any], split: ShardedSplit, checkpoint: Path) -> None:
        """Tables, pictures and the scores of the selected checkpoint; the checkpoint itself when it is asked for."""
        if self.log is None:
            return
        from threeshnet.runs.wandb_media import media

        run = self.log.experiment
        inspected = json.loads((self.folder / INSPECTION).read_text(encoding="utf-8"))
        self.log.attempt("logging tables", lambda: run.log(media(inspected, self.folder, split.image_path)))
        self.log.attempt("logging scores", run.summary.update, summary(metrics))
        if self.cfg.wandb_artifact:
            self.log.attempt("logging the checkpoint", self._send, metrics, checkpoint)

    def _send(self, metrics: dict[str, Any], checkpoint: Path) -> None:
        import wandb

        run: Any = self.log.experiment  # pyright: ignore[reportOptionalMemberAccess]
        artifact = wandb.Artifact(f"{self.cfg.experiment_name}-{run.id}", "model", metadata=summary(metrics))
        artifact.add_file(str(checkpoint), name=checkpoint.name)
        run.log_artifact(artifact, aliases=[str(metrics["selection"])])


def name_of(cfg: DictConfig) -> str:
    """What a training run is called."""
    return str(cfg.job_name or f"{cfg.experiment_name}-seed{cfg.seed}")


def track_evaluation(cfg: DictConfig, folder: Path, split: ShardedSplit, metrics: dict[str, Any]) -> None:
    """Tell W&B of the scores of checkpoints that are there already."""
    name = "-".join(str(metrics[key]) for key in ("data", "split", "protocol", "correction") if metrics.get(key))
    with Tracker(cfg, folder, job_type="evaluate", name=name) as tracker:
        for log in tracker.start(split.manifest):
            log.attempt("logging scores", log.experiment.summary.update, summary(metrics))


def tags(config: Mapping[str, Any]) -> list[str]:
    """The experiment or the protocol, and what was chosen of the groups that are compared."""
    chosen = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    named = [f"{group}={chosen[group]}" for group in TAGGED if isinstance(chosen.get(group), str)]
    told = [str(config[key]) for key in ("experiment_name", "protocol") if key in config]
    return [*told, *named]


def facts_of_data(manifest: Manifest) -> dict[str, Any]:
    """What tells these shards from others."""
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
    asked = ["git", "diff", "HEAD", "--numstat"]
    try:
        told = subprocess.run(asked, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return facts
    changed = [line.split("\t")[:2] for line in told.splitlines()]
    added, removed = (sum(int(row[side]) for row in changed if row[side].isdigit()) for side in (0, 1))
    return facts | {"changed_files": len(changed), "lines_added": added, "lines_removed": removed}


def summary(metrics: dict[str, Any]) -> dict[str, Any]:
    """Scores of the selected checkpoint as `test/…`, and what identifies it.

    >>> summary({"split": "test", "rsum": 30.0, "i2t": {"R@1": 10.0}, "t2i": {"R@1": 20.0}, "checkpoint": "ab12"})
    {'test/rsum': 30.0, 'test/i2t_R@1': 10.0, 'test/t2i_R@1': 20.0, 'checkpoint': 'ab12', 'split': 'test'}
    """
    found = {"test/rsum": metrics["rsum"]}
    for side in ("i2t", "t2i"):
        found |= {f"test/{side}_{name}": value for name, value in metrics[side].items()}
    kept = ("checkpoint", "selection", "protocol", "split", "parameters", "minutes", "steps")
    return found | {name: metrics[name] for name in sorted(kept) if name in metrics}
