"""GPO: learned weights of the sorted values of a set (Chen et al., arXiv 2011.04305, CVPR 2021, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from threeshnet.nn.positions import sinusoidal
from threeshnet.records import TokenSet


class GeneralizedPooling(nn.Module):
    """Sorts each channel over the real tokens, descending, and takes a weighted sum with learned weights.

    The weights depend only on the number of tokens, so the GRU runs once for each distinct number in the batch.
    """

    def __init__(self, *, code_width: int = 32, hidden: int = 32, temperature: float = 0.1) -> None:
        super().__init__()
        self.code_width = code_width
        self.gru = nn.GRU(code_width, hidden, batch_first=True, bidirectional=True)
        self.score = nn.Linear(hidden, 1, bias=False)
        self.temperature = temperature

    def forward(self, tokens: TokenSet) -> Tensor:
        """[B, N, D] -> [B, D]. A set without real tokens gives 0."""
        channels = tokens.values.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        ordered = descending(channels.masked_fill_(~tokens.mask.unsqueeze(1), float("-inf")))  # [B, D, N]
        real = torch.arange(ordered.shape[-1], device=ordered.device) < tokens.lengths.unsqueeze(1)
        ordered = ordered.masked_fill_(~real.unsqueeze(1), 0.0)
        weights = self.weights(tokens.lengths, ordered.shape[-1]).to(ordered.dtype)
        return (ordered @ weights.unsqueeze(-1)).squeeze(-1)

    def weights(self, lengths: Tensor, longest: int) -> Tensor:
        """Weights [B, longest] of the sorted positions of sets with `lengths` [B] tokens; 0 beyond the length."""
        distinct, which = lengths.clamp(min=1).unique(return_inverse=True)
        codes = sinusoidal(longest, self.code_width).to(self.score.weight)
        packed = pack_padded_sequence(
            codes.expand(len(distinct), -1, -1), distinct.cpu(), batch_first=True, enforce_sorted=False
        )
        both, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=longest)
        forward, backward = both.chunk(2, dim=-1)
        scores = self.score((forward + backward) / 2).squeeze(-1) / self.temperature
        inside = torch.arange(longest, device=scores.device) < distinct.unsqueeze(1)
        return scores.masked_fill(~inside, float("-inf")).softmax(dim=-1)[which]


def descending(rows: Tensor) -> Tensor:
    """The values of each row [..., N], the largest first; `rows` may be overwritten.

    Without gradient nobody asks where a value stood. NumPy then sorts on the CPU, in a fraction of torch's time: it has
    vector instructions for it. It has no 16-bit formats of torch, so these travel as float32, which holds them exactly.
    """
    if rows.requires_grad or rows.device.type != "cpu":
        return rows.sort(dim=-1, descending=True).values
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    wide.numpy().sort(axis=-1)  # ascending, and NaN last
    return wide.flip(-1).to(rows.dtype)
