"""Image-sentence retrieval with 3SHNet: from photos to features, shards, training and numbers that can be trusted."""

from threeshnet import errors, metrics
from threeshnet.encoders.official import load_official_checkpoint
from threeshnet.records import Batch, ImageBatch, TokenSet
from threeshnet.training.checkpoint import load_model

__all__ = [
    "Batch",
    "ImageBatch",
    "TokenSet",
    "errors",
    "load_model",
    "load_official_checkpoint",
    "metrics",
]
