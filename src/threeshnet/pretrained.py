"""Exported folders, and the file that a name of a model means.

An exported folder holds plain data: weights as safetensors, and in `config.json` the card of the checkpoint, its scores
and the hashes of all files. Reading it runs nothing: the card may name builders of this package alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import snapshot_download
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from threeshnet.encoders.model import RetrievalModel
from threeshnet.errors import CheckpointError, ConfigError, Problems
from threeshnet.evaluation.model_card import model_card
from threeshnet.files import check_writable, sha256, write_json, write_text
from threeshnet.forms import json_faults
from threeshnet.runs.run import Run
from threeshnet.training.checkpoint import CHANGED, Card, Form, build_model, checkpoint_hash

FORMAT = 1
WEIGHTS, CONFIG, README = "model.safetensors", "config.json", "README.md"
VOCABULARY, TOKENIZER = "vocab.txt", "tokenizer.json"
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
CHECKPOINTS = ("*.ckpt", "*.pth", "*.tar")
FROM_LINES = "threeshnet.batches.tokenizers.Wordpieces.from_lines"
AGAIN = "Was it changed, or is it half a copy? Export or download it again."
HEAD = """\
---
library_name: threeshnet
tags: [image-text-retrieval]
language: en
---
"""
USE = """
## Use

```python
from threeshnet import Retriever

retriever = Retriever.from_pretrained("<this folder or its name on the hub>")
images = retriever.encode_photos(["photo.jpg"])  # [1, D], unit length
texts = retriever.encode_texts(["a dog runs over the grass"])  # [1, D]
```
"""


class Config(Form):
    """`config.json` of an exported folder."""

    format: int
    card: Card
    scores: dict[str, Any]  # metrics.json of the evaluation; empty where none is known
    files: dict[str, str]  # name to sha256
    sha256: str  # of the rest of this file


class Exported(NamedTuple):
    """What an exported folder holds."""

    model: RetrievalModel  # in evaluation mode
    card: dict[str, Any]  # as in the checkpoint
    scores: dict[str, Any]


def write_exported(folder: Path, model: RetrievalModel, card: Mapping[str, Any], scores: Mapping[str, Any]) -> None:
    """Write the files of an exported folder.  Raises CheckpointError for an authors' checkpoint."""
    if "model" not in card:
        raise CheckpointError("an authors' checkpoint has no recipe of its model, so it cannot be exported")
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    write_text(folder / VOCABULARY, model.tokenizer.lines)
    write_text(folder / TOKENIZER, model.tokenizer.to_json())
    tokenizer = {"_target_": FROM_LINES, **model.tokenizer.options}  # without the lines, which have their own file
    content = {
        "format": FORMAT,
        "card": {**card, "model": {**card["model"], "tokenizer": tokenizer}},
        "scores": dict(scores),
        "files": {name: sha256(folder / name) for name in (WEIGHTS, VOCABULARY, TOKENIZER)},
    }
    write_json(folder / CONFIG, content | {"sha256": _digest(content)})
    facts = {"trained": [card.get("run", {})], "checkpoint": None, **scores}
    write_text(folder / README, HEAD + "\n" + model_card(facts) + USE)


def read_exported(folder: str | Path) -> Exported:
    """The model of an exported folder.  Raises CheckpointError where a byte differs from what was written."""
    folder = Path(folder)
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG} cannot be read: {error}; export or download it again") from error
    problems = Problems(f"{folder} is no exported folder of this version")
    problems.extend(json_faults(TypeAdapter(Config), content))
    problems.raise_as(CheckpointError, CHANGED.replace("make train", "make export"))
    problems = Problems(f"{folder}: not what was exported")
    if content["format"] != FORMAT:
        problems.add(f"{CONFIG}: format={content['format']}, and this version reads format {FORMAT}")
    if _digest({name: value for name, value in content.items() if name != "sha256"}) != content["sha256"]:
        problems.add(f"{CONFIG}: its sha256 differs")
    for name in (WEIGHTS, VOCABULARY):
        if not (folder / name).is_file():
            problems.add(f"{name} is missing")
        elif sha256(folder / name) != content["files"].get(name):
            problems.add(f"{name}: its sha256 differs")
    problems.raise_as(CheckpointError, AGAIN)
    try:
        weights = load_file(folder / WEIGHTS)
        lines = (folder / VOCABULARY).read_bytes().decode("utf-8")
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{folder} cannot be read: {error}; {AGAIN}") from error
    recipe = content["card"]["model"]
    card = {**content["card"], "model": {**recipe, "tokenizer": {**recipe.get("tokenizer", {}), "lines": lines}}}
    return Exported(build_model(folder, card["model"], weights), card, content["scores"])


def is_exported(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill instead of `folder`, which it becomes when the block ends.

    Raises ConfigError where `folder` holds something else than an earlier export, or cannot be written.
    """
    check_writable("out", folder.parent)
    if folder.exists() and not (folder.is_dir() and (is_exported(folder) or not any(folder.iterdir()))):
        raise ConfigError(f"out={folder} holds something else than an exported model; give another OUT (out=<folder>)")
    aside, former = (folder.with_name(f"{folder.name}.{what}") for what in ("partial", "former"))
    for left in (aside, former):
        shutil.rmtree(left, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        if folder.exists():
            folder.rename(former)
        aside.rename(folder)
    finally:
        for left in (aside, former):
            shutil.rmtree(left, ignore_errors=True)


def scores_of_run(file: Path) -> dict[str, Any]:
    """metrics.json of the run that a checkpoint lies in, where it is of that checkpoint; else nothing."""
    found = Run(file.parent.parent).find_metrics()
    return found if found and found.get("checkpoint") == checkpoint_hash(file) else {}


def checkpoint_file(source: str | Path) -> Path:
    """The checkpoint, or the weights of an exported folder, that a run, a folder, a file or a name on the hub means.

    Raises CheckpointError, naming what was found, when there is none or no single one.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        return _in_folder(path)
    if not path.suffix.startswith((".ckpt", ".pth", ".tar")) and HUB_NAME.fullmatch(str(source)):
        return _in_folder(_from_hub(str(source)))
    raise CheckpointError(f"{source}: no such file or folder, and no name on the Hugging Face hub")


def _from_hub(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=[*CHECKPOINTS, "*.json", WEIGHTS, VOCABULARY]))
    except Exception as reason:  # the hub has a dozen kinds of errors
        raise CheckpointError(
            f"{name}: no such folder, and the Hugging Face hub did not give it ({type(reason).__name__}); give a "
            "run directory, a checkpoint, or the name of a model on the hub"
        ) from reason


def _in_folder(folder: Path) -> Path:
    run = Run(folder)
    if run.is_training:
        file = run.selected((run.settings or {}).get("selection", "best"))[1]
        if file.is_file():
            return file
    if is_exported(folder):
        return folder / WEIGHTS
    there = sorted(file for pattern in CHECKPOINTS for file in folder.glob(pattern))
    if len(there) == 1:
        return there[0]
    what = f"{len(there)} checkpoints in it, name one: {', '.join(map(str, there))}" if there else "no checkpoint in it"
    raise CheckpointError(f"{folder}: {what} ({', '.join(CHECKPOINTS)})")
