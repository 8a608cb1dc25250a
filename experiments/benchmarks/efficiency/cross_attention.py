"""Text-to-image cross-attention as in SCAN (Lee et al., ECCV 2018): every sentence looks at every image anew.

Each word weights the regions by how well they fit it, and is compared with their weighted sum; a sentence is as similar
as its words are on average, or by log-sum-exp. B images, R regions, Q sentences, L words, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from threeshnet.nn.masking import zero_padding
from threeshnet.records import TokenSet

TEMPERATURE = 9.0  # lambda_softmax of the published text-to-image models, COCO and Flickr30K
SHARPNESS = 6.0  # their lambda_lse
TINY = 1e-8  # keeps a region that fits no word, and a vector of length 0, from dividing by 0
OVER_WORDS = ("mean", "lse")


def cross_attention(regions: Tensor, words: TokenSet, *, over_words: str = "mean") -> Tensor:
    """Similarity of every image with every sentence, [B, Q].  regions [B, R, D] and words [Q, L, D], all unit length.

    A weighted sum of regions is known by its products: with the word they follow from the cosines, with itself from the
    regions' products with one another. So the D numbers of the sum, for each word of each pair, are never written.

    >>> vectors = torch.eye(3)
    >>> words = TokenSet(vectors[None, :2], torch.tensor([[True, False]]))
    >>> cross_attention(vectors[None, :1], words).item(), cross_attention(vectors[None, 2:], words).item()
    (1.0, 0.0)
    """
    images, sentences = len(regions), words.mask.shape
    real = zero_padding(words.values, words.mask)
    cosines = (regions.flatten(0, 1) @ real.flatten(0, 1).T).view(images, -1, *sentences)  # [B, R, Q, L]
    weights = _weights(cosines).flatten(2)  # [B, R, Q*L]
    along = (weights * cosines.flatten(2)).sum(dim=1)  # [B, Q*L]
    squared = (weights * (regions @ regions.transpose(1, 2) @ weights)).sum(dim=1)
    relevance = along / squared.clamp(min=TINY**2).sqrt()
    return _over_words(relevance.view(images, *sentences), words.mask, over_words)


def _weights(cosines: Tensor) -> Tensor:
    """Attention of each word over the regions, [B, R, Q, L]; padding words have cosine 0 and count in no length."""
    clipped = cosines.relu()
    scaled = clipped / (clipped.norm(dim=3, keepdim=True) + TINY)
    return (TEMPERATURE * scaled).softmax(dim=1)


def _over_words(relevance: Tensor, mask: Tensor, how: str) -> Tensor:
    """[B, Q, L] -> [B, Q]; every sentence has a real word."""
    if how == "mean":
        return relevance.masked_fill(~mask, 0.0).sum(dim=2) / mask.sum(dim=1)
    if how == "lse":
        return (SHARPNESS * relevance).masked_fill(~mask, -torch.inf).logsumexp(dim=2) / SHARPNESS
    raise ValueError(f"over_words={how!r}; there are {', '.join(OVER_WORDS)}")


class EveryPair:
    """Similarities of images and sentences, of which a block is scored when it is asked for.

    Sentences come shortest first: a block is cut to its longest, so that little of the work is padding.
    """

    def __init__(self, regions: Tensor, words: TokenSet, *, over_words: str = "mean") -> None:
        """regions [G, R, D], words [Q, L, D]"""
        self.regions, self.words, self.over_words = regions, words, over_words
        self.images, self.captions = len(regions), len(words.mask)

    def block(self, images: slice, captions: slice) -> Tensor:
        """[images, captions]"""
        mask = self.words.mask[captions]
        longest = int(mask.sum(dim=1).max())
        words = TokenSet(self.words.values[captions, :longest], mask[:, :longest])
        return cross_attention(self.regions[images], words, over_words=self.over_words)
