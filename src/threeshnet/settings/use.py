"""Settings of the verbs that use a trained model."""

from __future__ import annotations

from typing import Literal

from threeshnet.settings.base import Number, OnError, Part, Settings, Texts


class IndexSettings(Settings):
    checkpoint: str
    raw: str | None
    shards: str | None
    split: str
    of: Literal["images", "captions"]
    out: str
    masks: str | None
    extractor: Part | None
    grid: Part | None
    segmentation: Part | None
    text_config: str | None
    bank: str | None
    bank_split: str
    correction: str | None
    approximate: Literal["hnsw", "ivf", "ivf-flat"] | None
    cluster: str | None
    text_tower: bool | Literal["int8"]
    device: str | None
    on_error: OnError
    batch_size: int
    workers: int
    progress: bool


class SearchSettings(Settings):
    index: str
    query: str | None
    image: str | None
    mask: str | None
    text_weight: Number
    without: Texts
    filters: Texts
    queries: str | None
    top: int
    format: Literal["table", "json", "csv", "paths", "html"]
    zero: bool
    out: str | None
    embed: bool
    fold: bool
    corrected: bool
    exact: bool
    cluster: str | None
    checkpoint: str | None


class ExplainSettings(Settings):
    checkpoint: str
    image: str
    query: str
    mask: str | None
    out: str
    top: int
    extractor: Part | None
    grid: Part | None
    segmentation: Part | None
    text_config: str | None


class ServerSettings(Settings):
    """What `serve` and `demo` share."""

    examples: list[str]
    host: str
    port: int
    hosts: list[str]
    megabytes: float
    seconds: float
    queue: int


class ServeSettings(ServerSettings):
    index: str
    checkpoint: str | None
    masks: str | None


class DemoSettings(ServerSettings):
    runs: str
