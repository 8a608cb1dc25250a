"""Checkpoints that know how to build their model, and nothing more."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from hydra.utils import get_object
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from threeshnet.encoders.model import RetrievalModel
from threeshnet.encoders.official import unreadable, weight_fault
from threeshnet.encoders.removed import without_removed
from threeshnet.errors import CheckpointError, Problems, shortened
from threeshnet.files import read_tensors, sha256
from threeshnet.forms import json_faults
from threeshnet.metrics.answerability import Calibration
from threeshnet.runs.run import Run
from threeshnet.shards.manifest import Manifest

CARD_FORMAT = 1
# What a checkpoint may name: classes and functions of these packages, and nothing that they import.
BUILDERS = tuple(f"threeshnet.{package}." for package in ("batches", "fusion", "pooling", "encoders", "nn"))
AUTHORS_WAY = "an authors' checkpoint is read with load_official_checkpoint: `make evaluate` with TEXT=<its BERT>"
HYDRAS_OWN = ("_target_", "_convert_", "_recursive_")  # keys of a recipe that are no arguments
CHANGED = "Was it changed after `make train` had written it?"
MODEL_PREFIX = "model."  # of the model's weights in a Lightning checkpoint


class Form(BaseModel):
    """What is read from a checkpoint: types as they are written, and further keys for later versions."""

    model_config = ConfigDict(strict=True, extra="allow")


class FieldMaker(Form):
    """What made a field of the shards that a model was trained on."""

    name: str = ""
    version: str = ""
    weights: str = ""  # sha256, or how they were drawn
    options: str = ""
    recipe: dict[str, Any] = {}  # empty where nothing can be built: published arrays
    precision: str = ""  # of the network, as Lightning names it
    dtype: str = ""  # in the shards


class TrainingFacts(Form):
    experiment: str | None = None
    setting: str | None = None
    recipe: str | None = None
    text: str | None = None
    objective: str | None = None
    data: str = ""
    fingerprint: str = ""
    features: str = ""
    selection: str = ""
    precision: str = ""
    commit: str = ""
    train_images: int | None = None
    seed: int | None = None
    batch_size: int | None = None
    epochs: int | None = None
    train_splits: list[Any] = []
    views: list[Any] = []
    guidance: list[Any] = []
    parts: list[Any] = []


class Card(Form):
    """What a checkpoint says about its model."""

    format: Literal[1]
    model: dict[str, Any]  # the resolved recipe, with architecture and vocabulary in place of names
    fields: list[Literal["region", "grid", "seg"]]
    data: str = ""
    experiment: str | None = None
    class_table: str | None = None  # hash of the class names
    class_names: list[str] = []
    extractors: dict[Literal["region", "grid", "seg"], FieldMaker] = {}  # empty in files of earlier versions
    run: TrainingFacts = TrainingFacts()
    calibration: Calibration | None = None  # of similarities to probabilities; none without a dev split


class Content(Form):
    """A checkpoint of this suite."""

    threeshnet: Card
    state_dict: dict[str, Any]


def _version(text: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)*[\w.+-]*", text):
        raise ValueError(f"{shortened(text, 40)!r} is no version")
    return text


class RunState(Form):
    lightning: Annotated[str, AfterValidator(_version)] = Field(alias="pytorch-lightning_version")
    epoch: int
    global_step: int
    loops: dict[Any, Any]
    callbacks: dict[Any, Any]
    optimizer_states: list[Any]
    lr_schedulers: list[Any]


def model_card(recipe: Mapping[str, Any], model: RetrievalModel, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says about its model: the resolved recipe with architecture and vocabulary in place of names.

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
        **model.tokenizer.options,
    }
    return {"format": CARD_FORMAT, "model": _plain(built), **facts}


def maker_facts(manifest: Manifest, fields: Sequence[str]) -> dict[str, Any]:
    """What made the fields that a model reads, for its card: it lets a `Retriever` encode photos."""
    dtypes: dict[Any, str] = {**manifest.layout.dtypes}
    makers = {
        field: {
            **manifest.extractors.get(field, {}),
            "recipe": dict(manifest.recipes.get(field, {})),
            "precision": manifest.precision,
            "dtype": dtypes.get(field, ""),
        }
        for field in fields
    }
    return {"extractors": _plain(makers), "class_names": list(manifest.class_names) if "seg" in fields else []}


def load_model(path: str | Path) -> RetrievalModel:
    """The model of a checkpoint of this suite, in evaluation mode.

    The file is read weights-only and may name builders of this package alone. Raises CheckpointError when it is
    missing, torn, made by other software, or when weights and model do not fit.
    """
    content = read_checkpoint(path)
    return build_model(path, content["threeshnet"]["model"], model_weights(content))


def build_model(path: str | Path, recipe: Mapping[str, Any], weights: Mapping[str, Any]) -> RetrievalModel:
    """The model of a recipe with these weights, in evaluation mode.

    The recipe may name builders of this package alone. Raises CheckpointError, which names `path`, for other builders,
    and when weights and model do not fit.
    """
    problems = Problems(f"{path}")
    recipe = without_removed(recipe, problems)
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
    problems.extend(json_faults(TypeAdapter(RunState), content))
    problems.raise_as(CheckpointError, CHANGED)
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
        content = read_tensors(file)
    except Exception as reason:
        raise CheckpointError(
            f"{file} is torn, or holds more than plain weights: {unreadable(reason)} ({AUTHORS_WAY})"
        ) from reason
    if not isinstance(content, dict) or "threeshnet" not in content:
        raise CheckpointError(f"{file} was not written by `make train` ({AUTHORS_WAY})")
    problems = Problems(f"{file} is not a checkpoint of this version")
    problems.extend(json_faults(TypeAdapter(Content), content))
    problems.raise_as(CheckpointError, CHANGED)
    return content


def checkpoint_hash(path: str | Path) -> str:
    """The first 12 digits of the file's sha256: enough to tell checkpoints apart in a table.

    Raises CheckpointError for a file that is not there.
    """
    return sha256(_there(path))[:12]


def _there(path: str | Path) -> Path:
    file = Path(path)
    if not file.is_file():
        where = [Run(file).checkpoints, file] if file.is_dir() else [file.parent]
        near = sorted(str(other) for folder in where for form in ("*.ckpt", "*.pth*") for other in folder.glob(form))
        what, preposition = ("is a folder", "in") if file.is_dir() else ("no such file", "beside")
        alternatives = f"are: {', '.join(near)}" if near else f"is no .ckpt {preposition} it"
        raise CheckpointError(f"{file}: {what}; there {alternatives}")
    return file


def _builder(target: str, problems: Problems) -> Callable[..., Any]:
    """What `target` names. Where it is defined counts: `threeshnet.encoders.image.torch.load` is torch's."""
    if target.startswith(BUILDERS):
        try:
            builder = get_object(target)
        except Exception as reason:
            problems.add(f"{target} cannot be found: {reason}")
            return dict
        if callable(builder) and f"{getattr(builder, '__module__', None)}.".startswith(BUILDERS):
            return builder
    problems.add(f"asks to build {target}")
    return dict


def _build(node: Any, builders: Mapping[str, Callable[..., Any]]) -> Any:
    """The recipe, innermost parts first. Not by Hydra, which would also resolve ${…} in the strings of any file."""
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
