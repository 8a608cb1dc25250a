"""Identity of a run: equal settings and equal data make the same run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from threeshnet.shards.manifest import Manifest, open_view

# Settings that change no number: names, folders, logging, pictures.
NOT_OF_THE_RUN = ("study", "job_name", "factors", "experiment_name", "shards", "out", "resume", "logger", "highlights")
NOT_OF_THE_RUN += ("trainer.enable_progress_bar", "trainer.log_every_n_steps")
NOT_OF_THE_RUN += ("wandb", "wandb_project", "wandb_artifact")


def identity(settings: Mapping[str, Any], fingerprint: str, views: Sequence[str] = ()) -> str:
    """sha256 over resolved settings, without NOT_OF_THE_RUN, the data's fingerprint, and `views_read`.

    A setting that a later version adds changes the identity, so earlier runs are then other runs.

    >>> first = identity({"seed": 0, "out": "a", "trainer": {"devices": 1, "log_every_n_steps": 1}}, "data")
    >>> first == identity({"trainer": {"log_every_n_steps": 9, "devices": 1}, "seed": 0}, "data")
    True
    >>> first == identity({"seed": 1, "trainer": {"devices": 1}}, "data")
    False
    """
    text = json.dumps([of_the_run(settings), fingerprint, *views], sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def of_the_run(settings: Mapping[str, Any], but: Sequence[str] = ()) -> dict[str, Any]:
    """The settings that identify a run, by dotted key, without those in or below `but`."""
    left_out = (*NOT_OF_THE_RUN, *but)
    return {
        key: value
        for key, value in flat(settings).items()
        if not any(key == name or key.startswith(f"{name}.") for name in left_out)
    }


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key.

    >>> flat({"a": {"b": 1}, "c": [2], "d": {}})
    {'a.b': 1, 'c': [2], 'd': {}}
    """
    flattened: dict[str, Any] = {}
    for key, value in settings.items():
        below = isinstance(value, Mapping) and len(value) > 0
        flattened |= flat(value, f"{prefix}{key}.") if below else {f"{prefix}{key}": value}
    return flattened


def changes(before: Mapping[str, Any], given: Mapping[str, Any], but: Sequence[str] = ()) -> dict[str, tuple[str, str]]:
    """The settings in which two runs differ: the value given and the one before, as text.

    >>> changes({"seed": 0, "out": "a"}, {"seed": 1, "out": "b"})
    {'seed': ('1', '0')}
    """
    first, second = of_the_run(before, but), of_the_run(given, but)
    keys = [key for key in sorted({*first, *second}) if first.get(key) != second.get(key)]
    return {key: (repr(second.get(key)), repr(first.get(key))) for key in keys}


def differing(settings: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    """The settings in which two runs differ, as `key: value, not value`.

    >>> differing({"seed": 0, "out": "a"}, {"seed": 1, "out": "b"})
    ['seed: 0, not 1']
    """
    return [f"{key}: {mine}, not {other}" for key, (other, mine) in changes(settings, others).items()]


def views_read(folder: Path, names: Sequence[str]) -> list[str]:
    """The other views of the shards in `folder`, each as `name (fingerprint)` with 12 digits."""
    return [f"{name} ({data_fingerprint(Manifest.load(open_view(folder, name)))[:12]})" for name in names]


def data_fingerprint(manifest: Manifest) -> str:
    """Fingerprint of shards; equal fingerprints mean the same rows."""
    if manifest.fingerprint:
        return manifest.fingerprint
    sums = [shard.sha256 for name in sorted(manifest.splits) for shard in manifest.splits[name].shards]
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()
