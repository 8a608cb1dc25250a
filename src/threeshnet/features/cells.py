"""A feature map as the cells of a grid."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

from threeshnet.errors import ConfigError

Cells = int | Literal["native"]


def checked_cells(cells: Cells) -> Cells:
    """The setting `cells`; ConfigError for one that cannot be."""
    if cells == "native" or (isinstance(cells, int) and cells >= 1):
        return cells
    raise ConfigError(f"cells={cells!r}: the grid has so many cells a side (7, 14, …), or native for the map's own")


def as_cells(feature_map: Tensor, cells: Cells) -> Tensor:
    """A feature map [B, D, H, W] to row-major cells [B, cells*cells, D] float32: means over the area of each cell."""
    pooled = feature_map.float()
    if cells != "native":
        pooled = functional.adaptive_avg_pool2d(pooled, cells)
    return pooled.flatten(2).transpose(1, 2)
