"""The network of SSD-MobileNetV2: maps of six sizes, a box and class scores for each of their anchors.

Sources: Liu et al., SSD (ECCV 2016); Sandler et al., MobileNetV2 (CVPR 2018). Every number here is one of the constants
or strides of the published graph `ssd_mobilenet_v2_coco_2018_03_29`, and tested against them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from threeshnet.features.mobile import InvertedResidual, SameConv, State

SIDES = (19, 10, 5, 3, 2, 1)  # of the maps, for photos of 300 px
SCALES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95)  # of the anchors of each map, in sides of the photo
RATIOS = (1.0, 2.0, 0.5, 3.0, 0.3333)  # width to height
SMALLEST = ((0.1, 1.0), (0.2, 2.0), (0.2, 0.5))  # scale and ratio of the anchors of the first map, which has fewer
CODER = (10.0, 10.0, 5.0, 5.0)  # what the network's centre y, x, height, width are divided by
# COCO numbers its 80 classes from 1 to 90 and leaves these out; the network has a column for each, and for background.
UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
IDS = [number for number in range(1, 91) if number not in UNUSED_IDS]
COLUMNS = 91
BLOCKS, WIDENED = 17, 13  # inverted residual blocks, and the one whose expansion is the first map
HALVING = (1, 3, 6, 13)  # blocks with stride 2
EXTRA = (
    ("2_1x1_256", "2_3x3_s2_512"),
    ("3_1x1_128", "3_3x3_s2_256"),
    ("4_1x1_128", "4_3x3_s2_256"),
    ("5_1x1_64", "5_3x3_s2_128"),
)
PREFIX = "FeatureExtractor/MobilenetV2/"
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


class SsdNetwork(nn.Module):
    """Photos [B, 3, 300, 300] in [-1, 1] to boxes and class scores; `maps` alone is the backbone."""

    def __init__(self, constants: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        state = torch_state(constants)
        early = (block(state, number) for number in range(WIDENED))
        self.early = nn.Sequential(layer(state, "Conv", stride=2), *early)
        self.widen, *rest = steps(state, WIDENED)
        late = (block(state, number) for number in range(WIDENED + 1, BLOCKS))
        self.late = nn.Sequential(*rest, *late, layer(state, "Conv_1"))
        self.extra = nn.ModuleList(extra_layer(state, *names) for names in EXTRA)
        self.heads = nn.ModuleList(head(state, number) for number in range(len(SIDES)))
        self.anchors: Tensor
        self.register_buffer("anchors", anchors(), persistent=False)  # [K, 4] centre y, x, height, width
        self.requires_grad_(False).eval()

    def maps(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        """The maps of strides 16 and 32, [B, 576, 19, 19] and [B, 1280, 10, 10]; the second is the backbone's last."""
        wide = self.widen(self.early(photos))
        return wide, self.late(wide)

    def forward(self, wide: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """The two maps to boxes [B, K, 4], xyxy clamped to [0, 1], and logits [B, K, 80], float32."""
        maps = [wide, last]
        for smaller in self.extra:
            maps.append(smaller(maps[-1]))
        predicted = [
            made(values).permute(0, 2, 3, 1).reshape(len(values), -1, len(CODER) + len(IDS))
            for made, values in zip(self.heads, maps, strict=True)
        ]
        codes, logits = torch.cat(predicted, dim=1).float().split([len(CODER), len(IDS)], dim=2)
        return decoded(codes, self.anchors), logits


def torch_state(constants: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The weights in torch's form: `Conv/weights` [h, w, in, out] becomes `Conv.weight` [out, in, h, w]."""
    state = {}
    for name, values in constants.items():
        place, _, part = name.removeprefix(PREFIX).rpartition("/")
        if part == "weights":
            state[f"{place}.weight"] = torch.tensor(values).permute(3, 2, 0, 1)
        elif part == "depthwise_weights":  # [h, w, in, 1]
            state[f"{place}.weight"] = torch.tensor(values).permute(2, 3, 0, 1)
        elif part == "biases":
            state[f"{place}.bias"] = torch.tensor(values)
        elif part in NORM:
            state[f"{place}.{NORM[part]}"] = torch.tensor(values)
    return state


def layer(state: State, name: str, *, stride: int = 1, relu: bool = True) -> SameConv:
    return SameConv(state, name, f"{name}/BatchNorm", stride=stride, relu=relu)


def steps(state: State, number: int) -> list[SameConv]:
    """The convolutions of an inverted residual block; the first block does not expand."""
    name = f"expanded_conv_{number}" if number else "expanded_conv"
    widened = [layer(state, f"{name}/expand")] if number else []
    depthwise = layer(state, f"{name}/depthwise", stride=2 if number in HALVING else 1)
    return [*widened, depthwise, layer(state, f"{name}/project", relu=False)]


def block(state: State, number: int) -> InvertedResidual:
    return InvertedResidual(*steps(state, number))


def extra_layer(state: State, narrow: str, wide: str) -> nn.Sequential:
    """One map to the next, half its side."""
    halved = layer(state, f"layer_19_2_Conv2d_{wide}_depthwise", stride=2)
    return nn.Sequential(layer(state, f"layer_19_1_Conv2d_{narrow}"), halved, layer(state, f"layer_19_2_Conv2d_{wide}"))


def head(state: State, number: int) -> nn.Conv2d:
    """The two predictors of a map as one convolution: for each anchor the code of its box, then COCO's 80 classes."""
    weight, bias = (
        torch.cat([_box(state, number, part), _classes(state, number, part)], dim=1).flatten(0, 1)
        for part in ("weight", "bias")
    )
    conv = nn.Conv2d(weight.shape[1], len(weight), weight.shape[2], padding=weight.shape[2] // 2)
    conv.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
    conv.bias = nn.Parameter(bias)
    return conv


def _box(state: State, number: int, part: str) -> Tensor:
    return state[f"BoxPredictor_{number}/BoxEncodingPredictor.{part}"].unflatten(0, (-1, len(CODER)))


def _classes(state: State, number: int, part: str) -> Tensor:
    return state[f"BoxPredictor_{number}/ClassPredictor.{part}"].unflatten(0, (-1, COLUMNS))[:, IDS]


def anchors() -> Tensor:
    """The 1,917 anchors, [K, 4] centre y, x, height, width: cell by cell in rows, map by map."""
    made = []
    for number, side in enumerate(SIDES):
        shapes = torch.tensor(SMALLEST if number == 0 else _shapes(number), dtype=torch.float64)
        scale, root = shapes[:, 0], shapes[:, 1].sqrt()
        middle = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        centres = torch.stack([y, x], dim=-1)[:, :, None].expand(-1, -1, len(shapes), -1)
        sizes = torch.stack([scale / root, scale * root], dim=-1).expand(side, side, -1, -1)
        made.append(torch.cat([centres, sizes], dim=-1).flatten(0, 2))
    return torch.cat(made).float()


def _shapes(number: int) -> list[tuple[float, float]]:
    """Scale and ratio of the anchors of a map: all ratios, and a square between this map's scale and the next one's."""
    scale, following = (*SCALES, 1.0)[number : number + 2]
    return [*((scale, ratio) for ratio in RATIOS), ((scale * following) ** 0.5, 1.0)]


def decoded(codes: Tensor, anchors: Tensor) -> Tensor:
    """Codes [..., K, 4] of boxes, relative to anchors [K, 4] as centre y, x, height, width, to xyxy clamped to [0, 1].

    >>> decoded(torch.zeros(1, 4), torch.tensor([[0.5, 0.25, 1.0, 0.5]])).tolist()
    [[0.0, 0.0, 0.5, 1.0]]
    """
    scaled = codes / codes.new_tensor(CODER)
    centre = scaled[..., :2] * anchors[:, 2:] + anchors[:, :2]
    half = scaled[..., 2:].exp() * anchors[:, 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)[..., [1, 0, 3, 2]].clamp(0, 1)
