"""Settings of each verb, as types: `conf/<verb>.yaml` holds the defaults, a class here what each setting may be.

Attributes have the names of the keys. A part, which is a group of settings with a `_target_`, stays a dictionary:
`hydra.utils.instantiate` builds the object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field

from threeshnet.settings.base import Invocation, Names, Number, OnError, Part, Settings, Texts, Wandb, plain
from threeshnet.settings.use import (
    DemoSettings,
    ExplainSettings,
    IndexSettings,
    SearchSettings,
    ServerSettings,
    ServeSettings,
)

__all__ = [
    "DemoSettings",
    "ExplainSettings",
    "IndexSettings",
    "Invocation",
    "SearchSettings",
    "ServeSettings",
    "ServerSettings",
    "Settings",
    "plain",
]


class DataSet(Settings):
    """`conf/data/<name>.yaml`."""

    name: str
    reader: Part
    how_to_get: str = ""
    made_here: bool = False  # the shards need no raw data, so they are made when they are missing
    train_splits: list[str] = Field(default=[])
    dev_split: str | None = None
    test_split: str | None = None
    extractor: Part | None = None  # takes the place of the chosen extractor


class DataSettings(Settings):
    data: DataSet
    extractor: Part
    grid: Part | None = None
    segmentation: Part
    view: Part | None = None
    raw: str
    out: str
    views: list[Any]
    fields: list[str]
    limit: int | None
    on_error: OnError
    part: int
    of: int
    overwrite: bool
    images_per_shard: int
    compression: str | None
    batch_size: int
    workers: int | None
    accelerator: str
    device: int
    precision: str
    progress: bool
    leakage_distance: int | None
    images: int
    seed: int


class ImportSettings(Settings):
    layout: Part
    raw: Texts
    out: str
    name: str | None
    splits: list[str] | None
    fields: list[str] | None
    captions: Texts | None
    ids: str | None
    split: str | None
    dtype: str | None
    most_regions: str | None
    padding: str
    cells: int | None
    channels: str
    regions: str | None
    limit: int | None
    on_error: OnError
    overwrite: bool
    images_per_shard: int
    compression: str | None
    batch_size: int
    workers: int
    progress: bool


class VerifySettings(Settings):
    shards: str
    card: bool
    out: str | None
    photos: int
    seed: int
    progress: bool


class Features(Settings):
    """`conf/features/<name>.yaml`."""

    fields: list[str]
    image_encoder: Part


class Augment(Settings):
    """`conf/augment/<name>.yaml`."""

    views: list[str]
    drop_tokens: Part | None
    alter_words: Part | None


class Batches(Settings):
    batch_size: int
    evaluation_batch_size: int
    workers: int
    drop_last: bool
    limit_train_images: int | None
    order: str
    block_images: int
    window_captions: int


class Checkpoints(Settings):
    minutes: Number | None
    steps: int | None


class Optimization(Settings):
    learning_rate: Number
    pretrained_factor: Number
    chunk: int | None


class Sizes(Settings):
    """Widths and class count of the shards; a name in angle brackets until the shards are open."""

    region_width: int | Literal["<region_width>"] | None
    grid_width: int | Literal["<grid_width>"] | None
    classes: int | Literal["<classes>"] | None


SIZES = tuple(f"<{name}>" for name in Sizes.model_fields)  # stand in the settings where a size will


class TrainSettings(Settings):
    data: DataSet
    features: Features
    activation: Part
    fusion: dict[str, Part]
    parts: dict[str, Part]
    boxes: dict[str, Part]
    pooling: Part
    text: Names  # a tokenizer and an encoder: parts of `model`
    objective: Part
    optimizer: Part
    schedule: Part
    averaging: Part | None
    augment: Augment
    trainer: Part
    logger: dict[str, Part]
    experiment_name: str
    study: str | None
    job_name: str | None
    factors: Names | None
    seed: int
    text_dropout: float | None
    dim: int
    shards: str
    out: str | None
    resume: bool
    selection: Literal["best", "last"]
    highlights: int
    wandb: Wandb
    wandb_project: str
    wandb_artifact: bool
    batches: Batches
    checkpoints: Checkpoints
    warm_up_epochs: Number
    milestones: list[Number]
    optimization: Optimization
    sizes: Sizes
    model: Part

    def with_sizes(self, **sizes: int | None) -> Self:
        """The settings with the shards' sizes in every place where they are read."""
        by_name = {f"<{name}>": size for name, size in sizes.items()}
        return type(self).model_validate(_replaced(plain(self), by_name))


def _replaced(node: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(node, dict):
        return {key: _replaced(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_replaced(value, values) for value in node]
    return values.get(node, node) if isinstance(node, str) else node


class EvaluateSettings(Settings):
    checkpoint: Texts
    shards: str
    split: str
    protocol: str
    text_config: str | None
    official_activation: str
    allow_pickle: bool
    out: str | None
    batch_size: int
    workers: int
    accelerator: str
    precision: str
    trained_on: str | None
    seed: int | None
    views: list[Any]
    extended: bool
    bank: str | None
    correction: str | None
    calibrate: bool
    perturb: str | None
    perturb_seed: int
    wandb: Wandb
    wandb_project: str


class ExportSettings(Settings):
    checkpoint: str
    out: str
    format: Literal["safetensors", "onnx"]
    int8: bool
    most_tokens: int


class CompareSettings(Settings):
    one: str
    other: str
    out: str | None


class Cluster(Settings):
    executor: str | None
    options: Names | None


class SweepSettings(Settings):
    study: str
    out: str | None
    parallel: int | None
    jobs_per_gpu: int
    only: str | None
    reuse: list[str]
    trials: int | None
    cluster: Cluster
    overrides: list[str]


class CollectSettings(Settings):
    study: str
    out: str | None
    into: str | None
    setting_name: str | None
    replace: bool


class ReportSettings(Settings):
    study: str | None
    into: str | None


class DashboardSettings(Settings):
    study: str
    out: str | None
    page: str | None
    wandb: Wandb
    wandb_project: str
    wandb_entity: str | None
