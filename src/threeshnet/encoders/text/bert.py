"""The BERT text encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertModel

from threeshnet.errors import ConfigError
from threeshnet.nn.masking import unit
from threeshnet.records import TokenSet

MOST_LAYERS = 1000
LENGTH_GROUPS = 4  # of a batch, each padded to its own longest sentence


class BertTextEncoder(nn.Module):
    """BERT, Linear to D, pooling over all wordpieces, unit length.

    `bert` is a transformers `BertModel` (its pooler is not used). It runs on `LENGTH_GROUPS` parts of the batch,
    short sentences first: a batch of captions is half padding, and BERT's cost grows with the padded length.
    """

    def __init__(
        self, *, bert: BertModel, dim: int, pooling: nn.Module, pretrained: bool, dropout: float | None = None
    ) -> None:
        """A `pretrained` BERT learns at the lower rate (`optimization.pretrained_factor`).

        `dropout` is the share of BERT's neurons that a training step leaves out, None what its architecture says (0.1
        for BERT and MiniLM). Raises ConfigError for no share.
        """
        super().__init__()
        if dropout is not None:
            set_dropout(bert, dropout)
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
        """The module that learns at the lower rate; None if the BERT is not pre-trained."""
        return self.bert if self.pretrained else None

    def self_contained(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """The recipe of this encoder for a checkpoint: the BERT's architecture replaces its name."""
        builder = "threeshnet.encoders.text.bert.from_architecture"
        return {**recipe, "bert": {"_target_": builder, **self.bert.config.to_diff_dict()}}

    def _hidden(self, captions: TokenSet, rows: Tensor) -> Tensor:
        """BERT's last hidden states of the sentences `rows`, [b, N, width]; computed at the length of the longest."""
        longest = int(captions.lengths[rows].max())
        ids, mask = captions.values[rows, :longest], captions.mask[rows, :longest]
        hidden = self.bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return F.pad(hidden, (0, 0, 0, captions.values.shape[1] - longest))


def set_dropout(network: nn.Module, share: float) -> None:
    """Every dropout of `network` leaves out `share`.  Raises ConfigError for no share."""
    if not 0 <= share < 1:
        raise ConfigError(f"text_dropout={share} must be at least 0 and below 1, or null")
    for each in network.modules():
        if isinstance(each, nn.Dropout):
            each.p = share


def from_architecture(**architecture: Any) -> BertModel:
    """A BERT with random weights; the keywords are those of transformers' `BertConfig`.

    Raises ConfigError for more layers than any has: building them, even without numbers, would not end.
    """
    layers = architecture.get("num_hidden_layers")
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise ConfigError(f"num_hidden_layers={layers}: {MOST_LAYERS} is the most")
    return BertModel(BertConfig(**architecture), add_pooling_layer=False)
