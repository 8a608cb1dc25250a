"""A checkpoint that encodes photos and sentences."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub import HfApi
from lightning_fabric.utilities.apply_func import move_data_to_device
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from threeshnet.batches.collate import collate_images
from threeshnet.encoders.model import RetrievalModel
from threeshnet.encoders.official import OFFICIAL_FIELDS, is_official_checkpoint, load_official_checkpoint
from threeshnet.errors import CheckpointError, ConfigError, DataError, Problems
from threeshnet.features.extractor import merged
from threeshnet.features.photos import LoadedBatch, PhotoInputs
from threeshnet.features.segmentation import AnnotatedSegmentation
from threeshnet.features.sources import Given, Maker, chosen
from threeshnet.metrics.answerability import Calibration
from threeshnet.pretrained import (
    WEIGHTS,
    checkpoint_file,
    read_exported,
    replacing_folder,
    scores_of_run,
    write_exported,
)
from threeshnet.processes import reads_for
from threeshnet.records import ImageArrays, ImageBatch
from threeshnet.shards.manifest import class_table_hash
from threeshnet.shards.reader import cell_boxes
from threeshnet.threads import adapt_threads
from threeshnet.training.checkpoint import load_model, read_checkpoint

if TYPE_CHECKING:
    from threeshnet.explanations.explanation import Explanation

BATCH = 16  # photos a step, as in `make data`
LONG = 512  # photos or sentences from which a progress bar is shown
TEXTS_TOGETHER = 4096
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
PLAIN_PRECISION = ("", "32", "32-true")
NOTHING_GIVEN = Given()


class Retriever:
    """A model with the extractors that it was trained on: photos and sentences to embeddings of one space.

    `model` is the RetrievalModel, `card` what its checkpoint says about it.
    """

    def __init__(
        self, model: RetrievalModel, card: Mapping[str, Any], *, name: str = "the model", given: Given = NOTHING_GIVEN
    ) -> None:
        """`given` extractors take the place of those that the card names."""
        self.model, self.card, self.name, self.given = model, dict(card), name, given
        self.scores: dict[str, Any] = {}  # metrics.json of the model, where it is known

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        extractor: Any = None,
        grid: Any = None,
        segmentation: Any = None,
        text_config: str | Path | None = None,
        activation: str = "sigmoid",
        device: str | torch.device | None = None,
    ) -> Retriever:
        """The retriever of a run directory, a checkpoint, an exported folder, or a name on the Hugging Face hub.

        `extractor`, `grid` and `segmentation` are needed where the checkpoint does not name its extractors: names in
        conf/extractor and conf/segmentation, mappings with a `_target_`, or `Extractor`s. An authors' checkpoint also
        needs `text_config`, the folder of its BERT. `device` is a GPU where there is one. Raises CheckpointError.
        """
        file, scores = checkpoint_file(source), {}
        given = Given(extractor=extractor, grid=grid, segmentation=segmentation)
        if file.name == WEIGHTS:
            model, card, scores = read_exported(file.parent)
        elif file.suffix != ".ckpt" and is_official_checkpoint(file):
            if text_config is None:
                raise CheckpointError(f"{file} is an authors' checkpoint: give its BERT, text_config=<folder>")
            model = load_official_checkpoint(file, text_config, activation)
            card = {"fields": list(OFFICIAL_FIELDS), "class_table": None}
        else:
            model, card, scores = load_model(file), read_checkpoint(file)["threeshnet"], scores_of_run(file)
        on = device or ("cuda" if torch.cuda.is_available() else "cpu")
        retriever = cls(model.to(on), card, name=str(file), given=given)
        retriever.scores = scores
        return retriever

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Retriever:
        """`load`, by the name that Hugging Face's libraries give it."""
        return cls.load(source, **options)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the exported folder that `load` reads: weights, config, tokenizer and model card.

        The folder appears when it is whole. Raises ConfigError where it holds something else than an earlier export,
        and CheckpointError for an authors' checkpoint.
        """
        with replacing_folder(Path(folder)) as aside:
            write_exported(aside, self.model, self.card, self.scores)
        return Path(folder)

    def push_to_hub(self, name: str, *, private: bool = False) -> str:
        """Upload the exported folder as the model `name` of the Hugging Face hub; returns its address.

        Needs the token of an account with the right to write (`hf auth login`). Raises what huggingface_hub raises.
        """
        api = HfApi()
        with tempfile.TemporaryDirectory() as aside:
            folder = self.save_pretrained(Path(aside) / "model")
            api.create_repo(name, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload by threeshnet"))

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256, progress: bool | None = None) -> Tensor:
        """Embeddings [B, D] of sentences, unit length, float32, on the CPU, in the order given."""
        if isinstance(texts, str) or not len(texts):
            raise ValueError("encode_texts takes a list with one sentence or more")
        with _bar(len(texts), "sentence", progress) as bar:
            parts = []
            for start in range(0, len(texts), TEXTS_TOGETHER):
                part = list(texts[start : start + TEXTS_TOGETHER])
                parts.append(self.model.encode_texts(part, batch_size).cpu())
                bar.update(len(part))
        return torch.cat(parts)

    def encode_photos(
        self,
        photos: Sequence[str | Path | Image.Image],
        *,
        masks: Sequence[str | Path] | None = None,
        batch_size: int = BATCH,
        workers: int = 0,
        progress: bool | None = None,
    ) -> Tensor:
        """Embeddings [B, D] of photos, unit length, float32, on the CPU, in the order given.

        Photos are files or PIL images. They go through the extractors of the training shards, in the same steps as in
        `make data` and evaluation. `masks` are 8-bit PNGs of class numbers, for a model that was trained with annotated
        segmentation. `workers` are processes that decode. Raises DataError with every photo that cannot be read, and
        CheckpointError where an extractor is missing or is not the one of the training.
        """
        batches = self.image_batches(photos, masks=masks, batch_size=batch_size, workers=workers, progress=progress)
        return torch.cat([self.encode_images(batch) for batch in batches])

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """Cosine similarity [B, C] of embeddings of images [B, D] and texts [C, D]."""
        return images.float() @ texts.to(images.device).float().T

    def explain(self, photo: str | Path | Image.Image, sentence: str, *, mask: str | Path | None = None) -> Explanation:
        """Why a photo matches a sentence, in its regions and cells; `mask` as in `encode_photos`.

        Raises DataError for a photo that cannot be read, and CheckpointError as `encode_photos` does.
        """
        from threeshnet.explanations.explain import explain

        (images,) = self.image_batches([photo], masks=None if mask is None else [mask], progress=False)
        return explain(self.model, images, sentence, self.card.get("class_names", ()))

    def image_batches(
        self,
        photos: Sequence[str | Path | Image.Image],
        *,
        masks: Sequence[str | Path] | None = None,
        batch_size: int = BATCH,
        workers: int = 0,
        progress: bool | None = None,
    ) -> Iterator[ImageBatch]:
        """What the model reads of photos, as it would come from their shard."""
        unreadable = Problems("photos")
        with _bar(len(photos), "photo", progress) as bar:
            for loaded, arrays in self.image_arrays(photos, masks=masks, batch_size=batch_size, workers=workers):
                unreadable.extend(reason for _, reason in loaded.damaged)
                bar.update(len(loaded.numbers) + len(loaded.damaged))
                if not unreadable:  # else the others are only read, to name all that cannot be
                    yield collate_images(arrays, as_stored=True)
        unreadable.raise_as(DataError, "Leave these out, or replace them.")

    def image_arrays(
        self,
        photos: Sequence[str | Path | Image.Image],
        *,
        masks: Sequence[str | Path] | None = None,
        batch_size: int = BATCH,
        workers: int = 0,
        fingerprints: bool = False,
    ) -> Iterator[tuple[LoadedBatch, ImageArrays]]:
        """What shards would hold of photos, a batch at a time, beside what was read; damaged photos are named there.

        `fingerprints` are made of files on request.
        """
        if isinstance(photos, str | Path | Image.Image) or not len(photos):
            raise ValueError("encode_photos takes a list with one photo or more")
        if masks is not None and len(masks) != len(photos):
            raise ValueError(f"{len(masks)} masks for {len(photos)} photos")
        makers, device = self.makers, self.model.device
        if masks is None and any(isinstance(maker.source, AnnotatedSegmentation) for maker in makers):
            raise CheckpointError(
                f"{self.name}: the model was trained with annotated segmentation, which this photo does not have: give "
                "its 8-bit PNG of class numbers, mask=<PNG> (masks=[…] in Python)"
            )
        for maker in makers:
            maker.source.to(device)
        inputs = PhotoInputs(photos, masks, [maker.source for maker in makers], batch_size, fingerprints)
        options: Any = {"collate_fn": LoadedBatch._make, "worker_init_fn": partial(reads_for, os.getpid())}
        for loaded in DataLoader(inputs, batch_size=None, num_workers=workers, **options):
            adapt_threads()
            yield loaded, arrays_of(makers, loaded, device) if loaded.numbers else ImageArrays()

    def encode_images(self, batch: ImageBatch) -> Tensor:
        """Embeddings [B, D] of what `image_batches` gives, on the CPU.  Raises CheckpointError for other widths."""
        try:
            return self.model.encode_images(batch).cpu()
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AttributeError) as error:  # other widths, or a field that the extractor did not give
            made = ", ".join(maker.source.name for maker in self.makers)
            raise CheckpointError(f"{self.name}: its model cannot read what {made} made: {error}") from error

    @cached_property
    def calibration(self) -> Calibration | None:
        """Turns similarities into probabilities of an answer; None for a model that has none."""
        stored = self.card.get("calibration")
        return None if stored is None else Calibration.model_validate(stored)

    @cached_property
    def makers(self) -> list[Maker]:
        """The extractors of the fields that the model reads, built when the first photo comes."""
        fields, table = self.card["fields"], self.card.get("class_table")
        try:
            makers = chosen(fields, self.card.get("extractors", {}), self.given, self.card.get("class_names", ()))
        except CheckpointError as error:
            raise CheckpointError(f"{self.name}: {error}") from error
        for maker in makers:
            if "seg" in maker.source.fields and not same_classes(table, maker.source.class_names):
                raise CheckpointError(
                    f"{self.name}: the model was trained with the class table {str(table)[:12]}, and the segmentation "
                    f"of {maker.source.name} has other classes; give the one of the training: segmentation=<name>"
                )
        return makers


def arrays_of(makers: Sequence[Maker], loaded: LoadedBatch, device: torch.device) -> ImageArrays:
    """What the shards would hold of loaded photos, as far as models read it."""
    made = []
    with torch.no_grad():
        for maker, inputs in zip(makers, loaded.inputs, strict=True):
            with _precision(maker.precision, device):
                made.append((maker.source, maker.source(move_data_to_device(inputs, device))))
    arrays = merged(made)._replace(scores=None, labels=None)
    if {dtype for maker in makers for dtype in maker.dtypes} == {"float16"}:
        half: Any = lambda values: None if values is None else values.astype(np.float16, copy=False)  # noqa: E731
        regions = None if arrays.regions is None else [half(values) for values in arrays.regions]
        arrays = arrays._replace(regions=regions, grid=half(arrays.grid), seg_semantic=half(arrays.seg_semantic))
    size = next((maker.source.grid_size for maker in makers if "grid" in maker.source.fields), None)
    if arrays.grid is None or size is None:
        return arrays
    cells = cell_boxes(*size)
    return arrays._replace(grid_boxes=np.broadcast_to(cells, (len(loaded.numbers), *cells.shape)))


def same_classes(table: str | None, names: Sequence[str]) -> bool:
    """Whether a model's class table, as its card has it, is the one of these names, as far as that is known."""
    unknown = f"unknown-{len(names)}"
    return table is None or table in (unknown, class_table_hash(names, len(names)))


def _precision(name: str, device: torch.device) -> Any:
    """What Lightning runs an extractor in under its name for a precision."""
    if name in AUTOCAST:
        return torch.autocast(device.type, dtype=AUTOCAST[name])
    if name in PLAIN_PRECISION:
        return nullcontext()
    raise ConfigError(
        f"precision={name!r} of the extractor: photos are encoded in {', '.join(PLAIN_PRECISION[2:])}, "
        f"{', '.join(AUTOCAST)}; make the shards in one of these"
    )


def _bar(total: int, unit: str, progress: bool | None) -> Any:
    shown = total >= LONG if progress is None else progress
    return tqdm(total=total, unit=unit, desc="Encoding", disable=not shown, dynamic_ncols=True)
