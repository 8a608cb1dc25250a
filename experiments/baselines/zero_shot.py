"""Zero-shot CLIP or SigLIP: what a model reaches on a split that it was not trained for, on the footing of the floors.

    python experiments/baselines/zero_shot.py --data flickr8k --raw <folder> --model openai/clip-vit-base-patch32

Photos, captions and split come from the data set's own reader, set up as `make data` does (settings of its own, such
as limit=100, go behind the options). The row goes to results.csv; `make report` makes the table. Where the
weights are not to be had, the row has no recalls and says so in the table; it replaces no measured one.
"""

from __future__ import annotations

import argparse
import json
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from run import HERE, ZERO_SHOT, as_text, facts_of, scores, write
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from threeshnet.cli.errors import report_errors
from threeshnet.errors import ConfigError, DataError, Problems, one_of
from threeshnet.features import huggingface
from threeshnet.features.photos import open_photo
from threeshnet.installation import CONF
from threeshnet.metrics.protocols import Scored
from threeshnet.records import AnnotatedSet, Photo
from threeshnet.runs.facts import machine
from threeshnet.runs.identity import data_fingerprint
from threeshnet.shards.manifest import Manifest
from threeshnet.shards.reader import ShardedSplit

NO_SUCH_MODEL = (HFValidationError, RepositoryNotFoundError)  # what the hub says, or would
NO_WEIGHTS: dict[str, object] = {"reason": "weights were not at hand"}
NOT_AT_HAND = (
    "Zero-shot {} was not run: its weights are in no local folder or Hugging Face cache (HF_HOME) and could not be "
    "fetched from the hub; give --model a folder that holds them, and --name to say whose they are."
)
SIGLIP_1, PIECES = "SiglipTokenizer", "tokenizer.json"
VOCABULARIES = ((PIECES,), ("vocab.json", "merges.txt"), ("spiece.model",), ("vocab.txt",))
T = TypeVar("T")


def main(words: Sequence[str] | None = None) -> None:
    asked = parsed(words)
    annotated = photos_of(asked)
    folder = folder_of(asked.model)
    row = measured(annotated, folder, asked) if folder else facts_of(scored_by(annotated)) | NO_WEIGHTS
    row |= {"baseline": ZERO_SHOT + asked.name, "seed": ""}
    rows = write([row], asked.out / "results.csv")
    if folder is None:
        written = {key: str(value) for key, value in row.items()} in rows
        print(NOT_AT_HAND.format(asked.name) + ("" if written else " The row that was measured stays."))


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """The options; ConfigError for a batch that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a data set of conf/data")
    parser.add_argument("--raw", type=Path, help="folder of its photos and annotation (data/raw/<data>)")
    parser.add_argument("--model", required=True, help="a CLIP or SigLIP: a folder, or its name on the hub")
    parser.add_argument("--name", help="what the row calls the model (its name, or the folder's without its parents)")
    parser.add_argument("--split", default="test")
    parser.add_argument("--shards", type=Path, help="folder of the data set's shards: score the photos that are in it")
    parser.add_argument("--batch", type=int, default=32, help="photos, or captions, at once")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.csv")
    parser.add_argument(
        "overrides", nargs="*", help="settings as `make data ARGS=…` takes them: data.reader.…, limit=…"
    )
    asked = parser.parse_args(words)
    if asked.batch < 1:
        raise ConfigError(f"--batch {asked.batch}: 1 is the least")
    asked.name = asked.name or (Path(asked.model).resolve().name if Path(asked.model).is_dir() else asked.model)
    return asked


# ---- photos and captions


def photos_of(asked: argparse.Namespace) -> AnnotatedSet:
    """The photos of one split, in the order of the shards.

    Raises DataError for a split that the data does not have, and for shards that are not of this data.
    """
    cfg = settings(asked.data, asked.overrides)
    annotated: AnnotatedSet = instantiate(cfg.data.reader).read(Path(asked.raw or cfg.raw))
    splits = dict.fromkeys(photo.split for photo in annotated.photos)
    if asked.split not in splits:
        raise DataError(one_of("--split", asked.split, splits))
    own = [photo for photo in annotated.photos if photo.split == asked.split][: cfg.limit]
    if asked.shards is not None:
        own = those_in(ShardedSplit(asked.shards, asked.split), own)
    return annotated._replace(photos=tuple(own))


def settings(data: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration of `threeshnet data`; ConfigError for data or settings that it does not have."""
    known = sorted(file.stem for file in (CONF / "data").glob("*.yaml"))
    if data not in known:
        raise ConfigError(one_of("--data", data, known))
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("data", [f"data={data}", *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{' '.join(overrides)}: {error}") from error


def those_in(split: ShardedSplit, photos: Sequence[Photo]) -> list[Photo]:
    """The photos that the shards have a row for; DataError where those were made of another annotation."""
    known = {photo.id: photo for photo in photos}
    unknown = [name for name in split.image_ids if name not in known]
    kept = [known[name] for name in split.image_ids if name in known]
    problems = Problems(f"{split.folder}, split {split.name!r}")
    problems.extend(f"image {name} is not in the annotation" for name in unknown)
    if not unknown and [text for photo in kept for text in photo.captions] != list(split.caption_texts):
        problems.add("the captions are not those of the annotation")
    problems.raise_as(DataError, "Give the --data and --raw that these shards were made of, or leave out --shards.")
    return kept


def scored_by(annotated: AnnotatedSet) -> Scored:
    """Of photos of one split; their captions stand photo by photo."""
    photos = annotated.photos
    owner = torch.repeat_interleave(torch.tensor([len(photo.captions) for photo in photos]))
    return Scored(annotated.name, photos[0].split, len(photos), owner)


# ---- the model


def folder_of(model: str) -> Path | None:
    """The folder of a model: itself, the hub's cache, or fetched; None when there is no way to its weights.

    Raises DataError for a folder that lacks parts, and for a name that no model has.
    """
    try:
        return huggingface.located(model)
    except DataError as error:
        if Path(model).is_dir() or isinstance(error.__cause__, NO_SUCH_MODEL) or has_weights(model):
            raise DataError(
                f"--model {model}: neither {huggingface.FOLDER} nor the name of such a model on the hub"
            ) from error
        return None


def has_weights(name: str) -> bool:
    """Whether the weights of a name on the hub are here: then it is something else that it lacks."""
    try:
        return bool(huggingface.weight_files(Path(snapshot_download(name, local_files_only=True))))
    except LocalEntryNotFoundError:
        return False


class Towers:
    """The two towers of a CLIP or SigLIP.  Raises DataError when the folder holds another kind of model."""

    def __init__(self, folder: Path) -> None:
        network = huggingface.loaded(AutoModel, folder)
        if not all(hasattr(network, f"get_{side}_features") for side in ("image", "text")):
            raise DataError(
                f"{folder}: a {type(network).__name__} does not embed photos and sentences; CLIP and SigLIP do"
            )
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.to(self.device)
        self.processor = huggingface.image_processor(folder)
        self.sentences = Sentences(folder, network.config)

    def images(self, photos: Sequence[Image.Image]) -> Tensor:
        """[b, D]"""
        inputs = self.processor(images=[huggingface.without_slivers(photo) for photo in photos], return_tensors="pt")
        return self._pooled(self.network.get_image_features, inputs)

    def captions(self, texts: Sequence[str]) -> Tensor:
        """[b, D]"""
        return self._pooled(self.network.get_text_features, self.sentences(texts))

    def _pooled(self, features: Any, inputs: Any) -> Tensor:
        with torch.inference_mode():
            return features(**inputs.to(self.device)).pooler_output.float().cpu()


class Sentences:
    """Captions as a text tower takes them.

    CLIP's are padded to the longest of their batch. SigLIP was trained on lower case, on sentences that are padded to
    its full length, and without a mask that would hide the padding.
    """

    def __init__(self, folder: Path, config: Any) -> None:
        self.siglip = config.model_type.startswith("siglip")
        self.tokenizer, self.bare = tokenizer_of(folder)
        self.length = min(self.tokenizer.model_max_length, config.text_config.max_position_embeddings)

    def __call__(self, texts: Sequence[str]) -> Any:
        """Wordpiece ids [b, L], and for CLIP their mask."""
        if self.siglip:
            texts = [without_punctuation(text.lower()) if self.bare else text.lower() for text in texts]
        return self.tokenizer(
            list(texts),
            padding="max_length" if self.siglip else "longest",
            truncation=True,
            max_length=self.length,
            return_attention_mask=not self.siglip,
            return_token_type_ids=False,
            return_tensors="pt",
        )


def tokenizer_of(folder: Path) -> tuple[Any, bool]:
    """The tokenizer in a folder, and whether its texts must come without punctuation.  DataError where there is none.

    SigLIP's own class drops the punctuation but needs sentencepiece, which the suite does not ask for; the same pieces
    are in its tokenizer.json.
    """
    if not any(all((folder / file).is_file() for file in files) for files in VOCABULARIES):
        # transformers would make a tokenizer that knows no word
        there = " or ".join(" and ".join(files) for files in VOCABULARIES)
        raise DataError(f"{folder}: the model's tokenizer is missing: {there} goes beside its weights")
    file = folder / "tokenizer_config.json"
    try:
        named = json.loads(file.read_text(encoding="utf-8")).get("tokenizer_class") if file.is_file() else None
        bare = named == SIGLIP_1 and (folder / PIECES).is_file()
        with huggingface.quietly():
            return (PreTrainedTokenizerFast if bare else AutoTokenizer).from_pretrained(folder), bare
    except (OSError, ValueError, TypeError, KeyError, ImportError) as reason:
        raise DataError(f"{folder}: no tokenizer to be had from it: {reason}") from reason


def without_punctuation(text: str) -> str:
    """As SigLIP was trained.

    >>> without_punctuation("a man's dog , running .")
    'a mans dog running'
    """
    return " ".join(text.translate(str.maketrans("", "", string.punctuation)).split())


# ---- measuring


def measured(annotated: AnnotatedSet, folder: Path, asked: argparse.Namespace) -> dict[str, object]:
    """The row of a model.  DataError when no photo can be read, or not all that the shards hold."""
    towers = Towers(folder)
    images, kept = embedded(annotated.photos, towers, asked)
    texts = [text for photo in kept for text in photo.captions]
    captions = torch.cat([towers.captions(part) for part in batches(texts, asked.batch, "captions")])
    scored = scored_by(annotated._replace(photos=tuple(kept)))
    known: dict[str, object] = {"machine": machine()}
    if asked.shards is not None:
        known["fingerprint"] = data_fingerprint(Manifest.load(asked.shards))
    return facts_of(scored) | known | as_text(scores(images, captions, scored))


def embedded(photos: Sequence[Photo], towers: Towers, asked: argparse.Namespace) -> tuple[Tensor, list[Photo]]:
    """Embeddings [kept, D], and the photos that were kept: a damaged one is named and left out, as from the shards."""
    made: list[Tensor] = []
    kept: list[Photo] = []
    damaged = Problems("photos that cannot be read and are left out")
    for part in batches(photos, asked.batch, "photos"):
        read = [(photo, image) for photo in part if (image := read_photo(photo, damaged))]
        if read:
            made.append(towers.images([image for _, image in read]))
            kept += [photo for photo, _ in read]
    if damaged and (asked.shards or not kept):
        damaged.raise_as(DataError, "The shards hold them." if asked.shards else "No photo is left.")
    if damaged:
        print(damaged.text())
    return torch.cat(made), kept


def read_photo(photo: Photo, damaged: Problems) -> Image.Image | None:
    try:
        return open_photo(photo.file)
    except DataError as error:
        damaged.add(str(error))
        return None


def batches(items: Sequence[T], size: int, what: str) -> Iterator[Sequence[T]]:
    """`size` items at a time, under a bar that counts them."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=len(items))
        for start in range(0, len(items), size):
            part = items[start : start + size]
            yield part
            bar.advance(task, len(part))


if __name__ == "__main__":
    report_errors(main)
