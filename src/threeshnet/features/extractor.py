"""What an extractor is: from a photo to region, grid or segmentation arrays.

To add one: a subclass in a file of its own and `conf/extractor/<name>.yaml` (or `conf/segmentation/<name>.yaml` for
one that only segments) with its `_target_`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from threeshnet.errors import ConfigError, Problems, one_of
from threeshnet.records import AnnotatedSet, ImageArrays, Photo

FIELDS = ("region", "grid", "seg")
PARTS = {  # arrays of ImageArrays that make up a field
    "region": ("regions", "boxes", "scores", "labels"),
    "grid": ("grid",),
    "seg": ("seg_semantic", "seg_map", "seg_categories"),
}


class Extractor(nn.Module):
    """Base of the extractors. `load` runs in the loading processes, `forward` on the device.

    `name`, `version` (raised when the same weights give other arrays), `weights` (sha256 or a seed) and `options`
    identify what was made; `able` are the fields it can give, `fields` those it is asked for; `grid_size` is H, W of
    its grid and `class_names` the table of its segmentation (without names for published arrays that have no table).
    `label_names` is the table of its regions' labels, for a detector.
    """

    name = "extractor"
    version = 1
    able: tuple[str, ...] = FIELDS
    needs_pixels = True
    small = False  # several processes of one thread are faster than one of several threads, and memory suffices
    recipe: Mapping[str, Any]  # `_target_` and arguments; empty where an argument is no plain value

    def __new__(cls, *_: Any, **options: Any) -> Self:
        """Keep the recipe, which goes into manifests and checkpoints."""
        made = super().__new__(cls)
        try:
            recipe = {"_target_": f"{cls.__module__}.{cls.__qualname__}", **plain(options)}
        except TypeError:
            recipe = {}
        object.__setattr__(made, "recipe", recipe)
        return made

    def __init__(self, *, fields: Sequence[str] | None = None) -> None:
        super().__init__()
        self.fields: tuple[str, ...] = self.able if fields is None else checked_fields(fields, self.able, self.name)
        self.grid_size: tuple[int, int] | None = None
        self.class_names: tuple[str, ...] = ()
        self.label_names: tuple[str, ...] = ()
        self.weights = ""
        self.options: dict[str, Any] = {}

    def identity(self) -> dict[str, str]:
        """What the manifest says of the maker of a field; equal identities give equal arrays."""
        options = " ".join(f"{key}={value}" for key, value in sorted(self.options.items()))
        return {"name": self.name, "version": str(self.version), "weights": self.weights, "options": options}

    def tables(self) -> dict[str, tuple[str, ...]]:
        """The class names of the chosen fields: the classes of `seg`, the labels of `region`."""
        named = {"seg": self.class_names, "region": self.label_names}
        return {field: table for field, table in named.items() if field in self.fields}

    def prepare(self, annotated: AnnotatedSet) -> Extractor | None:
        """Called with the photos before the first is loaded. Returns the extractor to use, or None."""
        return self

    def only(self, fields: Sequence[str]) -> Self:
        """This extractor, limited to these fields."""
        self.fields = tuple(name for name in self.fields if name in fields)
        return self

    def load(self, photo: Photo, image: Image.Image | None) -> dict[str, Tensor]:
        """What `forward` needs of one photo; `image` is RGB and upright, None when no source needs pixels."""
        raise NotImplementedError

    def collate(self, loaded: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        """What `load` gave for each photo of a batch, in the form that `forward` takes: here, stacked."""
        return {key: torch.stack([item[key] for item in loaded]) for key in loaded[0]}

    def forward(self, inputs: Mapping[str, Any]) -> ImageArrays:
        """Arrays of a batch, from what `collate` made (uint8 pixels [B, H, W, 3] for most)."""
        raise NotImplementedError


def plain(value: Any) -> Any:
    """A value as texts, numbers, lists and dictionaries; TypeError where that loses something."""
    if isinstance(value, Extractor):
        return dict(value.recipe)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, int | float | str | bool | None):
        return value
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} is no plain value")


def checked_fields(fields: Sequence[str], able: Sequence[str], name: str) -> tuple[str, ...]:
    """The fields in their fixed order; ConfigError for one that the extractor does not give."""
    problems = Problems(f"fields of extractor {name!r}")
    problems.extend(one_of("fields", field, able) for field in fields if field not in able)
    problems.raise_as(ConfigError, "choose among them, or another extractor")
    return tuple(field for field in FIELDS if field in fields)


def pixels(image: Image.Image | None, side: int) -> Tensor:
    """A photo squashed to a square, [side, side, 3] uint8."""
    assert image is not None
    square = image if image.size == (side, side) else image.resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square))


def as_input(batch: Tensor) -> Tensor:
    """[B, H, W, 3] uint8 to [B, 3, H, W] float in [-1, 1], its memory already channels-last."""
    return (batch.float() / 127.5 - 1).permute(0, 3, 1, 2)


def merged(parts: Sequence[tuple[Extractor, ImageArrays]]) -> ImageArrays:
    """One record out of what several sources made, each giving its `fields`."""
    named = [(name, made) for source, made in parts for field in source.fields for name in PARTS[field]]
    return ImageArrays(**{name: getattr(made, name) for name, made in named})


def half(values: Tensor) -> np.ndarray:
    """The same numbers in float16 on the CPU, the type that our extractors write."""
    return values.to(torch.float16).cpu().numpy()
