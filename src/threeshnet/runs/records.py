"""What is read from the JSON files of a run directory, declared once and validated by pydantic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from threeshnet.errors import DataError, Problems
from threeshnet.forms import faults_of

RUNNING, FINISHED, FAILED, INTERRUPTED = "running", "finished", "failed", "interrupted"
Whole = Annotated[int, Field(gt=-(2**63), lt=2**63)]  # JSON has no limit
AnyRecord = TypeVar("AnyRecord", bound="Record")


class Record(BaseModel):
    """A JSON object: declared keys have their type, other keys are kept as they are."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)

    def content(self) -> dict[str, Any]:
        """The keys that the file holds."""
        return self.model_dump(exclude_unset=True)


class Job(Record):
    """job.json: which run this is."""

    identity: str | None = None
    study: str | None = None
    job_name: str | None = None
    factors: dict[str, Any] = {}
    seed: Whole | None = None
    experiment: str | None = None
    setting: str | None = None
    recipe: str | None = None
    data: str | None = None
    fingerprint: str | None = None
    commit: str | None = None
    machine: str | None = None
    selection: str | None = None  # as are batch_size and derived_from: of jobs that `make sweep` derives from others
    batch_size: Whole | None = None
    derived_from: list[str] = []
    source: str | None = None  # of a folder that links to a finished run elsewhere: where that is


class Progress(Record):
    """progress.json: how far a run is. Times are Unix seconds; `dev_rsum` is the newest score on the dev split."""

    state: str | None = None  # RUNNING | FINISHED | FAILED | INTERRUPTED
    epoch: Whole = 0  # finished ones
    epochs: Whole | None = None
    step: Whole | None = None
    steps: Whole | None = None
    dev_rsum: float | None = None
    best_dev_rsum: float | None = None
    started: float | None = None
    updated: float | None = None
    seconds_left: float | None = None  # of training; None when unknown


class Recalls(Record):
    """Recalls of one direction, in percent."""

    r1: float = Field(alias="R@1")
    r5: float = Field(alias="R@5")
    r10: float = Field(alias="R@10")


class Metrics(Record):
    """metrics.json: the scores of an evaluation, as far as every reader needs them."""

    rsum: float
    i2t: Recalls
    t2i: Recalls
    commit: str | None = None


class Retrieved(Record):
    caption: str
    similarity: float
    right: bool


class Retrieval(Record):
    image: str
    picture: str
    i2t_rank: Whole
    top: list[Retrieved]


class Confused(Record):
    image: str
    caption: str
    wrong_image: str
    wrong_caption: str
    gap: float


class Histogram(Record):
    counts: list[float]
    edges: list[float]


class Inspection(Record):
    """inspection.json: what the model does with the held-out split; the dashboard and W&B's tables show it."""

    retrievals: list[Retrieval] = []
    confusions: dict[str, list[Confused]] = {}
    pooling: dict[str, dict[str, list[float]]] = {}
    semantic: dict[str, Histogram] = {}


def read_record(file: Path, kind: type[AnyRecord], way_out: str = "") -> tuple[AnyRecord, dict[str, Any]]:
    """The record and the plain content of a JSON file.  Raises DataError once, with every fault."""
    problems = Problems(str(file))
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        return kind.model_validate(content), content
    except ValidationError as error:
        problems.extend(faults_of(error))
    except (OSError, ValueError, RecursionError) as error:
        problems.add(f"cannot be read: {error}")
    raise DataError(problems.text(way_out))


def find_record(file: Path, kind: type[AnyRecord]) -> tuple[AnyRecord, dict[str, Any]] | None:
    """The same, or None for a file that is missing, torn (the run may be writing it) or malformed."""
    try:
        return read_record(file, kind)
    except DataError:
        return None
