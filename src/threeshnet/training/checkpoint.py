"""Checkpoints that know how to build their model, and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from hydra.utils import get_object

from threeshnet.encoders.model import RetrievalModel
from threeshnet.encoders.official import unreadable, weight_fault
from threeshnet.encoders.removed import without_removed
from threeshnet.errors import CheckpointError, Problems
from threeshnet.files import sha256
from threeshnet.forms import Forms, form_faults
from threeshnet.shards.schema import FIELDS

CARD_FORMAT = 1
# What a checkpoint may name: classes and functions of these packages, and nothing that they import.
BUILDERS = tuple(f"threeshnet.{package}." for package in ("batches", "fusion", "pooling", "encoders", "nn"))
AUTHORS_WAY = "an authors' checkpoint is read with load_official_checkpoint: `make evaluate` with TEXT=<its BERT>"
HYDRAS_OWN = ("_target_", "_convert_", "_recursive_")  # keys of a recipe that are no arguments
# What Lightning needs to go on with a run.
OF_A_RUN = {"pytorch-lightning_version": str, "epoch": int, "global_step": int, "loops": dict, "callbacks": dict}
OF_A_RUN |= {"optimizer_states": list, "lr_schedulers": list}
# What a training says of itself.
OF_A_CARD: Forms = {
    **dict.fromkeys(("experiment", "setting", "recipe", "text", "objective"), (str, NoneType)),
    **dict.fromkeys(("data", "fingerprint", "features", "selection", "precision", "commit"), str),
    **dict.fromkeys(("train_images", "seed", "batch_size", "epochs"), (int, NoneType)),
    **dict.fromkeys(("train_splits", "views", "guidance", "parts"), list),
}
MODEL_PREFIX = "model."  # of the model's weights in a Lightning checkpoint


def model_card(recipe: Mapping[str, Any], model: RetrievalModel, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its model: the resolved recipe with architecture and vocabulary in place of names.

    `facts` are plain values that go along: the class table's hash, the fields that are read.
    """
    built = dict(recipe)
    self_contained = getattr(model.text_encoder, "self_contained", None)  # of text encoders that arrive trained
    if self_contained is not None:
        built["text_encoder"] = self_contained(built["text_encoder"])
    built["tokenizer"] = {
        # One text: weights-only loading looks at every string by itself, and BERT has 30,522.
        "_target_": "threeshnet.batches.tokenizers.Wordpieces.from_lines",
        "lines": model.tokenizer.lines,
        "max_wordpieces": model.tokenizer.max_wordpieces,
        "lowercase": model.tokenizer.lowercase,
    }
    return {"format": CARD_FORMAT, "model": _plain(built), **facts}


def load_model(path: str | Path) -> RetrievalModel:
    """The model of a checkpoint of this suite, in evaluation mode.

    The file is read weights-only and may name builders of this package alone. Raises CheckpointError when it is
    missing, torn, made by other software, or when weights and model do not fit.
    """
    content = read_checkpoint(path)
    problems = Problems(f"{path}")
    recipe, weights = without_removed(content["threeshnet"]["model"], problems), model_weights(content)
    problems.raise_as(CheckpointError)
    builders = {target: _builder(target, problems) for target in sorted(set(_targets(recipe)))}
    problems.raise_as(CheckpointError, f"A checkpoint may name parts in {', '.join(BUILDERS)} and nothing else.")
    try:
        with torch.device("meta"):  # sizes without numbers: a recipe may ask for more memory than there is
            outline = _build(recipe, builders)
        _check_weights(path, outline, weights)
        model = _build(recipe, builders)
    except CheckpointError:
        raise
    except Exception as reason:
        raise CheckpointError(f"{path} describes a model that this version cannot build: {reason}") from reason
    model.load_state_dict(weights)
    return model.eval()


def model_weights(content: Mapping[str, Any]) -> dict[str, Any]:
    """The model's own weights among those of a training run."""
    names = (key for key in content["state_dict"] if key.startswith(MODEL_PREFIX))
    return {key.removeprefix(MODEL_PREFIX): content["state_dict"][key] for key in names}


def check_resumable(path: str | Path, content: Mapping[str, Any], model: RetrievalModel) -> None:
    """Raises CheckpointError, with all that is wrong, for one that a run with this model cannot go on from."""
    problems = Problems(f"{path}: a run cannot go on from it")
    problems.extend(form_faults(dict(content), OF_A_RUN))
    problems.raise_as(CheckpointError, "Was it changed after `make train` had written it?")
    began = "A run goes on with the settings that it began with; for others give another OUT (out=<folder>)."
    _check_weights(path, model, model_weights(content), began)


def _check_weights(path: str | Path, model: Any, weights: Mapping[str, Any], way_out: str = "") -> None:
    """Raises CheckpointError once for all weights that are missing, have no place, another shape, or are no numbers."""
    if not isinstance(model, RetrievalModel):
        raise CheckpointError(f"{path} describes a {type(model).__name__}, and not a model of images and texts")
    ours, problems = model.state_dict(), Problems(f"{path}: weights that do not fit its model")
    problems.extend(f"{name} is missing" for name in ours if name not in weights)
    for name, value in weights.items():
        if name not in ours:
            problems.add(f"{name} has no place in it")
        elif fault := weight_fault(ours[name], value):
            problems.add(f"{name} {fault}")
        elif ours[name].shape != value.shape:
            problems.add(f"{name}: size mismatch, {tuple(value.shape)} where {tuple(ours[name].shape)} is expected")
    problems.raise_as(CheckpointError, way_out)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint of this suite, nothing in it run."""
    file = _there(path)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as reason:
        raise CheckpointError(
            f"{file} is torn, or holds more than plain weights: {unreadable(reason)} ({AUTHORS_WAY})"
        ) from reason
    if not isinstance(content, dict) or "threeshnet" not in content:
        raise CheckpointError(f"{file} was not written by `make train` ({AUTHORS_WAY})")
    problems = Problems(f"{file} is not a checkpoint of this version")
    problems.extend(content_faults(content))
    problems.raise_as(CheckpointError, "Was it changed after `make train` had written it?")
    return content


def content_faults(content: Mapping[str, Any]) -> list[str]:
    """What in a checkpoint is of another form than what we write."""
    faults = list(form_faults(content, {"threeshnet": dict, "state_dict": dict}))
    if faults:
        return faults
    card = content["threeshnet"]
    needed = {"format": int, "model": dict, "fields": list}
    optional = {"data": str, "experiment": str, "class_table": (str, NoneType), "run": dict}
    faults += [f"threeshnet: {fault}" for fault in form_faults(card, needed, optional)]
    if not faults and card["format"] != CARD_FORMAT:
        faults.append(f"threeshnet: format {card['format']}, and this version reads {CARD_FORMAT}")
    if not faults and not set(map(str, card["fields"])) <= set(FIELDS):
        faults.append(f"threeshnet: fields={card['fields']}; there are: {', '.join(FIELDS)}")
    if not faults:
        faults += [f"threeshnet: run: {fault}" for fault in form_faults(card.get("run", {}), {}, OF_A_CARD)]
    if not all(isinstance(key, str) for key in content["state_dict"]):
        faults.append("state_dict: names that are no texts")
    return faults


def checkpoint_hash(path: str | Path) -> str:
    """The first 12 digits of the file's sha256: enough to tell checkpoints apart in a table.

    Raises CheckpointError for a file that is not there.
    """
    return sha256(_there(path))[:12]


def _there(path: str | Path) -> Path:
    file = Path(path)
    if not file.is_file():
        where = [file / "checkpoints", file] if file.is_dir() else [file.parent]
        near = sorted(str(other) for folder in where for form in ("*.ckpt", "*.pth*") for other in folder.glob(form))
        what, place = ("is a folder", "in") if file.is_dir() else ("no such file", "beside")
        known = f"are: {', '.join(near)}" if near else f"is no .ckpt {place} it"
        raise CheckpointError(f"{file}: {what}; there {known}")
    return file


def _builder(target: str, problems: Problems) -> Callable[..., Any]:
    """What `target` names. Where it is defined counts: `threeshnet.encoders.image.torch.load` is torch's."""
    if target.startswith(BUILDERS):
        try:
            found = get_object(target)
        except Exception as reason:
            problems.add(f"{target} cannot be found: {reason}")
            return dict
        if callable(found) and f"{getattr(found, '__module__', None)}.".startswith(BUILDERS):
            return found
    problems.add(f"asks to build {target}")
    return dict


def _build(node: Any, builders: Mapping[str, Callable[..., Any]]) -> Any:
    """The recipe, innermost parts first. Without Hydra: it would also resolve ${…} in a stranger's strings."""
    if isinstance(node, Mapping):
        built = {key: _build(value, builders) for key, value in node.items() if key not in HYDRAS_OWN}
        return builders[str(node["_target_"])](**built) if "_target_" in node else built
    if isinstance(node, list | tuple):
        return [_build(value, builders) for value in node]
    return node


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)


def _plain(value: Any) -> Any:
    """Only what weights-only loading takes: numbers, strings, lists and dictionaries."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, int | float | str | bool | None) else str(value)
