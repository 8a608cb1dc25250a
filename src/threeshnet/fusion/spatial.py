"""VSpM: every token attends over the cells of the segmentation map (3SHNet, arXiv 2404.17273, section 3.3).

The map becomes 4096 place vectors of 128 channels, one for each cell. The plain form is a 9-channel convolution and
three tensors of B x 128 x 64 x 64 numbers for BatchNorm, ReLU and attention: 1.6 GB at B 256. Three facts save this
memory without changing the result:
- 8 of the 9 input channels are equal for all photos, so their part of the convolution is computed once a step.
- The convolution is affine in the 9 neighbour values of a cell. So the batch statistics of its 128 outputs follow from
  the first and second moments of those values, in float64.
- After BatchNorm the place vectors of a photo depend on no other photo. So `place_attention` computes them a few photos
  at a time, and again for the gradient, instead of keeping them.
`tests/stages/test_fusion.py` compares it with the plain form.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from threeshnet.fusion.place_attention import attend_places
from threeshnet.nn.masking import zero_padding
from threeshnet.nn.mlp import MLP
from threeshnet.nn.positions import sinusoidal
from threeshnet.records import MAP_SIDE, VOID, ImageBatch, TokenSet

PLACE_WIDTH = 128  # channels of a place vector; fixed in the authors' implementation, for every D
POSITION_WIDTH = 8  # sinusoidal channels beside the class number
CHUNK_ON_CPU, CHUNK_ELSEWHERE = 4, 64  # photos: 8 MB of places, and 134 MB
SHARPNESS = 4.0  # multiplies the scaled scores before the softmax


class PlaceEncoder(nn.Module):
    """`seg/map` [B, 64, 64] -> place vectors [B, 4096, 128]: Conv3x3 over class number and position, BatchNorm, ReLU.

    Positions count the cells from 0 to 4095, row by row, as in the paper.
    """

    positions: Tensor

    def __init__(self, *, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.conv = nn.Conv2d(1 + POSITION_WIDTH, PLACE_WIDTH, kernel_size=3, padding=1)
        self.norm = nn.BatchNorm2d(PLACE_WIDTH)
        codes = sinusoidal(MAP_SIDE * MAP_SIDE, POSITION_WIDTH).T.reshape(1, POSITION_WIDTH, MAP_SIDE, MAP_SIDE)
        self.register_buffer("positions", codes, persistent=False)

    def neighbours(self, seg_map: Tensor) -> Tensor:
        """Class numbers in the 3x3 neighbourhood of every cell, [B, 4096, 9]; void is C, and the border is 0."""
        numbers = seg_map.to(self.conv.weight.dtype)
        numbers = torch.where(numbers == VOID, float(self.classes), numbers)
        return F.unfold(numbers.unsqueeze(1), kernel_size=3, padding=1).transpose(1, 2).contiguous()

    def affine(self, neighbours: Tensor) -> tuple[Tensor, Tensor]:
        """(slope [9, 128], shift [4096, 128]) with places = ReLU(neighbours @ slope + shift), BatchNorm included."""
        weight = self.conv.weight
        slope = weight[:, :-POSITION_WIDTH].reshape(PLACE_WIDTH, -1).T
        shared = F.conv2d(self.positions, weight[:, -POSITION_WIDTH:], self.conv.bias, padding=1)
        shift = shared.reshape(PLACE_WIDTH, -1).T.contiguous()
        mean, variance = self._statistics(neighbours, slope, shift)
        factor = self.norm.weight * torch.rsqrt(variance + self.norm.eps)
        return slope * factor, (shift - mean) * factor + self.norm.bias

    def forward(self, seg_map: Tensor) -> Tensor:
        neighbours = self.neighbours(seg_map)
        slope, shift = self.affine(neighbours)
        return (neighbours @ slope + shift).relu()

    def _statistics(self, neighbours: Tensor, slope: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        if not self.training:
            return norm.running_mean, norm.running_var
        # Class numbers reach 133 and their squares cancel: float64.
        mean, variance = batch_statistics(neighbours.double(), slope, shift)
        count = neighbours.shape[0] * neighbours.shape[1]
        with torch.no_grad():  # as nn.BatchNorm2d does: the running variance is the unbiased one
            norm.running_mean.lerp_(mean.to(norm.running_mean), norm.momentum or 0.0)
            norm.running_var.lerp_((variance * count / (count - 1)).to(norm.running_var), norm.momentum or 0.0)
            norm.num_batches_tracked.add_(1)
        return mean, variance


def batch_statistics(neighbours: Tensor, slope: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [128] of neighbours [B, P, 9] @ slope [9, 128] + shift [P, 128], over B and P.

    Moments of the neighbours are computed in their dtype, and the rest in float64.
    """
    place_mean = neighbours.mean(dim=0)  # [P, 9]
    centre = place_mean.mean(dim=0)
    flat = neighbours.reshape(-1, neighbours.shape[-1]) - centre
    spread = (flat.T @ flat / flat.shape[0]).double()  # [9, 9]
    place_mean, centre = place_mean.double(), centre.double()
    wide, offset = slope.double(), shift.double()
    offset_mean = offset.mean(dim=0)
    offset = offset - offset_mean
    shared = (place_mean - centre).T @ offset / offset.shape[0]  # [9, 128]
    variance = ((spread @ wide) * wide).sum(0) + 2 * (wide * shared).sum(0) + offset.square().mean(0)
    return (centre @ wide + offset_mean).to(slope), variance.to(slope)


class SpatialFusion(nn.Module):
    """Attention of each token over the 4096 cells of the segmentation map; place vectors are keys and values.

    `images_per_chunk` photos are processed at a time, which changes speed and memory but not the result. None is 4 on
    CPUs, to stay in the cache, and 64 elsewhere, where every kernel call costs.
    """

    def __init__(self, *, classes: int, dim: int, images_per_chunk: int | None = None) -> None:
        super().__init__()
        self.query = MLP(width=dim, hidden=dim // 2, out=PLACE_WIDTH)
        self.places = PlaceEncoder(classes=classes)
        self.out = MLP(width=PLACE_WIDTH, hidden=dim // 2, out=dim)
        self.images_per_chunk = images_per_chunk
        self.scale = SHARPNESS / math.sqrt(PLACE_WIDTH)

    def forward(self, tokens: TokenSet, images: ImageBatch) -> Tensor:
        """Projected tokens [B, N, D] and `seg_map` -> spatial part of the fused tokens [B, N, D]."""
        assert images.seg_map is not None, "VSpM needs seg/map"
        query = self.query(tokens.values)
        neighbours = self.places.neighbours(images.seg_map)
        slope, shift = self.places.affine(neighbours)
        chunk = self.images_per_chunk or (CHUNK_ON_CPU if query.device.type == "cpu" else CHUNK_ELSEWHERE)
        context = attend_places(query * self.scale, neighbours, slope, shift, chunk)
        return self.out(zero_padding(context, tokens.mask) + query)

    def attention(self, tokens: TokenSet, images: ImageBatch) -> Tensor:
        """The attention of every token over the cells of the map, [B, N, 4096], for pictures."""
        assert images.seg_map is not None, "VSpM needs seg/map"
        scores = self.query(tokens.values) @ self.places(images.seg_map).transpose(1, 2)
        return (self.scale * scores).softmax(dim=-1)
