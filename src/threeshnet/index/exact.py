"""Exact search: the items with the largest scores, block by block."""

from __future__ import annotations

import numpy as np

BLOCK_CELLS = 1 << 22  # products held at once: 16 MB
SPARSE = 0.2  # share of the rows that a filter leaves below which they are gathered
SPARE = 16  # candidates beyond `top` that are scored again


def nearest(
    embeddings: np.ndarray,
    queries: np.ndarray,
    top: int,
    *,
    allowed: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows [Q, k] and scores [Q, k] float64 of the nearest of n embeddings [n, D] to each query [Q, D], best first.

    k is `top`, or less where fewer rows are `allowed` ([n] bool). `bias` [n] is subtracted from the products. Ties are
    in the order of the rows. A first pass in float32 finds candidates, which are scored again in float64.
    """
    rows = np.arange(len(embeddings)) if allowed is None else np.flatnonzero(allowed)
    kept = min(top + SPARE, len(rows))
    gathered = allowed is not None and len(rows) < SPARSE * len(embeddings)
    queries32 = np.ascontiguousarray(queries.T, np.float32)
    best_rows = np.zeros((0, len(queries)), np.int64)
    best = np.zeros((0, len(queries)), np.float32)
    step = max(1, BLOCK_CELLS // max(len(queries), 1, embeddings.shape[1] if gathered else 1))
    for first in range(0, len(rows) if gathered else len(embeddings), step):
        if gathered:
            here = rows[first : first + step]
            scores = embeddings[here] @ queries32
        else:
            here = np.arange(first, min(first + step, len(embeddings)))
            scores = embeddings[first : first + step] @ queries32
            if allowed is not None:
                chosen = allowed[first : first + step]
                here, scores = here[chosen], scores[chosen]
        if bias is not None:
            scores = scores - bias[here, None].astype(np.float32)
        if len(scores) > kept:
            part = np.argpartition(-scores, kept - 1, axis=0)[:kept]
            here2, scores = here[part], np.take_along_axis(scores, part, axis=0)
        else:
            here2 = np.broadcast_to(here[:, None], scores.shape)
        best, best_rows = np.concatenate([best, scores]), np.concatenate([best_rows, here2])
        if len(best) > kept:
            part = np.argpartition(-best, kept - 1, axis=0)[:kept]
            best, best_rows = np.take_along_axis(best, part, axis=0), np.take_along_axis(best_rows, part, axis=0)
    return rescored(embeddings, queries, best_rows.T, top, bias=bias)


def rescored(
    embeddings: np.ndarray, queries: np.ndarray, candidates: np.ndarray, top: int, *, bias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The `top` of each query's candidates [Q, m] by their score in float64, best first: rows and scores [Q, k]."""
    candidates = np.sort(candidates, axis=1)
    scores = np.empty(candidates.shape, np.float64)
    for number, (query, rows) in enumerate(zip(queries.astype(np.float64), candidates, strict=True)):
        scores[number] = embeddings[rows].astype(np.float64) @ query
        if bias is not None:
            scores[number] -= bias[rows]
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return np.take_along_axis(candidates, order, axis=1), np.take_along_axis(scores, order, axis=1)
