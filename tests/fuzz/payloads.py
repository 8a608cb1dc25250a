"""What would run code or read the environment where a file is built or resolved: builders and interpolations."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .attempts import trace_of
from .nonsense import Generator, parent_of, paths_of, pick, spoiled_json

# HOSTILE_CANARY is a variable of every fork's environment; its value in an output says that it was resolved.
INTERPOLATIONS = (
    "${oc.env:HOSTILE_CANARY}",
    "${oc.env:HOSTILE_CANARY,x}",
    "a ${oc.env:HOSTILE_CANARY} dog",
    "${oc.env:NO_SUCH_VARIABLE,${oc.env:HOSTILE_CANARY}}",
    "${oc.select:nowhere,${oc.env:HOSTILE_CANARY}}",
    "${oc.decode:${oc.env:HOSTILE_CANARY}}",
    "${oc.create:{a:${oc.env:HOSTILE_CANARY}}}",
    "${now:%Y-%m-%d}",
    "${now:}",
    "${hydra:runtime.cwd}",
    "${nowhere}",
    "${nowhere.at[0].all}",
    "${.}",
    "${..name}",
    "${oc.dict.values:${nowhere}}",
    "${no_such_resolver:1}",
    "${",
    "${}",
    "\\${seed}",
    "$${seed}",
    "${${${seed}}}",
    "${" * 500 + "a" + "}" * 500,
    "???",
)

# names that a checkpoint must not build, or that do not exist
TARGETS = ("os.system", "builtins.eval", "torch.load", "threeshnet.encoders.image.torch.load", "subprocess.run", "")
TARGETS += ("threeshnet.runs.facts.machine", "threeshnet.nn.mlp", "threeshnet.encoders.${oc.env:HOME}")
TARGETS += ("threeshnet.encoders.text.sources.bert_folder", "threeshnet.encoders.official.load_official_checkpoint")
TARGETS += ("threeshnet.batches.loader.TrainingLoader", "threeshnet.encoders.image.ImageEncoder.forward")
TARGETS += ("..", "x" * 5000)


class Stranger:
    """A class of somebody else's training code."""

    def __init__(self, values: Any = None) -> None:
        self.values = values


class Runs:
    """Makes the trace when it is unpickled, by one of the ways there are."""

    def __init__(self, trace: Path, way: int) -> None:
        self.trace, self.way = str(trace), way

    def __reduce__(self) -> tuple[Any, ...]:
        ways = (
            (os.system, (f"touch {self.trace}",)),
            (open, (self.trace, "w")),
            (eval, (f"open({self.trace!r}, 'w')",)),
            (os.mkdir, (self.trace,)),
            (Path.touch, (Path(self.trace),)),
            (torch.save, (0, self.trace)),
            (np.save, (self.trace, np.zeros(1))),
        )
        return ways[self.way % len(ways)]


def builders(trace: Path) -> tuple[dict[str, Any], ...]:
    """Mappings that make the trace where one of them is built, in the ways of Hydra, Lightning and our own cards."""
    where = str(trace)
    return (
        {"_target_": "os.mkdir", "path": where},
        {"_target_": "os.system", "_args_": [f"touch {where}"]},
        {"_target_": "os.open", "path": where, "flags": 66},
        {"_target_": "builtins.open", "file": where, "mode": "w"},
        {"_target_": "builtins.eval", "_args_": [f"open({where!r}, 'w')"]},
        {"_target_": "subprocess.run", "args": ["touch", where]},
        {"_target_": "subprocess.Popen", "args": ["touch", where]},
        {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": [where]}},
        {"_target_": "torch.save", "obj": 0, "f": where},
        {"_target_": "numpy.save", "file": where, "arr": 0},
        {"_target_": "logging.FileHandler", "filename": where},
        {"_target_": "tempfile.mkdtemp", "dir": where},
        {"_target_": "threeshnet.files.write_text", "file": where, "text": "x"},
        {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.mkdir", "path": where}},
        {"_target_": "hydra.utils.call", "config": {"_target_": "os.mkdir", "path": where}},
        {"_target_": "functools.partial", "_args_": ["${nowhere}"]},
        {"_target_": "threeshnet.encoders.model.os.mkdir", "path": where},
        {"_target_": "os.mkdir", "_partial_": True, "path": where},
        {"_target_": ["os.mkdir"], "path": where},
        {"_target_": "${oc.env:HOSTILE_CANARY}"},
        {"_target_": None},
        {"_target_": "os"},
        {"_target_": "x" * 5000},
        {"_instantiator_": "os.mkdir", "_target_": "os.mkdir", "path": where},
        {"_instantiator": "os.mkdir", "path": where},
        {"_instantiator": "pytorch_lightning.cli.instantiate_module", "class_path": "os.mkdir"},
        {"class_path": "os.mkdir", "init_args": {"path": where}},
        {"__reduce__": ["os.mkdir", [where]]},
        {"_args_": [where], "_recursive_": True, "_convert_": "all"},
    )


def payload(trace: Path, generator: Generator) -> Any:
    """A builder or an interpolation."""
    return pick(generator, builders(trace)) if generator.integers(2) else str(pick(generator, INTERPOLATIONS))


def shown(thing: Any, trace: Path) -> str:
    """The beginning of a payload, without the scratch folder of this machine."""
    return str(thing).replace(str(trace.parent), "…")[:60]


def plant(tree: Any, trace: Path, generator: Generator, changes: int = 1) -> str:
    """Put payloads into a tree of dictionaries and lists: for a value, beside it, or as a key. Says what was done."""
    said = []
    for _ in range(changes):
        places = paths_of(tree)
        if not places:
            break
        path = pick(generator, places)
        parent, key, thing = parent_of(tree, path), path[-1], payload(trace, generator)
        where = ".".join(map(str, path))
        if generator.integers(4) == 0 and isinstance(parent, dict) and isinstance(thing, dict):
            parent.update(thing)
            said.append(f"{shown(thing, trace)} beside {where}")
        elif generator.integers(6) == 0 and isinstance(parent, dict) and isinstance(thing, str):
            parent[thing] = parent.pop(key)
            said.append(f"{thing[:40]} for the name of {where}")
        else:
            parent[key] = thing
            said.append(f"{where} is {shown(thing, trace)}")
    return "; ".join(said)


def spoiled(content: Any, folder: Path, generator: Generator) -> tuple[bytes, str]:
    """A file of JSON that is wrong in what it says or in how it is written; a third of them with payloads."""
    if generator.integers(3):
        return spoiled_json(content, generator)
    tree = json.loads(json.dumps(content))
    said = plant(tree, trace_of(folder), generator, changes=int(generator.integers(1, 4)))
    return json.dumps(tree).encode(), said
