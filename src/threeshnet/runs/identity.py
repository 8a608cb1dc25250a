"""When two runs are the same run: equal settings and equal data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from threeshnet.shards.manifest import Manifest, open_view

# Settings that change no number: what the run is called, where things lie, what is logged, shown and drawn.
NAMES = ("study", "job_name", "factors", "experiment_name")
FOLDERS = ("shards", "out", "resume")
LOGGING = ("logger", "highlights", "trainer.enable_progress_bar", "trainer.log_every_n_steps")
WANDB = ("wandb", "wandb_project", "wandb_artifact")
NOT_OF_THE_RUN = (*NAMES, *FOLDERS, *LOGGING, *WANDB)


def identity(settings: Mapping[str, Any], fingerprint: str, views: Sequence[str] = ()) -> str:
    """sha256 over resolved settings, without NOT_OF_THE_RUN, the data's fingerprint, and `views_read`.

    A setting that a later version adds is a setting: runs of before are then other runs.

    >>> one = identity({"seed": 0, "out": "a", "trainer": {"devices": 1, "log_every_n_steps": 1}}, "data")
    >>> one == identity({"trainer": {"log_every_n_steps": 9, "devices": 1}, "seed": 0}, "data")
    True
    >>> one == identity({"seed": 1, "trainer": {"devices": 1}}, "data")
    False
    """
    text = json.dumps([of_the_run(settings), fingerprint, *views], sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def of_the_run(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that make a run what it is, by dotted key."""
    return {
        key: value
        for key, value in flat(settings).items()
        if not any(key == name or key.startswith(f"{name}.") for name in NOT_OF_THE_RUN)
    }


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key.

    >>> flat({"a": {"b": 1}, "c": [2], "d": {}})
    {'a.b': 1, 'c': [2], 'd': {}}
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        below = isinstance(value, Mapping) and len(value) > 0
        found |= flat(value, f"{prefix}{key}.") if below else {f"{prefix}{key}": value}
    return found


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Settings that make two runs differ, as `key: value, not value`.

    >>> differing({"seed": 0, "out": "a"}, {"seed": 1, "out": "b"})
    ['seed: 0, not 1']
    """
    first, second = of_the_run(one), of_the_run(other)
    keys = [key for key in sorted({*first, *second}) if first.get(key) != second.get(key)]
    return [f"{key}: {first.get(key)!r}, not {second.get(key)!r}" for key in keys]


def views_read(folder: Path, names: Sequence[str]) -> list[str]:
    """The other views that a training on the shards in `folder` reads, each as `name (fingerprint)`, in 12 digits."""
    return [f"{name} ({data_fingerprint(Manifest.load(open_view(folder, name)))[:12]})" for name in names]


def data_fingerprint(manifest: Manifest) -> str:
    """Of the shards that a run reads: equal means the same rows."""
    if manifest.fingerprint:
        return manifest.fingerprint
    sums = [shard.sha256 for name in sorted(manifest.splits) for shard in manifest.splits[name].shards]
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()
