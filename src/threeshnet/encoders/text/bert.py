"""BERT as the text side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from threeshnet.nn.masking import unit
from threeshnet.nn.mlp import MLP
from threeshnet.records import TokenSet


class BertTextEncoder(nn.Module):
    """BERT, Linear to D, pooling over all wordpieces, unit length.

    `bert` is a transformers `BertModel` (its pooler is not used). It is run on `length_groups` parts of the batch,
    short sentences first: a batch of captions is half padding, and BERT's work grows with the padded length.
    """

    def __init__(
        self,
        *,
        bert: BertModel,
        dim: int,
        pooling: nn.Module,
        pretrained: bool,
        length_groups: int = 4,
        residual: bool = False,
    ) -> None:
        """`pretrained`: the BERT arrives trained, and learns at the lower rate.

        `residual` adds an MLP of the BERT's tokens to the linear map of them, as the image side does with its own. Its
        BatchNorm looks at real wordpieces only.
        """
        super().__init__()
        self.bert = bert
        self.pretrained = pretrained
        self.length_groups = length_groups
        width = bert.config.hidden_size
        self.linear = nn.Linear(width, dim)
        self.residual = MLP(width=width, hidden=dim // 2, out=dim, real_rows=True) if residual else None
        self.pooling = pooling

    def forward(self, captions: TokenSet) -> Tensor:
        """Wordpiece ids [B, N] -> embeddings [B, D]."""
        order = captions.lengths.argsort(stable=True)
        parts = [self._hidden(captions, rows) for rows in order.tensor_split(self.length_groups) if len(rows)]
        hidden = torch.cat(parts)[order.argsort()]
        tokens = self.linear(hidden)
        if self.residual is not None:
            tokens = tokens + self.residual(hidden, captions.mask)
        return unit(self.pooling(TokenSet(tokens, captions.mask)))

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
