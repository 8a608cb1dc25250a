"""BERT as the text side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from threeshnet.nn.masking import unit
from threeshnet.records import TokenSet

LENGTH_GROUPS = 4  # of a batch, each padded to its own longest sentence


class BertTextEncoder(nn.Module):
    """BERT, Linear to D, pooling over all wordpieces, unit length.

    `bert` is a transformers `BertModel` (its pooler is not used). It runs on `LENGTH_GROUPS` parts of the batch,
    short sentences first: a batch of captions is half padding, and BERT's work grows with the padded length.
    """

    def __init__(self, *, bert: BertModel, dim: int, pooling: nn.Module, pretrained: bool) -> None:
        """`pretrained`: the BERT arrives trained, and learns at the lower rate."""
        super().__init__()
        self.bert = bert
        self.pretrained = pretrained
        self.linear = nn.Linear(bert.config.hidden_size, dim)
        self.pooling = pooling

    def forward(self, captions: TokenSet) -> Tensor:
        """Wordpiece ids [B, N] -> embeddings [B, D]."""
        order = captions.lengths.argsort(stable=True)
        parts = [self._hidden(captions, rows) for rows in order.tensor_split(LENGTH_GROUPS) if len(rows)]
        hidden = torch.cat(parts)[order.argsort()]
        return unit(self.pooling(TokenSet(self.linear(hidden), captions.mask)))

    @property
    def pretrained_part(self) -> nn.Module | None:
        """What learns at the lower rate, if anything does."""
        return self.bert if self.pretrained else None

    def self_contained(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """The recipe of this encoder with the BERT's architecture where its name was: what a checkpoint keeps."""
        builder = "threeshnet.encoders.text.bert.from_architecture"
        return {**recipe, "bert": {"_target_": builder, **self.bert.config.to_diff_dict()}}

    def _hidden(self, captions: TokenSet, rows: Tensor) -> Tensor:
        """BERT's last states of some sentences, cut to the longest of them and padded back to [b, N, width]."""
        longest = int(captions.lengths[rows].max())
        ids, mask = captions.values[rows, :longest], captions.mask[rows, :longest]
        hidden = self.bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return F.pad(hidden, (0, 0, 0, captions.values.shape[1] - longest))


def from_architecture(**architecture: Any) -> BertModel:
    """A BERT with random weights; keywords as in transformers' `BertConfig`."""
    return BertModel(BertConfig(**architecture), add_pooling_layer=False)
