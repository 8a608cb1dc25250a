"""Sentences to embeddings with onnxruntime, tokenizers and NumPy: what a search needs to start within a second.

Nothing here imports torch, transformers or Lightning.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from threeshnet.errors import CheckpointError, ConfigError
from threeshnet.files import sha256

FORMAT = 1
RECORD = "onnx.json"  # inputs, largest sizes and hashes of the files beside it
TOKENIZER = "tokenizer.json"
IMAGE = "image.onnx"
TextPrecision = Literal["float32", "int8"]
TEXT: dict[TextPrecision, str] = {"float32": "text.onnx", "int8": "text.int8.onnx"}
NOT_INSTALLED = "ONNX files need onnx and onnxruntime: install them with `pip install 'threeshnet[onnx]'`"
BITS = 7  # of the weights in `text.int8.onnx`: with eight, sums overflow on processors without VNNI


class OnnxText:
    """The text tower of an exported folder.

    A folder is what `make export FORMAT=onnx` or `write_text_tower` left: `text.onnx`, `tokenizer.json`, `onnx.json`.
    """

    def __init__(self, folder: str | Path, *, precision: TextPrecision = "float32", threads: int = 0) -> None:
        """`int8` needs a folder that was exported with `int8=true`. `threads` of onnxruntime; 0 is one a core.

        Raises CheckpointError for a folder without these files, or where a file is not the one that was written.
        """
        self.folder, self.threads = Path(folder), threads
        self.record = read_record(self.folder)
        self.file = checked_file(self.folder, self.record, TEXT[precision])
        if precision == "int8" and self.record.get("int8_bits") != BITS:
            raise CheckpointError(
                f"{self.file} has weights of eight bits, which overflow on some processors; export again with int8=true"
            )
        self.width: int = self.record["width"]

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Embeddings [B, D] of sentences, unit length, float32, in the order given; [0, D] for an empty list.

        Sentences are encoded shortest first, `batch_size` at a time. Raises TypeError for a single string.
        """
        if isinstance(texts, str):
            raise TypeError("encode_texts takes a list of sentences, not one string")
        pieces = [self.tokenizer.encode(text).ids for text in texts]
        order = sorted(range(len(pieces)), key=lambda row: len(pieces[row]))
        embeddings = np.empty((len(pieces), self.width), dtype=np.float32)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            ids, mask = self._padded([pieces[row] for row in rows])
            embeddings[rows] = self.session.run(["embedding"], {"ids": ids, "mask": mask})[0]
        return embeddings

    @cached_property
    def tokenizer(self) -> Any:
        """Wordpieces, cut to the longest sentence that the model takes."""
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(checked_file(self.folder, self.record, TOKENIZER)))

    @cached_property
    def session(self) -> Any:
        """The onnxruntime session, made when the first sentence comes."""
        return session_of(self.file, self.threads)

    def _padded(self, sentences: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Ids [B, N] int64 and the mask [B, N] of real ones."""
        lengths = np.array([len(ids) for ids in sentences])
        ids = np.full((len(sentences), lengths.max()), self.record["pad"], dtype=np.int64)
        for row, given in enumerate(sentences):
            ids[row, : len(given)] = given
        return ids, np.arange(ids.shape[1]) < lengths[:, None]


def session_of(file: Path, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU.  Raises ConfigError where onnxruntime is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(NOT_INSTALLED) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def read_record(folder: Path) -> dict[str, Any]:
    """`onnx.json` of an exported folder.  Raises CheckpointError where there is none, or it is not of this version."""
    file = folder / RECORD
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: no such file; make the folder with `make export FORMAT=onnx`") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}; export the model again") from error
    fits = isinstance(record, dict) and record.get("format") == FORMAT and isinstance(record.get("files"), dict)
    if not (fits and isinstance(record.get("width"), int) and isinstance(record.get("pad"), int)):
        raise CheckpointError(f"{file} is not of this version (format {FORMAT}); export the model again")
    return record


def checked_file(folder: Path, record: dict[str, Any], name: str) -> Path:
    """A file of the folder.  Raises CheckpointError where it is missing, or its hash is not the recorded one."""
    file, hashes = folder / name, record["files"]
    if name not in hashes or not file.is_file():
        way_out = "export with int8=true" if "int8" in name else "export the model again"
        raise CheckpointError(f"{file}: no such file; the folder holds {', '.join(hashes)}: {way_out}")
    if sha256(file) != hashes[name]:
        raise CheckpointError(f"{file} is not the file that was exported: its sha256 differs; export the model again")
    return file
