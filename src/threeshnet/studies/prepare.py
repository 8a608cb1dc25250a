"""From planned jobs to runs: the settings and the data of each, its identity, its folder, and its command."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threeshnet.errors import ConfigError
from threeshnet.installation import current_commit
from threeshnet.overrides import listed, quoted, text
from threeshnet.runs.facts import machine
from threeshnet.runs.identity import data_fingerprint, identity, views_read
from threeshnet.runs.run import Run
from threeshnet.settings import TrainSettings, plain
from threeshnet.shards.manifest import Manifest, view_name
from threeshnet.shards.provide import provide_shards
from threeshnet.studies.launch import Job, processes, visible_gpus
from threeshnet.studies.plan import Planned
from threeshnet.studies.study import Derived, Study

TRAIN, EVALUATE = ("threeshnet", "train"), ("threeshnet", "evaluate")
QUIET = "trainer.enable_progress_bar=false"  # bars fill a log
# Overrides of `train` to its settings and to the choice of every group.
Compose = Callable[[Sequence[str]], tuple[TrainSettings, Mapping[str, Any]]]


@dataclass(frozen=True)
class PreparedJob:
    """A job with all that is known of its run before it starts."""

    planned: Planned
    job: Job
    identity: str
    record: Mapping[str, Any]  # for job.json
    settings: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None  # that will be scored
    scoring: tuple[str, ...] = ()  # overrides of `evaluate` for the same split
    gpus: tuple[str, ...] = ()  # that it may run on
    shards: Path | None = None  # that it is trained on


class Preparer:
    """Prepares the jobs of a study below the folder `out`; opens each data set once, before several jobs do."""

    def __init__(self, study: Study, out: Path, *, compose: Compose) -> None:
        self.study, self.out, self.compose = study, out, compose
        self.opened: dict[tuple[str, str], tuple[Path, Manifest]] = {}

    def prepare(self, planned: Sequence[Planned]) -> list[PreparedJob]:
        """Raises ConfigError for wrong settings and for two jobs that are the same run, DataError without data."""
        by_name = {each.name: self._training(each) for each in planned if not each.of}
        by_name |= {each.name: self._scoring(each, [by_name[name] for name in each.of]) for each in planned if each.of}
        by_identity: dict[str, str] = {}
        for each in planned:
            other = by_identity.setdefault(by_name[each.name].identity, each.name)
            if other != each.name:
                raise ConfigError(
                    f"{other} and {each.name} are the same run: an override of the command line undoes a factor; name "
                    "the levels that are left (ARGS='<factor>=<level>,<level>'), or pick jobs by only=<pattern>"
                )
        return [by_name[each.name] for each in planned]

    def _training(self, planned: Planned) -> PreparedJob:
        settings, choices = self.compose(planned.overrides)
        shards, manifest = self._shards(settings)
        sizes = {name: getattr(manifest.layout, name) for name in ("region_width", "grid_width", "classes")}
        resolved = plain(settings.with_sizes(**sizes))
        fingerprint, folder = data_fingerprint(manifest), self.out / planned.name
        gpus = tuple(visible_gpus(str(settings.trainer["accelerator"])))
        factors = ",".join(f"{factor}:{quoted(level)}" for factor, level in planned.factors.items())
        own = (text("study", self.study.name), text("job_name", planned.name), f"factors={{{factors}}}")
        words = (*TRAIN, QUIET, *planned.overrides, *own, text("out", folder), "resume=true")
        record = {"study": self.study.name, "job_name": planned.name, "factors": dict(planned.factors)}
        record |= {name: choices[name] for name in ("experiment", "setting", "recipe")}
        record |= {"seed": planned.seed, "data": manifest.dataset, "fingerprint": fingerprint}
        record |= {"selection": settings.selection, "batch_size": settings.batches.batch_size}
        return PreparedJob(
            planned,
            Job(planned.name, folder, words, devices=processes(settings.trainer["devices"]), on_gpu=bool(gpus)),
            identity(resolved, fingerprint, views_read(shards, settings.augment.views)),
            record | {"commit": current_commit(), "machine": machine()},
            resolved,
            Run(folder).best if settings.selection == "best" else Run(folder).last,
            _held_out(settings, shards, settings.data.test_split),
            gpus,
            shards,
        )

    def _scoring(self, planned: Planned, of: Sequence[PreparedJob]) -> PreparedJob:
        """Checkpoints of finished jobs, scored again as the rule says."""
        rule, folder, first = planned.rule, self.out / planned.name, of[0]
        assert rule is not None
        assert first.shards is not None
        scoring, facts, marks = first.scoring, dict(first.record), [each.identity for each in of]
        if rule.data:
            scoring, elsewhere = self._elsewhere(planned.name, rule, first)
            facts |= elsewhere
            marks.append(elsewhere["fingerprint"])
        if rule.views:
            scoring = (*scoring, f"views=[{','.join(map(str, rule.views))}]")
            marks += views_read(first.shards, [view_name(first.record["data"], number) for number in rule.views])
        if rule.correction:
            scoring = (*scoring, f"correction={rule.correction}", "bank=train")
            marks.append(rule.correction)
        if rule.perturb:
            scoring = (*scoring, f"perturb={rule.perturb}")
            marks.append(rule.perturb)
        files = listed("checkpoint", [str(each.checkpoint) for each in of])
        words = (*scoring, files, f"protocol={rule.protocol}", text("out", folder), f"seed={planned.seed}")
        name = hashlib.sha256(json.dumps([rule.protocol, sorted(marks)]).encode()).hexdigest()
        facts |= {"job_name": planned.name, "factors": dict(planned.factors), "identity": name}
        job = Job(planned.name, folder, (*EVALUATE, *words), on_gpu=bool(first.gpus), after=planned.of)
        return PreparedJob(planned, job, name, facts | {"derived_from": list(planned.of)}, gpus=first.gpus)

    def _elsewhere(self, name: str, rule: Derived, first: PreparedJob) -> tuple[tuple[str, ...], dict[str, str]]:
        """Overrides of `evaluate` for other data than those of the training, and which data they are."""
        trained = str(first.settings["data"]["name"])
        if trained not in rule.data:
            there = ", ".join(rule.data)
            raise ConfigError(f"{name}: the study names no other data for models of {trained}, only for {there}")
        other = f"data={rule.data[trained]}"
        settings, _ = self.compose((*first.planned.overrides, other))
        shards, manifest = self._shards(settings)
        if manifest.dataset == first.record["data"]:
            raise ConfigError(
                f"shards={settings.shards} holds {manifest.dataset} alone, and {name} is scored on "
                f"{settings.data.name}: name the folder that the shards of both lie in"
            )
        # A setting that scores another split at home, as a proxy does, says nothing about the splits there.
        elsewhere, _ = self.compose((f"experiment={first.record['experiment']}", other))
        facts = {"data": manifest.dataset, "fingerprint": data_fingerprint(manifest)}
        return _held_out(settings, shards, elsewhere.data.test_split), facts

    def _shards(self, settings: TrainSettings) -> tuple[Path, Manifest]:
        key = str(settings.shards), str(settings.data.name)
        if key not in self.opened:
            folder = provide_shards(settings.shards, settings.data).absolute()
            self.opened[key] = folder, Manifest.load(folder)
        return self.opened[key]


def _held_out(settings: TrainSettings, shards: Path, split: str | None) -> tuple[str, ...]:
    """Overrides of `evaluate` for a held-out split."""
    return text("shards", shards), f"split={split}", f"accelerator={settings.trainer['accelerator']}"
