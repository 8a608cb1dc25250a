"""Whether a gallery answers a sentence: the probability that it holds an answer, and that a photo is the answer.

A flat cutoff on the similarity fails for two reasons. Some sentences are similar to every photo. And the highest of
many similarities grows with their number, also when none of them is an answer. Both are accounted for here:

- `sharpness` b: among the photos of a gallery that holds the answer, photo i is it with the probability
  exp(b s_i) / sum of exp(b s). This is the form of InfoNCE (van den Oord et al., 2018), fitted by maximum likelihood.
- The evidence of a gallery of G photos is log(mean over the gallery of exp(b s)) - log(mean over a bank of exp(b s)).
  The bank holds photos known before; what the query is similar to there is its *level*. It is the likelihood ratio of
  "one of the G photos is the answer" to "none is", so the size of the gallery needs no other correction.
- The probability of an answer is a logistic regression (Platt, 1999) on the evidence and the level. Its slope is below
  1 where photos are alike, so that they are not independent draws.

A sentence that is like no photo of the bank either would look well answered by a photo that is slightly nearer. So
levels are cut to the range of dev.

Without a level (a query whose embedding is not at hand) the evidence is the first logarithm. NumPy alone computes
all this; `answerability_fit` fits it.

Letters: Q queries, k results of each, G photos of the gallery, N photos of a bank, D width.
"""

from __future__ import annotations

import base64
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

Numbers = npt.NDArray[np.float64]
RESULTS = 100  # similarities of a query that a search should give, where there are as many
LARGEST_BANK = 256  # photos: half a megabyte for D 1024, and more change no level by a hundredth


class Logistic(BaseModel):
    """The logarithm of the odds of an answer: constant + evidence * (evidence of the gallery) + level * (level)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    constant: float
    evidence: float = Field(ge=0)
    level: float = 0.0


class Bank(BaseModel):
    """Embeddings [photos, width] of photos, in half precision as base64: a record that goes wherever JSON goes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    photos: int = Field(ge=1)
    width: int = Field(ge=1)
    values: str = Field(repr=False)

    @classmethod
    def of(cls, images: Any, most: int = LARGEST_BANK) -> Self:
        """At most that many of the embeddings [G, D], evenly spaced."""
        rows = np.unique(np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int))
        values = np.ascontiguousarray(np.asarray(images)[rows], dtype="<f2")
        return cls(photos=len(rows), width=values.shape[1], values=base64.b64encode(values.tobytes()).decode())

    @property
    def embeddings(self) -> npt.NDArray[np.float32]:
        values = np.frombuffer(base64.b64decode(self.values, validate=True), "<f2").astype(np.float32)
        return values.reshape(self.photos, self.width)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        size = len(base64.b64decode(self.values, validate=True))
        if size != 2 * self.photos * self.width:
            raise ValueError(f"{size} bytes of {self.photos} photos of width {self.width}")
        if not np.isfinite(self.embeddings).all():
            raise ValueError("embeddings that are no finite numbers")
        return self


class Fitted(BaseModel):
    """What a calibration was fitted on, and how well it holds there."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    photos: int  # of each gallery
    captions: int
    auroc: float  # of `answerable`, photo present against taken out
    error: float  # expected calibration error of `answerable`


class Calibration(BaseModel):
    """Turns the highest similarities of a query into probabilities. Plain numbers, stored with the model.

    From the probability `threshold` of an answer on, something matches: 95% of the dev queries whose photo was present
    have it. `scores` are quantiles of the similarity of photos that are no answer, and `below` the logarithm of the
    mean of exp(sharpness * s) of those below each: what the photos beyond the k results weigh.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    sharpness: float = Field(gt=0)
    plain: Logistic
    with_bank: Logistic
    bank: Bank
    levels: list[float] = Field(min_length=2, max_length=2)  # a level beyond these two counts as the nearer one
    threshold: float = Field(ge=0, le=1)
    scores: list[float] = Field(min_length=2)
    below: list[float] = Field(min_length=2)
    fitted: Fitted

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if len(self.scores) != len(self.below):
            raise ValueError(f"{len(self.scores)} scores and {len(self.below)} means below them")
        if any((np.diff(each) < 0).any() for each in (self.scores, self.below, self.levels)):
            raise ValueError("levels, scores and the means below them must not fall")
        return self

    @classmethod
    def fit(cls, images: Any, captions: Any, owners: Any, *, seed: int = 0) -> Self:
        """Fit on a split that was not trained on: images [G, D], captions [Q, D], owners [Q] (rows of images).

        Each caption is asked of galleries with its photo, and of the same with it taken out. The other half of the
        photos is the bank. Raises ValueError for fewer than `answerability_fit.FEWEST` images.
        """
        from threeshnet.metrics.answerability_fit import fitted  # scipy: search does not need it

        return cls(**fitted(images, captions, owners, seed=seed))

    def level(self, queries: Any) -> Numbers:
        """Level of queries [Q, D] in the bank, [Q].  Raises ValueError for another width."""
        asking = np.asarray(queries, np.float32)
        if asking.ndim != 2 or asking.shape[1] != self.bank.width:
            raise ValueError(f"queries of shape {list(asking.shape)}: expected [queries, {self.bank.width}]")
        return log_mean_exp(self.sharpness * (asking @ self.bank.embeddings.T))

    def answerable(self, scores: Any, gallery: int, level: Any = None) -> Numbers:
        """Probability [Q] that the gallery holds an answer; `scores` [Q, k] are the k highest of each query, falling.

        `gallery` is the number of photos that were searched, k should be RESULTS or all of them. With the queries'
        `level` [Q] it is sharper. Raises
        ValueError for more scores than photos, and for scores that are not in order.
        """
        return self._answerable(self._log_sum(checked(scores, gallery), gallery), gallery, level)

    def probability(self, scores: Any, gallery: int, level: Any = None) -> Numbers:
        """Probability [Q, k] of each result that it is the answer: shares of `answerable`.  Raises ValueError."""
        values = checked(scores, gallery)
        whole = self._log_sum(values, gallery)
        return self._answerable(whole, gallery, level)[:, None] * np.exp(self.sharpness * values - whole[:, None])

    def matches(self, answerable: Any) -> npt.NDArray[np.bool_]:
        """Whether something matches, by `threshold`."""
        return np.asarray(answerable) >= self.threshold

    def _log_sum(self, values: Numbers, gallery: int) -> Numbers:
        """log of the sum of exp(sharpness * s) over the gallery, [Q]."""
        found = np.logaddexp.reduce(self.sharpness * values, axis=1)
        others = gallery - values.shape[1]
        if not others:
            return found
        last = values[:, -1]
        each = np.minimum(np.interp(last, self.scores, self.below), self.sharpness * last)
        return np.logaddexp(found, np.log(others) + each)

    def _answerable(self, log_sum: Numbers, gallery: int, level: Any) -> Numbers:
        lowest, highest = self.levels
        usual = np.zeros_like(log_sum) if level is None else np.asarray(level, np.float64).clip(lowest, highest)
        by = self.plain if level is None else self.with_bank
        odds = by.constant + by.evidence * (log_sum - np.log(gallery) - usual) + by.level * usual
        return 1 / (1 + np.exp(-np.clip(odds, -700, 700)))


def checked(scores: Any, gallery: int) -> Numbers:
    """Scores [Q, k] as float64.  Raises ValueError for another shape, for disorder, or for more than photos."""
    values = np.asarray(scores, np.float64)
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"scores of shape {list(values.shape)}: expected [queries, results], with a result or more")
    if values.shape[1] > gallery:
        raise ValueError(f"{values.shape[1]} scores of a gallery of {gallery}")
    if not np.isfinite(values).all() or (np.diff(values, axis=1) > 0).any():
        raise ValueError("scores must be finite and fall from result to result")
    return values


def log_mean_exp(values: Any) -> Numbers:
    """[Q, n] to [Q].

    >>> log_mean_exp([[0.0, 0.0], [1.0, 1.0]]).tolist()
    [0.0, 1.0]
    """
    numbers = np.asarray(values, np.float64)
    return np.logaddexp.reduce(numbers, axis=1) - np.log(numbers.shape[1])
