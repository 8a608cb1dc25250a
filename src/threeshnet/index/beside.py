"""What an index holds beside its rows: the text encoder, the calibration's bank, a hub correction."""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from threeshnet.errors import CheckpointError, ConfigError, IndexFault, one_of
from threeshnet.export.onnx_text import NOT_INSTALLED, RECORD, OnnxText
from threeshnet.files import replacing
from threeshnet.index.manifest import BANK, BIAS, HUBS, TEXT_TOWER, IndexManifest
from threeshnet.index.rows import read_array
from threeshnet.index.sources import ItemSource
from threeshnet.metrics.corrections import CORRECTIONS
from threeshnet.retriever import Retriever

log = logging.getLogger(__name__)
ONNX = ("onnx", "onnxruntime")


class Correction(NamedTuple):
    """A hub correction by a bank of queries, which are known before any search."""

    name: str  # of metrics.corrections
    bank: ItemSource  # training captions where photos are found, training images where captions are
    facts: dict[str, Any]  # what the bank is: equal facts, equal bank


def check_correction(name: str) -> None:
    """Raises ConfigError for a correction that does not exist."""
    if name not in CORRECTIONS:
        raise ConfigError(one_of("correction", name, list(CORRECTIONS)))


def bank_of(correction: Correction, previous: IndexManifest | None, out: Path, *, progress: bool) -> np.ndarray:
    """Embeddings [b, D] of the bank: those that the index has, or encoded now."""
    file = out / BANK
    if previous is not None and previous.bank == correction.facts and file.is_file():
        with suppress(IndexFault):  # a damaged one is made again
            return read_array(file)
    items = correction.bank.items()
    with tqdm(total=len(items), desc="Bank", disable=not progress, dynamic_ncols=True) as bar:
        parts = []
        for batch in correction.bank.encode(items):
            parts.append(batch.embeddings)
            bar.update(len(batch.items))
    embeddings = np.concatenate(parts)
    save(file, embeddings)
    return embeddings


def write_correction(rows: Path, embeddings: np.ndarray, name: str, bank: np.ndarray) -> None:
    """Write the bias of each row, and which rows are hubs where those alone are corrected."""
    made = CORRECTIONS[name](torch.from_numpy(np.array(embeddings)), torch.from_numpy(bank))
    save(rows / BIAS, made.bias.numpy())
    if made.hubs is not None:
        save(rows / HUBS, made.hubs.among().numpy())


def has_onnx() -> bool:
    return all(find_spec(package) is not None for package in ONNX)


def check_onnx() -> None:
    """Raises ConfigError where 8-bit integers cannot be written."""
    if not has_onnx():
        raise ConfigError(f"text_tower=int8: {NOT_INSTALLED}")


def write_text_tower(retriever: Retriever, manifest: IndexManifest, out: Path) -> None:
    """Write the text encoder for onnxruntime beside the rows, so that a search starts without torch.

    Nothing is written where it is there already and whole, and where onnx is not installed. An encoder that ONNX cannot
    express is a warning, as searches work without; in 8-bit integers, which were asked for, it raises ConfigError.
    """
    folder = out / manifest.text_tower
    try:
        OnnxText(folder, precision=manifest.text_precision)
    except CheckpointError:
        if not has_onnx():
            return
        from threeshnet.export.onnx_towers import write_text_tower as write

        partial = out / f"{folder.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            write(retriever.model, partial, precisions=(manifest.text_precision,))
        except ConfigError as reason:
            if manifest.text_precision == "int8":
                raise
            log.warning("%s. Searches will load the whole model; text_tower=false leaves out this warning", reason)
            return
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    remove_text_towers(out, but=folder.name)


def remove_text_towers(out: Path, *, but: str | None = None) -> None:
    """Text encoders of other models or roundings, which no search would read; folders of other things stay."""
    for other in out.glob(f"{TEXT_TOWER}*"):
        ours = other.suffix == ".partial" or (other / RECORD).is_file()
        if ours and other.name != but:
            shutil.rmtree(other, ignore_errors=True)


def save(file: Path, values: np.ndarray) -> None:
    """A `.npy` file, whole or absent."""
    with replacing(file) as partial, partial.open("wb") as opened:
        np.save(opened, values)
