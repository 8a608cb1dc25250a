"""Facts of a training, written to its job.json, its checkpoints and all their scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from threeshnet.installation import current_commit
from threeshnet.runs.identity import data_fingerprint, identity, views_read
from threeshnet.settings import TrainSettings, plain
from threeshnet.shards.manifest import Manifest
from threeshnet.threads import cores

IN_JOB = ("seed", "experiment", "setting", "recipe", "data", "fingerprint", "commit")


def training_facts(
    settings: TrainSettings, choices: Mapping[str, Any], shards: Path, manifest: Manifest
) -> dict[str, Any]:
    """The facts of a training on the shards in a folder. `choices` are the files chosen in the groups of settings."""
    splits = settings.data.train_splits
    images = sum(manifest.splits[name].images for name in splits if name in manifest.splits)
    return {
        "experiment": settings.experiment_name,
        **{group: choices.get(group) for group in ("setting", "recipe", "text", "objective")},
        "data": manifest.dataset,
        "fingerprint": data_fingerprint(manifest),
        "train_splits": list(splits),
        "train_images": settings.batches.limit_train_images or images,
        "views": views_read(shards, settings.augment.views),
        "features": ", ".join(settings.features.fields),
        "guidance": list(settings.fusion),
        "parts": list(settings.parts),
        "seed": settings.seed,
        "selection": settings.selection,
        "batch_size": settings.batches.batch_size,
        "epochs": settings.trainer["max_epochs"],
        "precision": str(settings.trainer["precision"]),
        "commit": current_commit(),
    }


def job_facts(settings: TrainSettings, facts: Mapping[str, Any]) -> dict[str, Any]:
    """job.json of a training with these facts: which run it is, whose it is, and what it runs on."""
    content = plain(settings)
    return {
        "identity": identity(content, facts["fingerprint"], facts["views"]),
        "study": settings.study,
        "job_name": settings.job_name,
        "factors": content["factors"] or {},
        **{name: facts[name] for name in IN_JOB},
        "machine": machine(),
    }


def machine() -> str:
    """The class of machine, without its name: `2 CPU cores` or `1 x NVIDIA H100, 16 CPU cores`."""
    import torch  # loading it takes seconds, and readers of runs need none

    cards = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join([*(f"{cards.count(card)} x {card}" for card in dict.fromkeys(cards)), f"{cores()} CPU cores"])


def variant_name(factors: Mapping[str, Any] | None, otherwise: str) -> str:
    """Levels of factors as one name, without the seed; `otherwise` where nothing is varied.

    >>> variant_name({"activation": "sigmoid", "parts": ["local", "fused"], "seed": 1}, "")
    'activation=sigmoid · parts=[local,fused]'
    """
    levels = {name: level for name, level in (factors or {}).items() if name != "seed"}
    return " · ".join(f"{name}={level_text(level)}" for name, level in levels.items()) or otherwise


def level_text(level: Any) -> str:
    """A level of a factor, as tables show it.

    >>> level_text(["local", "fused"]), level_text(None), level_text(2)
    ('[local,fused]', 'none', '2')
    """
    if isinstance(level, list):
        return f"[{','.join(map(str, level))}]"
    return "none" if level is None else str(level)
