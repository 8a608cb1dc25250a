"""Image-sentence retrieval with 3SHNet: from photos to features, shards, training and numbers that can be trusted."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threeshnet import errors, metrics
    from threeshnet.encoders.official import load_official_checkpoint
    from threeshnet.records import Batch, ImageBatch, TokenSet
    from threeshnet.retriever import Retriever
    from threeshnet.training.checkpoint import load_model

__all__ = [
    "Batch",
    "ImageBatch",
    "Retriever",
    "TokenSet",
    "errors",
    "load_model",
    "load_official_checkpoint",
    "metrics",
]

# Imported when they are asked for (PEP 562): torch, Lightning and transformers take seconds, which `make report` and
# every --help would wait for.
PLACES = {
    "Batch": "records",
    "ImageBatch": "records",
    "Retriever": "retriever",
    "TokenSet": "records",
    "load_model": "training.checkpoint",
    "load_official_checkpoint": "encoders.official",
}


def __getattr__(name: str) -> Any:
    if name in PLACES:
        return getattr(importlib.import_module(f"{__name__}.{PLACES[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
