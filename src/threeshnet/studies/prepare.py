"""From a study to jobs: what each is composed of, which run that is, and in which folder it lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from threeshnet.cli.errors import explained
from threeshnet.cli.shards_folder import shards_folder
from threeshnet.errors import ConfigError
from threeshnet.installation import CONF, current_commit
from threeshnet.runs.checkpoint_names import BEST, LAST
from threeshnet.runs.identity import data_fingerprint, identity, views_read
from threeshnet.runs.job_record import machine
from threeshnet.runs.run_directory import CHECKPOINTS
from threeshnet.shards.manifest import Manifest, view_name
from threeshnet.studies.launch import Job, processes, visible_cards
from threeshnet.studies.overrides import listed, quoted, text
from threeshnet.studies.plan import Planned
from threeshnet.studies.study import Derived, Study

EVALUATE = "threeshnet.cli.evaluate"
Shards = dict[tuple[str, str], tuple[Path, Manifest]]  # by folder and data set as they are asked for
QUIET = "trainer.enable_progress_bar=false"  # bars fill a log


@dataclass(frozen=True)
class Prepared:
    """A job that is ready to run."""

    planned: Planned
    job: Job
    identity: str
    record: Mapping[str, Any]  # for job.json
    settings: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None  # that will be scored
    scoring: tuple[str, ...] = ()  # overrides of `evaluate` for the same split
    cards: tuple[str, ...] = ()
    shards: Path | None = None  # that it is trained on


def prepare(planned: Sequence[Planned], study: Study, out: Path) -> list[Prepared]:
    """Every job with its folder below `out`.  Raises ConfigError for wrong settings, DataError without data."""
    shards: Shards = {}
    found = {each.name: _training(each, study, out, shards) for each in planned if not each.of}
    for each in planned:
        if each.of:
            found[each.name] = _scoring(each, [found[name] for name in each.of], out, shards)
    by_identity: dict[str, str] = {}
    for name, each in found.items():
        other = by_identity.setdefault(each.identity, name)
        if other != name:
            raise ConfigError(
                f"{other} and {name} are the same run: an override of the command line undoes a factor; name "
                "the levels that are left (ARGS='<factor>=<level>,<level>'), or pick jobs by only=<pattern>"
            )
    return [found[each.name] for each in planned]


def _training(planned: Planned, study: Study, out: Path, known: Shards) -> Prepared:
    cfg, choices = compose_training(planned.overrides)
    shards, manifest = _shards(cfg, known)
    with open_dict(cfg):
        for name in ("region_width", "grid_width", "classes"):
            cfg.sizes[name] = getattr(manifest, name)
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    fingerprint = data_fingerprint(manifest)
    folder, cards = out / planned.name, visible_cards(str(cfg.trainer.accelerator))
    factors = ",".join(f"{factor}:{quoted(level)}" for factor, level in planned.factors.items())
    own = (text("study", study.name), text("job_name", planned.name), f"factors={{{factors}}}", text("out", folder))
    words = (QUIET, *planned.overrides, *own, "resume=true")
    record = {"study": study.name, "job_name": planned.name, "factors": dict(planned.factors), "seed": planned.seed}
    record |= {"experiment": choices["experiment"], "setting": choices["setting"], "recipe": choices["recipe"]}
    record |= {"data": manifest.dataset, "fingerprint": fingerprint, "commit": current_commit(), "machine": machine()}
    record |= {"selection": cfg.selection, "batch_size": cfg.batches.batch_size}
    scored = BEST if cfg.selection == "best" else LAST
    scoring = _held_out(cfg, shards)
    return Prepared(
        planned,
        Job(planned.name, folder, words, devices=processes(cfg.trainer.devices), on_gpu=bool(cards)),
        identity(settings, fingerprint, views_read(shards, cfg.augment.views)),
        record,
        settings,
        folder / CHECKPOINTS / scored,
        scoring,
        tuple(cards),
        shards,
    )


def _scoring(planned: Planned, of: Sequence[Prepared], out: Path, known: Shards) -> Prepared:
    """Checkpoints of finished jobs, scored otherwise: together, corrected for hubs, on other inputs or other data."""
    folder, first = out / planned.name, of[0]
    scoring, facts, marks = first.scoring, dict(first.record), [each.identity for each in of]
    rule = planned.rule
    assert rule is not None
    if rule.data:
        scoring, elsewhere = _elsewhere(planned, rule, first, known)
        facts |= elsewhere
        marks.append(elsewhere["fingerprint"])
    if rule.views:
        assert first.shards is not None
        scoring = (*scoring, f"views=[{','.join(map(str, rule.views))}]")
        marks += views_read(first.shards, [view_name(first.record["data"], number) for number in rule.views])
    if rule.correction:
        scoring = (*scoring, f"correction={rule.correction}", "bank=train")
        marks.append(rule.correction)
    if rule.perturb:
        scoring = (*scoring, f"perturb={rule.perturb}")
        marks.append(rule.perturb)
    files = [str(each.checkpoint) for each in of]
    words = (*scoring, listed("checkpoint", files), f"protocol={rule.protocol}", text("out", folder))
    name = hashlib.sha256(json.dumps([rule.protocol, sorted(marks)]).encode()).hexdigest()
    record = facts | {"job_name": planned.name, "factors": dict(planned.factors), "identity": name}
    job = Job(
        planned.name, folder, (*words, f"seed={planned.seed}"), EVALUATE, on_gpu=bool(first.cards), after=planned.of
    )
    return Prepared(planned, job, name, record | {"derived_from": list(planned.of)}, cards=first.cards)


def _elsewhere(
    planned: Planned, rule: Derived, first: Prepared, known: Shards
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Overrides of `evaluate` for the data that a model is carried over to, and which data they are."""
    trained = str(first.settings["data"]["name"])
    if trained not in rule.data:
        there = ", ".join(rule.data)
        raise ConfigError(f"{planned.name}: the study names no other data for models of {trained}, only for {there}")
    cfg, _ = compose_training((*first.planned.overrides, f"data={rule.data[trained]}"))
    shards, manifest = _shards(cfg, known)
    if manifest.dataset == first.record["data"]:
        raise ConfigError(
            f"shards={cfg.shards} holds {manifest.dataset} alone, and {planned.name} is scored on {cfg.data.name}: "
            "name the folder that the shards of both lie in"
        )
    # Settings that score another split at home, as a proxy does, say nothing of the splits there.
    cfg.data.test_split = _composed(f"data/{rule.data[trained]}").data.test_split
    return _held_out(cfg, shards), {"data": manifest.dataset, "fingerprint": data_fingerprint(manifest)}


def _shards(cfg: DictConfig, known: Shards) -> tuple[Path, Manifest]:
    """Where the data of a job lie: made once, before several jobs do."""
    place = str(cfg.shards), str(cfg.data.name)
    if place not in known:
        folder = shards_folder(cfg).absolute()
        known[place] = folder, Manifest.load(folder)
    return known[place]


def _held_out(cfg: DictConfig, shards: Path) -> tuple[str, ...]:
    """Overrides of `evaluate` for the split that a job is scored on."""
    return text("shards", shards), f"split={cfg.data.test_split}", f"accelerator={cfg.trainer.accelerator}"


def compose_training(overrides: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
    """The config of `train`, and the choice of every group.  Raises ConfigError that says what is wrong."""
    try:
        cfg = _composed("train", overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explained(error, "train")) from error
    choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg, choices


def _composed(name: str, overrides: Sequence[str] = (), *, return_hydra_config: bool = False) -> DictConfig:
    """conf/<name>.yaml with its defaults."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(overrides), return_hydra_config=return_hydra_config)
