"""3SHNet with BERT, written out plainly: section by section of the paper, and nothing made fast.

The guidance is a 2-D convolution and a softmax over whole tensors, GPO runs its GRU on every row of the batch, and BERT
reads the batch as it is padded. It is what `threeshnet` is timed against, and takes the weights of its model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from threeshnet.records import Batch, ImageBatch, TokenSet

VOID = 255

# module of the twin -> module of threeshnet's image encoder (of one branch, for a hybrid model)
OF_IMAGES = {
    "project": "project.linear",
    "local": "project.mlp",
    "summary": "parts.fused.fusions.semantic.summary",
    "semantic_query": "parts.fused.fusions.semantic.query",
    "semantic_key": "parts.fused.fusions.semantic.key",
    "semantic_gate": "parts.fused.fusions.semantic.gate",
    "semantic_out": "parts.fused.fusions.semantic.out",
    "spatial_query": "parts.fused.fusions.spatial.query",
    "spatial_conv": "parts.fused.fusions.spatial.places.conv",
    "spatial_norm": "parts.fused.fusions.spatial.places.norm",
    "spatial_out": "parts.fused.fusions.spatial.out",
    "fused": "parts.fused.mlp",
    "scene_embed": "parts.scene.embed",
    "scene": "parts.scene.mlp",
    "category": "parts.category.embed",
    "pooling": "pooling",
}
OF_TEXTS = {"bert": "bert", "project": "linear", "pooling": "pooling"}


class MLP(nn.Module):
    """Linear, BatchNorm over all rows, ReLU, Linear."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.enter, self.norm, self.leave = nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        rows = F.relu(self.norm(self.enter(x.reshape(-1, x.shape[-1]))))
        return self.leave(rows).reshape(*x.shape[:-1], -1)


class LNEmbed(nn.Module):
    """Linear, ReLU, Dropout, LayerNorm."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.embed, self.dropout, self.norm = nn.Linear(width, dim), nn.Dropout(0.1), nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.dropout(F.relu(self.embed(x))))


class GPO(nn.Module):
    """Weights of the sorted values from a BiGRU over position codes, run for every row of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(32, 32, batch_first=True, bidirectional=True)
        self.score = nn.Linear(32, 1, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum(dim=1)
        codes = sinusoidal(x.shape[1], 32).unsqueeze(0).repeat(x.shape[0], 1, 1)
        packed = pack_padded_sequence(codes, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])
        states = (states[..., :32] + states[..., 32:]) / 2
        inside = torch.arange(x.shape[1]).unsqueeze(0) < lengths.unsqueeze(1)
        scores = self.score(states).squeeze(-1).masked_fill(~inside, -10000)
        weights = torch.softmax(scores / 0.1, dim=1)
        ordered = x.masked_fill(~mask.unsqueeze(-1), -10000).sort(dim=1, descending=True)[0]
        ordered = ordered.masked_fill(~inside.unsqueeze(-1), 0)
        return (ordered * weights.unsqueeze(-1)).sum(dim=1)


class NaiveImages(nn.Module):
    """Regions or grid cells with their segmentation in, unit vectors out."""

    def __init__(self, *, width: int, dim: int, classes: int) -> None:
        super().__init__()
        self.dim, self.classes = dim, classes
        self.project, self.local = nn.Linear(width, dim), MLP(width, dim // 2, dim)
        self.summary = LNEmbed(classes, dim)
        self.semantic_query, self.semantic_key = MLP(dim, dim // 2, dim), MLP(dim, dim // 2, dim)
        self.semantic_gate, self.semantic_out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.spatial_query = MLP(dim, dim // 2, 128)
        self.spatial_conv, self.spatial_norm = nn.Conv2d(9, 128, 3, padding=1), nn.BatchNorm2d(128)
        self.spatial_out = MLP(128, dim // 2, dim)
        self.fused = MLP(dim, dim // 2, dim)
        self.scene_embed, self.scene = LNEmbed(classes, dim), MLP(dim, dim // 2, dim)
        self.category = LNEmbed(classes, dim)
        self.pooling = GPO()

    def forward(self, tokens: TokenSet, seg: Any) -> Tensor:
        features, mask = tokens
        p = self.project(features)
        f = self.local(features) + p
        h = self.fused(self.what(p, mask, seg.seg_semantic) + self.where(p, mask, seg.seg_map) + f)
        e = self.scene_embed(seg.seg_semantic.flatten(2).transpose(1, 2))
        s = self.scene(e) + e
        c = self.category(seg.seg_categories).unsqueeze(1)
        always = torch.ones(len(mask), s.shape[1], dtype=torch.bool)
        pooled = torch.cat([c, f, h, s], dim=1)
        return F.normalize(self.pooling(pooled, torch.cat([always[:, :1], mask, mask, always], dim=1)), dim=-1)

    def what(self, p: Tensor, mask: Tensor, semantic: Tensor) -> Tensor:
        """VSeM."""
        e = self.summary(semantic.mean(dim=(2, 3)))
        q = self.semantic_query(e) + e
        k = self.semantic_key(p) + p
        a = torch.sigmoid((k * q.unsqueeze(1)).sum(dim=-1) / math.sqrt(self.dim))
        u = a.unsqueeze(-1) * k
        gated = (u * torch.tanh(self.semantic_gate(u)) + q.unsqueeze(1)) * mask.unsqueeze(-1)
        return F.relu(self.semantic_out(gated))

    def where(self, p: Tensor, mask: Tensor, seg_map: Tensor) -> Tensor:
        """VSpM."""
        r = self.spatial_query(p)
        numbers = torch.where(seg_map == VOID, float(self.classes), seg_map.float()).unsqueeze(1)
        positions = sinusoidal(64 * 64, 8).T.reshape(1, 8, 64, 64).repeat(len(numbers), 1, 1, 1)
        places = self.spatial_norm(self.spatial_conv(torch.cat([numbers, positions], dim=1)))
        places = F.relu(places).flatten(2).transpose(1, 2)  # [B, 4096, 128]
        attention = torch.softmax(4 * r @ places.transpose(1, 2) / math.sqrt(128), dim=-1)
        context = (attention @ places) * mask.unsqueeze(-1)
        return self.spatial_out(context + r)


class NaiveTexts(nn.Module):
    """Wordpiece ids in, unit vectors out."""

    def __init__(self, *, bert: Any, dim: int) -> None:
        super().__init__()
        self.bert, self.project, self.pooling = bert, nn.Linear(bert.config.hidden_size, dim), GPO()

    def forward(self, captions: TokenSet) -> Tensor:
        ids, mask = captions
        hidden = self.bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return F.normalize(self.pooling(self.project(hidden), mask), dim=-1)


class NaiveTwin(nn.Module):
    """Both sides; `widths` are those of the tokens of each branch, by field of `ImageBatch`."""

    def __init__(self, *, bert: nn.Module, widths: Mapping[str, int], dim: int, classes: int) -> None:
        super().__init__()
        branches = {source: NaiveImages(width=width, dim=dim, classes=classes) for source, width in widths.items()}
        self.images, self.texts = nn.ModuleDict(branches), NaiveTexts(bert=bert, dim=dim)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.encode_images(batch.images), self.texts(batch.captions)

    def encode_images(self, images: ImageBatch) -> Tensor:
        branches = [branch(getattr(images, source), images) for source, branch in self.images.items()]
        return F.normalize(torch.stack(branches).sum(dim=0), dim=-1)

    def take_weights(self, model: nn.Module) -> None:
        """The weights and buffers of threeshnet's model, every one of them."""
        branches = getattr(model.image_encoder, "branches", {"": model.image_encoder})
        places = {f"texts.{ours}": f"text_encoder.{theirs}" for ours, theirs in OF_TEXTS.items()}
        for name, branch in branches.items():
            prefix = f"image_encoder.branches.{name}." if name else "image_encoder."
            places |= {f"images.{branch.source}.{ours}": prefix + theirs for ours, theirs in OF_IMAGES.items()}
        theirs, taken = model.state_dict(), {}
        for ours, prefix in places.items():
            found = {key: value for key, value in theirs.items() if key.startswith(prefix + ".")}
            taken |= {ours + key.removeprefix(prefix): value for key, value in found.items()}
        assert len(taken) == len(theirs), "a weight of the model has no place in the twin"
        self.load_state_dict(taken)


def triplet_loss(images: Tensor, captions: Tensor, margin: float = 0.2) -> Tensor:
    """The hinge of the hardest negatives, summed over both directions."""
    scores = images @ captions.T
    true = scores.diag().view(-1, 1)
    pairs = torch.eye(len(scores), dtype=torch.bool)
    as_image_query = (margin + scores - true).clamp(min=0).masked_fill(pairs, 0)
    as_caption_query = (margin + scores - true.T).clamp(min=0).masked_fill(pairs, 0)
    return as_image_query.max(dim=1)[0].sum() + as_caption_query.max(dim=0)[0].sum()


def sinusoidal(length: int, width: int) -> Tensor:
    """Sines in the even columns, cosines in the odd ones."""
    codes = torch.zeros(length, width)
    position = torch.arange(length).unsqueeze(1)
    frequency = torch.exp(torch.arange(0, width, 2) * -(math.log(10000.0) / width))
    codes[:, 0::2], codes[:, 1::2] = torch.sin(position * frequency), torch.cos(position * frequency)
    return codes
