"""Sinusoidal position codes (Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, section 3.5)."""

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
