"""Grids of two networks side by side: each cell has the channels of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from threeshnet.errors import ConfigError
from threeshnet.features.composite import Composite
from threeshnet.features.extractor import Extractor
from threeshnet.records import ImageArrays


class SideBySide(Composite):
    """The cells of `first` and of `second`, concatenated.  Raises ConfigError for grids of two sizes.

    For three networks, one of the two is a `SideBySide`.
    """

    able = ("grid",)

    def __init__(self, *, first: Extractor, second: Extractor, fields: Sequence[str] | None = None) -> None:
        if first.grid_size != second.grid_size:
            sizes = f"{first.grid_size} cells, and {second.name} of {second.grid_size}"
            raise ConfigError(f"{first.name} has a grid of {sizes}")
        super().__init__(parts={"first": first.only(self.able), "second": second.only(self.able)}, fields=fields)
        self.grid_size = first.grid_size

    def forward(self, inputs: Mapping[str, Any]) -> ImageArrays:
        grids: list[Any] = [part(inputs[key]).grid for key, part in self.parts.items()]
        return ImageArrays(grid=np.concatenate(grids, axis=-1))
