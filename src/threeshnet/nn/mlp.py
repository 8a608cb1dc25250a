"""The two blocks that all parts of 3SHNet are built from."""

from __future__ import annotations

from torch import Tensor, nn

from threeshnet.errors import ConfigError


class MLP(nn.Module):
    """Linear, BatchNorm over all rows, ReLU, Linear: [..., width] -> [..., out].

    BatchNorm's statistics include padding rows, as in the authors' implementation. Raises ConfigError for no width.
    """

    def __init__(self, *, width: int, hidden: int, out: int) -> None:
        super().__init__()
        if min(width, hidden, out) < 1:
            raise ConfigError(
                f"width {width}, hidden {hidden}, out {out}: 1 is the least; dim=2 is the least, half is hidden"
            )
        self.enter = nn.Linear(width, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.leave = nn.Linear(hidden, out)

    def forward(self, values: Tensor) -> Tensor:
        rows = values.reshape(-1, values.shape[-1])
        return self.leave(self.norm(self.enter(rows)).relu_()).view(*values.shape[:-1], -1)


class LayerNormEmbedding(nn.Module):
    """Linear, ReLU, dropout, LayerNorm: [..., width] -> [..., dim] (LN-embed in the paper's formulas)."""

    def __init__(self, *, width: int, dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.embed = nn.Linear(width, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, values: Tensor) -> Tensor:
        return self.norm(self.dropout(self.embed(values).relu()))
