"""Grids of two networks side by side: each cell has the channels of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from threeshnet.errors import ConfigError
from threeshnet.features.extractor import Extractor
from threeshnet.records import ImageArrays, Photo


class SideBySide(Extractor):
    """The cells of `first` and of `second`, concatenated.  Raises ConfigError for grids of two sizes."""

    able = ("grid",)

    def __init__(self, *, first: Extractor, second: Extractor, fields: Sequence[str] | None = None) -> None:
        super().__init__(fields=fields)
        if first.grid_size != second.grid_size:
            sizes = f"{first.grid_size} cells, and {second.name} of {second.grid_size}"
            raise ConfigError(f"{first.name} has a grid of {sizes}")
        parts = first.only(self.able), second.only(self.able)
        self.parts: Any = nn.ModuleList(parts)
        self.name, self.weights = ("+".join(getattr(part, key) for part in parts) for key in ("name", "weights"))
        self.options = dict(zip(("first", "second"), (part.identity()["options"] for part in parts), strict=True))
        self.small, self.grid_size = all(part.small for part in parts), first.grid_size

    def identity(self) -> dict[str, str]:
        versions = "+".join(str(part.version) for part in self.parts)
        return super().identity() | {"version": versions}

    def load(self, photo: Photo, image: Image.Image | None) -> dict[str, Any]:
        return {str(number): part.load(photo, image) for number, part in enumerate(self.parts)}

    def collate(self, loaded: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            str(number): part.collate([item[str(number)] for item in loaded]) for number, part in enumerate(self.parts)
        }

    def forward(self, inputs: Mapping[str, Any]) -> ImageArrays:
        grids: list[Any] = [part(inputs[str(number)]).grid for number, part in enumerate(self.parts)]
        return ImageArrays(grid=np.concatenate(grids, axis=-1))
