"""Sinusoidal codes of positions (Vaswani et al., 2017, section 3.5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoidal(length: int, width: int) -> Tensor:
    """Codes of positions 0 … length-1, [length, width]: sines in the even columns, cosines in the odd ones.

    Raises ValueError when `width` is odd.
    """
    if width % 2:
        raise ValueError(f"width={width}: sines and cosines come in pairs, so the width must be even")
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angle = torch.arange(length).unsqueeze(1) * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(length, width)


def rows_and_columns(side: int, width: int) -> Tensor:
    """Codes of the cells of a square map, [width, side, side]: half of the channels say the row, half the column.

    The slowest pair makes half a turn across the map, so that its cosine falls from one edge to the other; each next
    pair is four times as quick.  Raises ValueError when `width` is no multiple of 4.
    """
    if width % 4:
        raise ValueError(f"width={width}: sines and cosines of rows and of columns, so it must be a multiple of 4")
    turns = math.pi * 4.0 ** torch.arange(width // 4)
    angle = ((torch.arange(side) + 0.5) / side).unsqueeze(0) * turns.unsqueeze(1)  # at the middle of the cells
    codes = torch.stack([angle.sin(), angle.cos()], dim=1).reshape(width // 2, side)
    return torch.cat([codes.unsqueeze(2).expand(-1, -1, side), codes.unsqueeze(1).expand(-1, side, -1)])
