"""What an index is: its manifest, and where its rows lie.

<index>/manifest.json       written last: it names the folder of the rows that count
<index>/rows-<n>/           embeddings.npy and items.parquet (`rows.py`), further files of these rows
<index>/parts/              rows of an indexing that has not finished, which the next one takes over
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from threeshnet.errors import IndexFault, some
from threeshnet.files import write_json
from threeshnet.forms import PlainText, faults_of

FORMAT = 1
MANIFEST, ROWS, PARTS, TEXT_TOWER = "manifest.json", "rows-", "parts", "text-"
BIAS, HUBS = "bias.npy", "hubs.npy"  # of a hub correction, beside the rows
BANK = "bank.npy"
MAKE_INDEX = "make index CKPT=<run> RAW=<folder of photos> OUT=<index>"
Kind = Literal["photos", "images", "captions"]


class Source(BaseModel):
    """What was encoded: equal ones give equal embeddings of an item, so that rows can be taken over."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    kind: Kind
    model_hash: PlainText  # of the model's weights
    extractors: dict[str, dict[str, Any]] = {}  # field -> identity
    class_names: list[str] = []
    dim: Annotated[int, Field(ge=1)]


class IndexManifest(BaseModel):
    """`manifest.json`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    format: Literal[1]
    source: Source
    model: PlainText  # what the model was loaded from
    text_config: str | None = None  # of an authors' checkpoint
    normalisation: Literal["unit"] = "unit"
    items: Annotated[int, Field(ge=1)]
    raw: PlainText = ""  # folder that the items' files are relative to; empty where there are none
    rows: Annotated[str, Field(pattern=rf"^{ROWS}\d+$")]
    correction: str | None = None  # of hubs, and the bank that it is by
    bank: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    approximate: str | None = None  # the structure beside the rows, None for exact search alone
    text_precision: Literal["float32", "int8"] = "float32"  # of the text encoder for onnxruntime
    unreadable: list[str] = []  # files that were left out, each with its reason
    commit: PlainText = "unknown"

    @property
    def text_tower(self) -> str:
        """Folder of the text encoder for onnxruntime, where the index has one."""
        precision = "" if self.text_precision == "float32" else f"{self.text_precision}-"
        return f"{TEXT_TOWER}{precision}{self.source.model_hash[:12]}"

    def save(self, folder: Path) -> None:
        write_json(folder / MANIFEST, self.model_dump())

    @classmethod
    def load(cls, folder: Path) -> IndexManifest:
        """Raises IndexFault where there is no index, or one that this version cannot read."""
        file = folder / MANIFEST
        if not file.is_file():
            begun = " (an indexing that has not finished: run it again)" if (folder / PARTS).is_dir() else ""
            raise IndexFault(f"{folder}: no index is there{begun}; make one with: {MAKE_INDEX}")
        try:
            return cls.model_validate(json.loads(file.read_bytes()))
        except ValidationError as error:
            raise IndexFault(f"{file}: {some(faults_of(error))}; make the index again: {MAKE_INDEX}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise IndexFault(f"{file} cannot be read ({error}); make the index again: {MAKE_INDEX}") from error
