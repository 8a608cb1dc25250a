"""Augmentation in training: tokens of photos are dropped; words are masked, replaced or removed.

The generator is an argument: the augmentation of a caption is a function of (seed, epoch, caption) alone, for any
number of workers and processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from threeshnet.batches.tokenizers import Wordpieces
from threeshnet.errors import ConfigError, Problems


class DropTokens:
    """Drops each region (or grid cell) with `probability` and keeps at least one; the paper's recipe drops 20%."""

    def __init__(self, *, probability: float = 0.2) -> None:
        _check_probabilities("drop_tokens", probability=probability)
        self.probability = probability

    def __call__(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Numbers of the tokens to keep, ascending, [kept] int64, out of `count`.

        >>> DropTokens(probability=1.0)(1, np.random.default_rng(0))
        array([0])
        """
        kept = np.flatnonzero(generator.random(count) >= self.probability)
        if len(kept) or not count:
            return kept
        return generator.integers(count, size=1)


class AlterWords:
    """Alters each word, with all its wordpieces, with `probability`.

    A share `mask` of the altered words becomes [MASK] (each wordpiece), a share `random` becomes random wordpieces, and
    the rest is removed: 50%, 10% and 40% in the paper's recipe. [CLS] and [SEP] stay. Raises ConfigError for impossible
    shares.
    """

    def __init__(
        self, *, tokenizer: Wordpieces, probability: float = 0.2, mask: float = 0.5, random: float = 0.1
    ) -> None:
        _check_probabilities("alter_words", probability=probability, mask=mask, random=random)
        if mask + random > 1:
            raise ConfigError(f"alter_words: the shares mask={mask} and random={random} must be at most 1 together")
        self.probability, self.mask, self.random = probability, mask, random
        self.mask_id = tokenizer.mask_id
        ordinary = np.ones(len(tokenizer), dtype=bool)
        ordinary[list(tokenizer.special_ids)] = False
        self.ordinary_ids = np.flatnonzero(ordinary)

    def __call__(self, ids: Sequence[int], words: Sequence[int | None], generator: np.random.Generator) -> np.ndarray:
        """Alters the `ids` of one sentence; `words` is the word number of each id, None for [CLS] and [SEP]."""
        altered = np.array(ids, dtype=np.int64)
        word_of = np.array([-1 if word is None else word for word in words], dtype=np.int64)
        count = int(word_of.max(initial=-1)) + 1
        if not count:
            return altered
        chosen = generator.random(count) < self.probability
        share = generator.random(count)
        replacements = self.ordinary_ids[generator.integers(len(self.ordinary_ids), size=len(altered))]
        inside = word_of >= 0
        hidden = inside & (chosen & (share < self.mask))[word_of]
        swapped = inside & (chosen & (share >= self.mask) & (share < self.mask + self.random))[word_of]
        removed = inside & (chosen & (share >= self.mask + self.random))[word_of]
        altered[hidden] = self.mask_id
        altered[swapped] = replacements[swapped]
        return altered[~removed]


def _check_probabilities(subject: str, **values: float) -> None:
    problems = Problems(subject)
    problems.extend(
        f"{name}={value} is not a share between 0 and 1" for name, value in values.items() if not 0 <= value <= 1
    )
    problems.raise_as(ConfigError)
