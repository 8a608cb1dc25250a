"""Panoptic segmentation by mask classification models of `transformers`: Mask2Former, MaskFormer, OneFormer, EoMT."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.modeling_auto import AutoModelForUniversalSegmentation
from transformers.models.clip.tokenization_clip import CLIPTokenizer
from transformers.models.oneformer.image_processing_pil_oneformer import OneFormerImageProcessorPil

from threeshnet.annotations.coco_classes import COCO_PANOPTIC, COCO_STUFF, aligned
from threeshnet.errors import ConfigError, DataError, Problems, one_of
from threeshnet.features.extractor import Extractor
from threeshnet.features.huggingface import (
    Normalized,
    architecture,
    image_processor,
    in_equal_sizes,
    loaded,
    located,
    quietly,
    settings_sha256,
    weights_sha256,
    without_slivers,
)
from threeshnet.features.panoptic_merge import Panoptic, candidates, mask_probabilities, merged_segments, query_shares
from threeshnet.features.segmentation import arrays_of_classes
from threeshnet.records import VOID, ImageArrays, Photo

OFFLINE = "segmentation=lite0"  # what segments without a model from the hub
UNNAMED = "LABEL_"  # what transformers calls the classes of a configuration without names


class Queries(NamedTuple):
    """What a model says of one photo."""

    classes: Tensor  # [Q, C+1] logits, the last for "no object"
    masks: Tensor  # [Q, h, w] logits


class Segmented(NamedTuple):
    """One photo, as far as the shards are concerned."""

    panoptic: Panoptic
    semantic: Tensor  # [C, 7, 7] class probabilities


class PanopticSegmentation(Extractor):
    """Mask2Former or MaskFormer: the three forms of the segmentation from class queries and mask queries.

    `seg/semantic` are the class probabilities of all queries (`panoptic_merge.query_shares`); `seg/map` and
    `seg/categories` come from the merge into one panoptic segmentation, made over a square of 448 x 448 px: both 7 and
    64 cells divide it, and it is finer than the masks (a quarter of an input of 800 px). A photo's aspect may be lost
    there since everything in the merge is a share of an area.

    name: a folder or a model on the hub (`revision`: commit, tag or branch). score_threshold: a query takes part in the
    merge when its best class is a real one of at least this probability. overlap_threshold: and when at least this
    share of its mask is not taken by surer ones. Both 0.8 in the papers' settings for COCO. at_once: photos of one size
    that go through the network together, which bounds memory whatever the batch size.
    """

    able = ("seg",)
    families: tuple[str, ...] = ("mask2former", "maskformer")  # model types that this class knows how to feed
    unpadded: Mapping[str, bool] = {}  # settings that keep the processor from padding

    def __init__(
        self,
        *,
        name: str | Path,
        revision: str | None = None,
        score_threshold: float = 0.8,
        overlap_threshold: float = 0.8,
        at_once: int = 4,
    ) -> None:
        super().__init__()
        problems = Problems("segmentation")
        for key, value in (("score_threshold", score_threshold), ("overlap_threshold", overlap_threshold)):
            if not 0 <= value <= 1:
                problems.add(f"{key}={value}: a share, 0 to 1")
        if at_once < 1:
            problems.add(f"at_once={at_once}: a number of photos, 1 or more")
        problems.raise_as(ConfigError)
        self.folder = located(name, revision=revision, instead=OFFLINE)
        config = architecture(self.folder)
        if config.model_type not in self.families:
            raise ConfigError(
                f"{one_of('model type', config.model_type, self.families)} for this segmentation ({self.folder}); "
                "choose segmentation=mask2former, maskformer, oneformer or eomt by the model's type"
            )
        self.name = config.model_type
        self.weights = weights_sha256(self.folder)
        self.score_threshold, self.overlap_threshold, self.at_once = score_threshold, overlap_threshold, at_once
        self.options = {
            "settings": settings_sha256(self.folder),
            "score_threshold": score_threshold,
            "overlap_threshold": overlap_threshold,
        }
        self.class_names, places = aligned(class_names(config, self.weights))
        self.stuff = stuff_of(self.class_names)
        self.order: Tensor  # the model's number of each class of the table, and of "no object"
        order = torch.tensor([*places, len(places)]).argsort()
        self.register_buffer("order", order, persistent=False)
        self.processor = self.prepared_by(config)
        self.normalized = Normalized(self.processor)
        self.network = loaded(AutoModelForUniversalSegmentation, self.folder)

    def prepared_by(self, config: PreTrainedConfig) -> Any:
        """The image processor."""
        return image_processor(self.folder, config)

    def resized(self, image: Image.Image) -> Tensor:
        """The photo in the size that the processor gives it, [3, H, W] uint8; not normalized, not padded."""
        made = self.processor(
            images=without_slivers(image),
            do_rescale=False,
            do_normalize=False,
            input_data_format="channels_last",  # else a photo of 1 or 3 px height passes for channels-first
            return_tensors="pt",
            **self.unpadded,
        )
        return made["pixel_values"][0]

    def padded(self, pixels: Tensor) -> Tensor:
        """The pixels with the padding that the network needs, below and right: none."""
        return pixels

    def load(self, photo: Photo, image: Image.Image | None) -> dict[str, Tensor]:
        assert image is not None
        pixels = self.resized(image)
        return {"pixels": self.padded(pixels), "photo": torch.tensor(pixels.shape[1:])}

    def collate(self, loaded: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        return {key: [item[key] for item in loaded] for key in loaded[0]}

    def forward(self, inputs: Mapping[str, Any]) -> ImageArrays:
        photos = self.segmented(inputs)
        classes = torch.stack([photo.panoptic.classes for photo in photos])
        return arrays_of_classes(classes, torch.stack([photo.semantic for photo in photos]))

    def segmented(self, inputs: Mapping[str, Any]) -> list[Segmented]:
        """Each photo's panoptic segmentation and class probabilities.

        inputs: `pixels`, each [3, H, W] uint8; `photo`, each the height and width in them that are not padding.
        """
        of_photos = in_equal_sizes(inputs["pixels"], self.queries)
        # What becomes of the queries is done in full precision whatever the network's.
        with torch.autocast(inputs["pixels"][0].device.type, enabled=False):
            return [
                self.photo(Queries(*map(Tensor.float, one)), real_share(pixels, one.masks, size.tolist()))
                for one, pixels, size in zip(of_photos, inputs["pixels"], inputs["photo"], strict=True)
            ]

    def queries(self, pixels: Tensor) -> list[Queries]:
        """Of photos of one size, [b, 3, H, W] uint8."""
        queries = []
        for part in pixels.split(self.at_once):
            made = self.network(pixel_values=self.normalized(part), **self.extra_inputs(len(part)))
            queries += [Queries(*one) for one in zip(made.class_queries_logits, made.masks_queries_logits, strict=True)]
        return queries

    def extra_inputs(self, photos: int) -> dict[str, Tensor]:
        """What the network is given beside the pixels of so many photos."""
        return {}

    def photo(self, queries: Queries, real: tuple[float, float]) -> Segmented:
        """Of one photo; `real` are the shares of height and width of the masks that are not padding."""
        probabilities = queries.classes.softmax(dim=-1)[:, self.order]
        masks = mask_probabilities(queries.masks, real)
        kept = candidates(probabilities, masks, score_threshold=self.score_threshold)
        panoptic = merged_segments(kept, overlap_threshold=self.overlap_threshold, stuff=self.stuff)
        return Segmented(panoptic, query_shares(probabilities, masks))


def class_names(config: PreTrainedConfig, weights: str) -> list[str]:
    """The classes of a model in its own order; those without a name differ from other models' by their weights."""
    count = int(config.num_labels or 0)
    if count > VOID:
        raise DataError(f"{count} classes; the map counts them in 8 bits and keeps {VOID} for void: {VOID} at most")
    known: Any = config.id2label or {}
    names = [str(known.get(number, f"{UNNAMED}{number}")) for number in range(count)]
    return [f"{name} of {weights[:12]}" if name.startswith(UNNAMED) else name for name in names]


def stuff_of(names: Sequence[str]) -> frozenset[int]:
    """The classes of a table whose segments are one: known of COCO's alone, none of others."""
    if tuple(names) != COCO_PANOPTIC:
        return frozenset()
    return frozenset(range(len(COCO_PANOPTIC) - len(COCO_STUFF), len(COCO_PANOPTIC)))


def real_share(pixels: Tensor, masks: Tensor, photo: Sequence[int]) -> tuple[float, float]:
    """The shares of the masks' height and width that the photo has; networks pad to whole cells by themselves.

    pixels: [3, H, W]; masks: [Q, h, w], each cell of `ceil(H / h)` pixels; photo: its height and width in the pixels.
    """
    sides = zip(photo, pixels.shape[1:], masks.shape[1:], strict=True)
    height, width = (size / (math.ceil(whole / cells) * cells) for size, whole, cells in sides)
    return height, width


TASK = "the task is panoptic"  # the words of its training
VOCABULARY = ("vocab.json", "merges.txt")  # of its tokenizer, CLIP's


class OneFormerSegmentation(PanopticSegmentation):
    """OneFormer as `PanopticSegmentation`; the folder must hold its tokenizer too (vocab.json, merges.txt)."""

    families = ("oneformer",)

    def prepared_by(self, config: PreTrainedConfig) -> Any:
        """Tokenizes the task, and gives the image processor without its class table.

        That table would be fetched from another repository of the hub, and serves training alone.
        """
        missing = [file for file in VOCABULARY if not (self.folder / file).is_file()]
        if missing:  # transformers would go on with an empty vocabulary
            raise DataError(f"{self.folder}: {', '.join(missing)} missing, the tokenizer of OneFormer's task")
        try:
            with quietly():
                words = CLIPTokenizer.from_pretrained(self.folder)
                processor = OneFormerImageProcessorPil.from_pretrained(self.folder, class_info_file=None)
        except (OSError, ValueError, TypeError) as reason:
            raise DataError(
                f"{self.folder}: no tokenizer ({', '.join(VOCABULARY)}) and image processor of OneFormer: {reason}"
            ) from reason
        length = config.task_seq_len  # pyright: ignore[reportAttributeAccessIssue]
        task = words(TASK, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        self.task: Tensor  # [1, length] int64, zeros after the words, as in its training
        self.register_buffer("task", torch.as_tensor(task["input_ids"] * task["attention_mask"]), persistent=False)
        return processor

    def extra_inputs(self, photos: int) -> dict[str, Tensor]:
        return {"task_inputs": self.task.expand(photos, -1)}


class EomtSegmentation(PanopticSegmentation):
    """EoMT as `PanopticSegmentation`: photos are padded below and right; the padding is cut off before the merge."""

    families = ("eomt", "eomt_dinov3")
    # split: into overlapping squares, which is for semantic segmentation
    unpadded = MappingProxyType({"do_pad": False, "do_split_image": False})

    def padded(self, pixels: Tensor) -> Tensor:
        """The pixels, black below and right up to the processor's square."""
        size = self.processor.size
        height, width = size.shortest_edge, size.longest_edge or size.shortest_edge  # as the library reads it
        below, right = max(height - pixels.shape[1], 0), max(width - pixels.shape[2], 0)
        return functional.pad(pixels, (0, right, 0, below))
