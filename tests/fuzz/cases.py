"""Which hostile cases there are: a family a command, drawn from a seed that is the name of the case."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from threeshnet.cli import verbs

from . import checkpoint_inputs, conf_inputs, raw_inputs, run_inputs, use_inputs
from .arena import Arena
from .attempts import Attempt
from .configs import configs
from .nonsense import Generator
from .shard_inputs import manifests, shards

Family = Callable[[Arena, Path, Generator], Attempt]


class Kind(NamedTuple):
    """Cases of one kind for one command."""

    command: str
    name: str
    make: Family
    nightly: int  # how many there are
    sample: int = 1  # how many of them run in `make test`


class Case(NamedTuple):
    """One hostile case; `id` is all that is needed to make it again."""

    id: str
    kind: Kind
    in_sample: bool

    def attempt(self, arena: Arena, folder: Path) -> Attempt:
        """Write what is hostile into `folder`; the command line over it."""
        seed = zlib.crc32(self.id.encode())
        return self.kind.make(arena, folder, np.random.default_rng(seed))


COMMANDS = sorted(verbs())  # a new one is fuzzed unasked
OWN_PARTS = {"train": 240, "data": 120, "import": 60}
OWN_STUDIES = {"sweep": 80, "collect": 60, "report": 60}
KINDS = [
    *(Kind(command, "settings", configs(command), 100) for command in COMMANDS if command != "train"),
    Kind("train", "settings", configs("train"), 360, sample=2),
    Kind("data", "captions", raw_inputs.captions, 180, sample=2),
    Kind("data", "karpathy", raw_inputs.karpathy, 140),
    Kind("data", "coco", raw_inputs.coco, 140),
    Kind("data", "photos", raw_inputs.photos, 60),
    Kind("import", "npy", raw_inputs.npy, 200, sample=2),
    Kind("import", "published", raw_inputs.published, 240, sample=2),
    Kind("import", "caption-lists", raw_inputs.caption_lists, 120),
    *(Kind(command, "shards", shards(command), 110, sample=1) for command in ("verify", "train", "evaluate")),
    *(Kind(command, "manifest", manifests(command), 120, sample=1) for command in ("verify", "train", "evaluate")),
    Kind("evaluate", "checkpoint", checkpoint_inputs.ours, 240, sample=3),
    Kind("evaluate", "official", checkpoint_inputs.official, 110),
    Kind("train", "resume", checkpoint_inputs.resumed, 70),
    Kind("train", "resume-run", run_inputs.resumed, 90),
    *(Kind(command, "runs", run_inputs.runs(command), 110) for command in ("dashboard", "collect", "compare")),
    Kind("sweep", "runs", run_inputs.runs("sweep"), 60, sample=0),
    Kind("report", "pages", run_inputs.pages, 100),
    *(Kind(command, "conf", conf_inputs.parts(command), number) for command, number in OWN_PARTS.items()),
    *(Kind(command, "index", use_inputs.indexes(command), 60) for command in ("search", "serve", "index")),
    Kind("explain", "photo", use_inputs.explained, 90),
    *(Kind(command, "study", conf_inputs.studies(command), number) for command, number in OWN_STUDIES.items()),
]


def all_cases() -> list[Case]:
    return [
        Case(f"{kind.command}-{kind.name}-{number:03d}", kind, number < kind.sample)
        for kind in KINDS
        for number in range(kind.nightly)
    ]


CASES: Mapping[str, Case] = {case.id: case for case in all_cases()}
