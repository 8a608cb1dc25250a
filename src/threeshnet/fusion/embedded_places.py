"""Places that know their class by a learned vector, where the paper gives the network the class's number.

Number 17 is no nearer to 18 than to 90: to a convolution it is, and which classes stand side by side in the table then
decides what can be told apart.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from threeshnet.fusion.spatial import PlaceEncoder
from threeshnet.records import VOID


class EmbeddedPlaces(PlaceEncoder):
    """`seg/map` [B, 64, 64] -> places [B, 4096, 128]: Conv3x3 over (class vector, 8 positions), BatchNorm, ReLU.

    `class_width` is the length of a class's vector; void has one of its own, and beyond the border there is none (0).
    """

    numbers_alone = False

    def __init__(self, *, classes: int, class_width: int = 8, rows_and_columns: bool = False) -> None:
        super().__init__(classes=classes, class_width=class_width, rows_and_columns=rows_and_columns)
        self.embedding = nn.Embedding(classes + 1, class_width)

    def neighbours(self, seg_map: Tensor) -> Tensor:
        """The 3x3 neighbourhood of every cell as class vectors, [B, 4096, class_width * 9], with their gradient."""
        numbers = seg_map.long()
        cells = self.embedding(torch.where(numbers == VOID, self.classes, numbers)).permute(0, 3, 1, 2)
        return F.unfold(cells, kernel_size=3, padding=1).transpose(1, 2).contiguous()
