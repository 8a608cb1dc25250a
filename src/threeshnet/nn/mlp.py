"""The two small blocks that every part of 3SHNet is made of."""

from __future__ import annotations

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear, BatchNorm over every row, ReLU, Linear: [..., width] -> [..., out].

    The statistics run over all B*N rows, padding included, as in the authors' implementation. With `real_rows` the rows
    that a mask hides are left out of everything, and their results are 0: how far a batch is padded no longer matters.
    """

    def __init__(self, *, width: int, hidden: int, out: int, real_rows: bool = False) -> None:
        super().__init__()
        self.real_rows = real_rows
        self.enter = nn.Linear(width, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.leave = nn.Linear(hidden, out)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` [...] says which rows are real; it is read with `real_rows` alone."""
        if mask is None or not self.real_rows:
            return self._rows(values.reshape(-1, values.shape[-1])).view(*values.shape[:-1], -1)
        real = self._rows(values[mask])
        return real.new_zeros(*mask.shape, real.shape[-1]).index_put((mask,), real)

    def _rows(self, rows: Tensor) -> Tensor:
        return self.leave(self.norm(self.enter(rows)).relu())


class LayerNormEmbedding(nn.Module):
    """Linear, ReLU, dropout, LayerNorm: [..., width] -> [..., dim] (LN-embed in the design)."""

    def __init__(self, *, width: int, dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.embed = nn.Linear(width, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, values: Tensor) -> Tensor:
        return self.norm(self.dropout(self.embed(values).relu()))
