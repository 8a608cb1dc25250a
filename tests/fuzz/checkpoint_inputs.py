"""Hostile checkpoints: torn, foreign, lying, and made to run code."""

from __future__ import annotations

import argparse
import copy
import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .arena import GOLDEN, GOOD, Arena
from .attempts import Attempt, trace_of
from .nonsense import Generator, node, parent_of, paths_of, pick, spoil_bytes, spoil_tree
from .payloads import TARGETS, Runs, Stranger, builders, payload, plant, shown

BERT = GOLDEN / "bert"
OFFICIAL = GOLDEN / "official_checkpoint.pth"


def words(arena: Arena, file: Path) -> list[str]:
    return [word for word in GOOD["evaluate"](arena) if not word.startswith("checkpoint=")] + [f"checkpoint={file}"]


def official_words(arena: Arena, file: Path) -> list[str]:
    where = [f"checkpoint={file}", f"text_config={BERT}", f"shards={arena.official_shards}", "split=testall"]
    return [*where, "workers=0", "accelerator=cpu", "out=scored"]


def ours(arena: Arena, folder: Path, generator: Generator) -> Attempt:
    """A checkpoint of `make train`, spoiled."""
    file = arena.copy(arena.checkpoint, folder)
    name = str(pick(generator, tuple(OURS)))
    said = OURS[name](file, folder, generator)
    return Attempt(words(arena, file), said or name, (file.name,))


def official(arena: Arena, folder: Path, generator: Generator) -> Attempt:
    """A checkpoint of the authors' layout, spoiled."""
    file = arena.copy(OFFICIAL, folder)
    name = str(pick(generator, tuple(OFFICIALS)))
    said = OFFICIALS[name](file, folder, generator)
    return Attempt(official_words(arena, file), said or name, (file.name,))


def resumed(arena: Arena, folder: Path, generator: Generator) -> Attempt:
    """A run directory whose last checkpoint is spoiled, and `resume=true`."""
    target = folder / "run" / "checkpoints"
    target.mkdir(parents=True)
    file = arena.copy(arena.checkpoint, target)
    name = str(pick(generator, tuple(OURS)))
    said = OURS[name](file, folder, generator)
    overrides = [*GOOD["train"](arena), "resume=true", "trainer.max_steps=2"]
    return Attempt(overrides, f"resume: {said or name}", (file.name, "checkpoint"))


def damage(file: Path, _: Path, generator: Generator) -> str:
    return spoil_bytes(file, generator)


def changed(file: Path, change: Callable[[dict[str, Any]], Any], protocol: int = 2) -> Any:
    content = torch.load(file, weights_only=True)
    said = change(content)
    torch.save(content, file, pickle_protocol=protocol)
    return said


def card(file: Path, _: Path, generator: Generator) -> str:
    """Something else in the card that says how the model is built."""
    return changed(file, lambda content: spoil_tree(content["threeshnet"], generator, int(generator.integers(1, 4))))


def planted(file: Path, folder: Path, generator: Generator) -> str:
    """Builders and interpolations in the card, in the options of Lightning, or beside all of them."""

    def change(content: dict[str, Any]) -> str:
        place = pick(generator, ("card", "card", "extractors", "hyper_parameters", "top"))
        if place == "hyper_parameters":
            thing = payload(trace_of(folder), generator)
            content["hyper_parameters"] = thing if isinstance(thing, dict) else {"dim": thing}
            content["hparams_name"] = pick(generator, ("kwargs", "os.mkdir", 5, "${nowhere}"))
            content["hparams_type"] = pick(generator, ("os.mkdir", "omegaconf.DictConfig", None))
            return f"hyper_parameters: {shown(thing, trace_of(folder))}"
        if place == "top":
            thing = pick(generator, builders(trace_of(folder)))
            content.update(thing)
            return f"beside all: {shown(thing, trace_of(folder))}"
        tree = content["threeshnet"] if place == "card" else content["threeshnet"]["extractors"]
        return plant(tree, trace_of(folder), generator, int(generator.integers(1, 4)))

    return changed(file, change)


def target(file: Path, folder: Path, generator: Generator) -> str:
    """Another builder where a part of the model is named."""
    name = str(pick(generator, TARGETS))

    def change(content: dict[str, Any]) -> None:
        recipe = content["threeshnet"]
        places = [path for path in paths_of(recipe) if path[-1] == "_target_"]
        place = pick(generator, places)
        parent_of(recipe, place)[place[-1]] = name
        if generator.integers(2):
            parent_of(recipe, place)["path"] = str(trace_of(folder))

    changed(file, change)
    return f"builder {name[:60]}"


def sizes(file: Path, _: Path, generator: Generator) -> str:
    """A number in the recipe that would take all memory, or none."""

    def change(content: dict[str, Any]) -> str:
        recipe = content["threeshnet"]["model"]
        places = [path for path in paths_of(recipe) if isinstance(parent_of(recipe, path)[path[-1]], int)]
        place = pick(generator, places)
        value = pick(generator, (0, -1, 10**6, 10**9, 10**12, 2**63, 1.5, "16", None, True))
        parent_of(recipe, place)[place[-1]] = value
        return f"{'.'.join(map(str, place))} is {value!r}"

    return changed(file, change)


def weights(file: Path, _: Path, generator: Generator) -> str:
    """Other weights: of another shape or type, not finite, missing, strange keys."""

    def change(content: dict[str, Any]) -> str:
        state = content["state_dict"]
        key = str(pick(generator, sorted(state)))
        name = str(pick(generator, tuple(WEIGHTS)))
        WEIGHTS[name](state, key)
        return f"{key} {name}"

    return changed(file, change)


WEIGHTS: dict[str, Callable[[dict[Any, Any], str], Any]] = {
    "NaN": lambda state, key: state.update({key: torch.full_like(state[key].float(), torch.nan)}),
    "all NaN": lambda state, _: state.update({key: torch.full_like(v.float(), torch.nan) for key, v in state.items()}),
    "infinite": lambda state, key: state.update({key: torch.full_like(state[key].float(), torch.inf)}),
    "huge": lambda state, key: state.update({key: torch.full_like(state[key].float(), 1e38)}),
    "another shape": lambda state, key: state.update({key: torch.zeros(3, 3, 3)}),
    "empty": lambda state, key: state.update({key: torch.zeros(0)}),
    "removed": lambda state, key: state.pop(key),
    "renamed": lambda state, key: state.update({key + "x": state.pop(key)}),
    "no tensor": lambda state, key: state.update({key: "text"}),
    "None": lambda state, key: state.update({key: None}),
    "number as key": lambda state, _: state.update({5: torch.zeros(1)}),
    "complex": lambda state, key: state.update({key: state[key].to(torch.complex64)}),
    "integers": lambda state, key: state.update({key: state[key].long()}),
    "sparse": lambda state, key: state.update({key: torch.eye(3).to_sparse()}),
    "expanded": lambda state, key: state.update({key: torch.zeros(1).expand(2**40)}),
    "meta": lambda state, key: state.update({key: torch.zeros(2, device="meta")}),
    "half": lambda state, key: state.update({key: state[key].half()}),
}


def top_level(file: Path, _: Path, generator: Generator) -> str:
    """Another thing where the checkpoint's own keys are, or another kind of thing in all."""

    def change(content: dict[str, Any]) -> str:
        key = str(pick(generator, sorted(content)))
        if generator.integers(3) == 0:
            del content[key]
            return f"{key} removed"
        content[key] = node(generator)
        return f"{key} is {str(content[key])[:20]!a}"

    return changed(file, change)


def another_thing(file: Path, _: Path, generator: Generator) -> str:
    things = (5, "text", [], [1, 2], {}, None, torch.zeros(2), {"threeshnet": 5}, {"threeshnet": {}, "state_dict": {}})
    thing = pick(generator, (*things, {"threeshnet": {"model": [], "fields": 3}, "state_dict": []}, {1: 2}))
    torch.save(thing, file)
    return f"it holds {str(thing)[:60]}"


def malicious(file: Path, folder: Path, generator: Generator) -> str:
    """Code for whoever unpickles it, in each of the containers that torch takes."""
    runs = Runs(trace_of(folder), int(generator.integers(7)))
    way = generator.integers(5)
    if way == 0:
        content = torch.load(file, weights_only=False)
        torch.save(content | {"extra": runs}, file)
        return "code beside the weights"
    if way == 1:
        torch.save(runs, file, _use_new_zipfile_serialization=False)
        return "code in torch's old format"
    if way == 2:
        file.write_bytes(pickle.dumps({"state_dict": {}, "threeshnet": runs, "model": [runs, {}]}))
        return "code in a plain pickle"
    if way == 3:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(runs, protocol=2))
            archive.writestr("archive/version", "3\n")
        return "code in a zip of our own"
    file.write_bytes(pickle.dumps(runs, protocol=5) + b"garbage")
    return "code and garbage"


def stranger(file: Path, _: Path, generator: Generator) -> str:
    held = (Stranger(), argparse.Namespace(a=Stranger), OrderedDict(a=Stranger(torch.zeros(2))), np.zeros(3), Path("x"))
    thing = pick(generator, held)
    content = torch.load(file, weights_only=False)
    torch.save(content | {"options": thing}, file)
    return f"a foreign {type(thing).__name__}"


def bomb(file: Path, _: Path, generator: Generator) -> str:
    """Small files that declare a lot."""
    way = generator.integers(3)
    if way == 0:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(64 << 20))
            archive.writestr("archive/version", "3\n")
        return "64 MB of zeros in 64 kB"
    if way == 1:
        buffer = io.BytesIO()
        pickle.dump([[]] * 10 ** int(generator.integers(3, 6)), buffer)
        file.write_bytes(buffer.getvalue())
        return "a pickle of many lists"
    content = torch.load(file, weights_only=False)  # our own file
    state = content["state_dict"] if "state_dict" in content else content["model"][0]
    state["model.extra"] = torch.zeros(1).expand(2**45)
    torch.save(content, file)
    return "a tensor that declares 2**45 numbers in one"


OURS: dict[str, Callable[[Path, Path, Generator], str]] = {
    function.__name__: function
    for function in (damage, card, planted, target, sizes, weights, top_level, another_thing, malicious, stranger, bomb)
}


def _official_content() -> dict[str, Any]:
    return torch.load(OFFICIAL, weights_only=False)  # our own file


def official_keys(file: Path, _: Path, generator: Generator) -> str:
    content = _official_content()
    states = [dict(state) for state in content["model"]]
    side = int(generator.integers(2))
    key = str(pick(generator, sorted(states[side])))
    name = str(pick(generator, tuple(WEIGHTS)))
    WEIGHTS[name](states[side], key)
    torch.save(content | {"model": states}, file)
    return f"{key} {name}"


def official_options(file: Path, _: Path, generator: Generator) -> str:
    content = _official_content()
    held = pick(generator, (Stranger(), Stranger, np.float64(3), {1: Stranger()}, [np.zeros(2)]))
    options = argparse.Namespace(a=held)
    torch.save(content | {"opt": options}, file)
    return f"options with {str(options.a)[:40]}"


def official_nodes(file: Path, _: Path, generator: Generator) -> str:
    content = copy.copy(_official_content())
    held = (None, [], [{}, {}], [1, 2], ({}, {}, {}), "text", {0: {}, 1: {}}, [content["model"][1]] * 2)
    content["model"] = pick(generator, held)
    torch.save(content, file)
    return f"model is {str(content['model'])[:40]}"


OFFICIALS: dict[str, Callable[[Path, Path, Generator], str]] = {
    function.__name__: function
    for function in (damage, official_keys, official_options, official_nodes, malicious, bomb)
}
