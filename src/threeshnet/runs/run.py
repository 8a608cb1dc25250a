"""A run directory: the one module that knows which files lie in it."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threeshnet import files
from threeshnet.errors import DataError
from threeshnet.runs.identity import differing
from threeshnet.runs.lock import LOCK, is_locked, locked
from threeshnet.runs.rank import process_rank
from threeshnet.runs.records import (
    FINISHED,
    AnyRecord,
    Inspection,
    Job,
    Metrics,
    Progress,
    Record,
    find_record,
    read_record,
)

if TYPE_CHECKING:
    from threeshnet.metrics.rank_files import RankedItems

CHECKPOINTS, LAST, PREVIOUS, BEST = "checkpoints", "last.ckpt", "previous.ckpt", "best.ckpt"
JOB, METRICS, SETTINGS, PROGRESS = "job.json", "metrics.json", "config.yaml", "progress.json"
OF_THE_SOURCE = ("commit", "machine")  # what ran a finished run, wherever a link shows it
SHOWN = 5  # settings in a message
LAST_LINES, LAST_BYTES = 12, 8_192


class Run:
    """Reads and writes a run directory (of a training) or the folder of an evaluation, which holds scores alone.

    Records are read anew at each access. `job`, `progress` and `inspection` are empty where their file is missing or
    damaged, since a reader may come while a run writes; `metrics` raises DataError then.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.checkpoints = self.folder / CHECKPOINTS
        self.last, self.previous = self.checkpoints / LAST, self.checkpoints / PREVIOUS
        self.best = self.checkpoints / BEST
        self.metrics_file, self.ranks_file = self.folder / METRICS, self.folder / "ranks.npz"
        self.card_file = self.folder / "MODEL_CARD.md"
        self.log = self.folder / "log" / "metrics.csv"
        self.output = self.folder / "output.log"  # stdout and stderr of a job that `make sweep` starts

    # ---- identity and settings

    @property
    def job(self) -> Job:
        """Which run this is."""
        return self._find(JOB, Job) or Job()

    def write_job(self, content: Mapping[str, Any]) -> None:
        self._write(JOB, content)

    @property
    def settings(self) -> dict[str, Any] | None:
        """The resolved settings of the training, None where there are none.  Raises DataError for a damaged file."""
        import yaml
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        file = self.folder / SETTINGS
        try:
            content: Any = OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else None
        except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
            raise DataError(f"{file} cannot be read: {error}") from error
        if not isinstance(content, dict | None):
            raise DataError(f"{file} holds a {type(content).__name__}, no names with values")
        return content

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Write the resolved settings, by one process."""
        if process_rank() == 0:
            from omegaconf import OmegaConf

            files.write_text(self.folder / SETTINGS, OmegaConf.to_yaml(OmegaConf.create(dict(settings))))

    def is_there(self) -> bool:
        """Whether the folder is a run directory, begun or not."""
        return any((self.folder / name).is_file() for name in (JOB, PROGRESS, SETTINGS))

    # ---- progress

    @property
    def progress(self) -> Progress:
        """How far the training is; its `state` is None where it has not begun."""
        return self._find(PROGRESS, Progress) or Progress()

    def write_progress(self, content: Mapping[str, Any]) -> None:
        """Write progress.json.  Raises OSError."""
        files.write_json(self.folder / PROGRESS, content)

    def mark(self, state: str) -> None:
        """Change the state in progress.json; nothing where there is none."""
        progress = self.progress
        if progress.state:
            left = {"seconds_left": 0.0} if state == FINISHED else {}
            self.write_progress(progress.content() | {"state": state, "updated": time.time()} | left)

    @property
    def last_lines(self) -> list[str]:
        """The end of what a job wrote to the screen."""
        try:
            with self.output.open("rb") as opened:
                opened.seek(max(self.output.stat().st_size - LAST_BYTES, 0))
                lines = opened.read().decode("utf-8", errors="replace").replace("\r", "\n").splitlines()
        except OSError:
            return []
        return [line for line in lines if line.strip()][-LAST_LINES:]

    def lock(self) -> AbstractContextManager[None]:
        """Hold the folder.  Raises ConfigError when another process works there."""
        return locked(self.folder)

    @property
    def is_locked(self) -> bool:
        return is_locked(self.folder)

    # ---- scores and checkpoints

    @property
    def is_finished(self) -> bool:
        """Whether it is scored: metrics.json is written last."""
        return self.metrics_file.exists()

    @property
    def metrics(self) -> dict[str, Any]:
        """The scores.  Raises DataError where there are none, or where they are damaged."""
        return read_record(self.metrics_file, Metrics)[1]

    def find_metrics(self) -> dict[str, Any]:
        """The scores; empty where there are none, or where they are damaged."""
        record = find_record(self.metrics_file, Metrics)
        return record[1] if record else {}

    @property
    def ranks(self) -> RankedItems:
        """The ranks behind the recalls.  Raises DataError."""
        from threeshnet.metrics.rank_files import read_ranks

        return read_ranks(self.ranks_file)

    def write_scores(self, metrics: Mapping[str, Any], ranked: RankedItems, *, card: str, row: str) -> None:
        """Write what every evaluation leaves. metrics.json comes last: a folder that holds it holds all the rest."""
        from threeshnet.metrics.rank_files import write_ranks

        files.write_text(self.card_file, card)
        files.write_text(self.folder / "result.csv", row)
        write_ranks(self.ranks_file, ranked)
        self._write(METRICS, metrics)

    def set_scores_aside(self, metrics: Mapping[str, Any]) -> None:
        """Rename metrics.json of an earlier step, before the run goes on."""
        if process_rank() == 0:
            name = f"metrics_of_step_{metrics['steps']}_{metrics['selection']}.json"
            self.metrics_file.replace(self.folder / name)

    def selected(self, selection: str) -> tuple[str, Path]:
        """Name and file of the checkpoint to score: the last one where no epoch is finished, so that none is best."""
        return ("best", self.best) if selection == "best" and self.best.exists() else ("last", self.last)

    @property
    def scored_checkpoint(self) -> Path:
        """The checkpoint that the scores are of.  Raises DataError where there are none."""
        return self.checkpoints / f"{self.metrics['selection']}.ckpt"

    @property
    def is_training(self) -> bool:
        """Whether it has checkpoints; an evaluation has none."""
        return self.checkpoints.is_dir()

    # ---- pictures and inspection

    @property
    def inspection(self) -> dict[str, Any]:
        """What the model does with the held-out split; empty where the file is missing or damaged."""
        record = find_record(self.folder / "inspection.json", Inspection)
        return record[1] if record else {}

    def write_inspection(self, content: Mapping[str, Any]) -> None:
        self._write("inspection.json", content)

    def picture(self, split: str, number: int) -> Path:
        """The file of the picture of an image, by the image's number in its split."""
        return self.folder / "highlights" / f"{split}-{number:05d}.png"

    @property
    def pictures(self) -> list[Path]:
        return sorted((self.folder / "highlights").glob("*.png"))

    # ---- W&B

    @property
    def wandb_folder(self) -> Path:
        """Where W&B keeps what waits for the upload."""
        return self.folder / "wandb"

    def wandb_id(self, *, project: str, resumed: bool) -> str:
        """The id of the W&B run: a new one, or the one written before when the run is resumed."""
        file = "wandb_run.json"
        if resumed and (record := self._find(file, Record)):
            return str(record.content()["id"])
        number = secrets.token_hex(4)
        self._write(file, {"id": number, "project": project})
        return number

    # ---- the same run in another folder

    def finished_as(self, identity: str) -> bool:
        """Whether the folder holds that run, finished, with scores that can be read."""
        return self.job.identity == identity and bool(self.find_metrics())

    def holds_another(self, identity: str, settings: Mapping[str, Any]) -> str | None:
        """Why a job cannot go on here: a run with checkpoints and other settings or data. None where it can."""
        there = self.job.identity
        if there is None or there == identity or not self.last.exists():
            return None
        apart = differing(self.settings or settings, settings)
        shown = "; ".join(apart[:SHOWN]) + (f"; and {len(apart) - SHOWN} more" if len(apart) > SHOWN else "")
        return f"{self.folder} holds another run ({shown or 'of other data'})"

    def link_to(self, source: Run, job: Mapping[str, Any]) -> None:
        """Show a finished run of elsewhere: links to all its files, and a job.json of its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.unlink()
        for entry in sorted(source.folder.iterdir()):
            if entry.name not in (JOB, LOCK, METRICS):
                _link(self.folder / entry.name, entry)
        own = {key: value for key, value in job.items() if key not in OF_THE_SOURCE}
        files.write_json(
            self.folder / JOB, source.job.content() | own | {"source": os.path.relpath(source.folder, self.folder)}
        )
        _link(self.metrics_file, source.metrics_file)  # last: a run with metrics is finished

    def unlink(self) -> None:
        """Remove the links to another run; the folder's own files stay."""
        links = [entry for entry in self.folder.iterdir() if entry.is_symlink()] if self.folder.is_dir() else []
        for link in links:
            link.unlink()
        if links:
            (self.folder / JOB).unlink(missing_ok=True)

    # ---- records

    def _find(self, name: str, kind: type[AnyRecord]) -> AnyRecord | None:
        record = find_record(self.folder / name, kind)
        return record[0] if record else None

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        """A JSON file, by one process."""
        if process_rank() == 0:
            files.write_json(self.folder / name, content)


def _link(link: Path, target: Path) -> None:
    if not link.exists():
        link.symlink_to(os.path.relpath(target, link.parent))
