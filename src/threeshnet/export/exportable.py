"""Twins of modules that ONNX cannot express: the same weights, the same results in evaluation mode.

What stands in the way is sequences packed by length, a batch that is divided by its contents or as wide as its contents
ask for, and a custom backward.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from threeshnet.encoders.segments import SegmentTokens, all_classes
from threeshnet.encoders.text.bert import BertTextEncoder
from threeshnet.encoders.text.bigru import BiGRUTextEncoder
from threeshnet.fusion.spatial import PLACE_WIDTH, SpatialFusion
from threeshnet.nn.masking import unit, zero_padding
from threeshnet.pooling.generalized import GeneralizedPooling
from threeshnet.records import MAP_SIDE, VOID, ImageBatch, TokenSet

Twin = Callable[[nn.Module], nn.Module]


class TabledPooling(nn.Module):
    """GPO with its weights as a table: they depend on the number of real tokens alone, which is `most` or less."""

    table: Tensor

    def __init__(self, pooling: GeneralizedPooling, most: int) -> None:
        super().__init__()
        with torch.no_grad():
            self.register_buffer("table", pooling.weights(torch.arange(most + 1), most))  # [most + 1, most]

    def forward(self, tokens: TokenSet) -> Tensor:
        """[B, N, D] -> [B, D]."""
        real = tokens.mask.unsqueeze(-1)
        ordered = tokens.values.masked_fill(~real, float("-inf")).sort(dim=1, descending=True).values
        ordered = torch.where(ordered == float("-inf"), 0.0, ordered)
        weights = self.table[tokens.mask.sum(dim=1)][:, : ordered.shape[1]]
        return (ordered * weights.unsqueeze(-1)).sum(dim=1)


class WholeSpatial(nn.Module):
    """VSpM for all photos of a batch at once; BatchNorm is part of the convolution."""

    kernel: Tensor
    shift: Tensor

    def __init__(self, fusion: SpatialFusion) -> None:
        super().__init__()
        self.query, self.out, self.scale = fusion.query, fusion.out, fusion.scale
        self.void = float(fusion.places.classes)
        with torch.no_grad():  # in evaluation mode they depend on no photo
            slope, shift = fusion.places.affine(torch.zeros(1))
        self.register_buffer("kernel", slope.T.reshape(PLACE_WIDTH, 1, 3, 3).contiguous())
        self.register_buffer("shift", shift.T.reshape(PLACE_WIDTH, MAP_SIDE, MAP_SIDE).contiguous())

    def forward(self, tokens: TokenSet, images: ImageBatch) -> Tensor:
        """Projected tokens [B, N, D] and `seg_map` -> spatial part of the fused tokens [B, N, D]."""
        assert images.seg_map is not None, "VSpM needs seg/map"
        numbers = images.seg_map.to(self.kernel.dtype)
        numbers = torch.where(numbers == VOID, self.void, numbers).unsqueeze(1)
        places = (F.conv2d(numbers, self.kernel, padding=1) + self.shift).relu().flatten(2)  # [B, 128, 4096]
        query = self.query(tokens.values)
        context = (query * self.scale @ places).softmax(dim=-1) @ places.transpose(1, 2)
        return self.out(zero_padding(context, tokens.mask) + query)


class AllSegments(nn.Module):
    """A token for every class of the segmentation, those that a photo lacks masked."""

    def __init__(self, part: SegmentTokens) -> None:
        super().__init__()
        self.part = part

    def forward(self, local: TokenSet, projected: TokenSet, images: ImageBatch) -> TokenSet:
        assert images.seg_map is not None, "segment tokens need seg/map"
        return self.part.tokens(all_classes(images.seg_map, self.part.classes))


class WholeBert(nn.Module):
    """BERT in one pass over the padded batch."""

    def __init__(self, encoder: BertTextEncoder) -> None:
        super().__init__()
        self.bert, self.linear, self.pooling = encoder.bert, encoder.linear, encoder.pooling

    def forward(self, captions: TokenSet) -> Tensor:
        """Wordpiece ids [B, N] -> embeddings [B, D]."""
        # Four dimensions: transformers would else look into the mask to choose how to attend.
        bias = torch.where(captions.mask, 0.0, torch.finfo(torch.float32).min)[:, None, None, :]
        hidden = self.bert(input_ids=captions.values, attention_mask=bias).last_hidden_state
        return unit(self.pooling(TokenSet(self.linear(hidden), captions.mask)))


class TwoWayGRU(nn.Module):
    """The BiGRU text encoder as two one-way GRUs over padded sentences; the second reads each sentence mirrored."""

    def __init__(self, encoder: BiGRUTextEncoder) -> None:
        super().__init__()
        self.embedding, self.pooling = encoder.embedding, encoder.pooling
        self.ahead, self.back = _one_way(encoder.gru, ""), _one_way(encoder.gru, "_reverse")

    def forward(self, captions: TokenSet) -> Tensor:
        """Wordpiece ids [B, N] -> embeddings [B, D]."""
        words = self.embedding(captions.values)
        place = torch.arange(captions.values.shape[1], device=words.device).unsqueeze(0)
        last = captions.mask.sum(dim=1, keepdim=True) - 1
        mirror = torch.where(place <= last, last - place, place)  # [B, N]
        back = _at(self.back(_at(words, mirror))[0], mirror)
        return unit(self.pooling(TokenSet((self.ahead(words)[0] + back) / 2, captions.mask)))


def _at(values: Tensor, places: Tensor) -> Tensor:
    return values.gather(1, places.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def _one_way(gru: nn.GRU, suffix: str) -> nn.GRU:
    one = nn.GRU(gru.input_size, gru.hidden_size, batch_first=True)
    one.load_state_dict({name: getattr(gru, f"{name}{suffix}") for name in one.state_dict()})
    return one


def with_twins(module: nn.Module, most: dict[nn.Module, int]) -> nn.Module:
    """`module` with twins in place of what cannot be exported; all weights are shared, and `module` is unchanged.

    `most` are the largest sets of each `GeneralizedPooling` in it, in tokens; one that is not in it stays as it is.
    """
    if isinstance(module, GeneralizedPooling):
        return TabledPooling(module, most[module]) if module in most else module
    if isinstance(module, SegmentTokens):
        return AllSegments(module)
    if isinstance(module, SpatialFusion):
        return WholeSpatial(module)
    twin = copy.copy(module)
    twin._modules = {name: child and with_twins(child, most) for name, child in module._modules.items()}
    if isinstance(module, BertTextEncoder):
        return WholeBert(twin)  # pyright: ignore[reportArgumentType]
    if isinstance(module, BiGRUTextEncoder):
        return TwoWayGRU(twin)  # pyright: ignore[reportArgumentType]
    return twin
