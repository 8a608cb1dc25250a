"""The demo's held-out photos on a page, after one training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from threeshnet.app.serve import check, run_server
from threeshnet.errors import DataError
from threeshnet.index.build import update_index
from threeshnet.index.index import Index
from threeshnet.index.sources import ShardImages
from threeshnet.retriever import Retriever
from threeshnet.runs.find import evaluations
from threeshnet.runs.run import Run
from threeshnet.settings import DataSet, DemoSettings
from threeshnet.shards.provide import provide_shards
from threeshnet.shards.reader import ShardedSplit

DATA = "demo"
TRAIN = "make train EXP=hybrid_demo"
ABSENT = "a blue cow on a table near a yacht"  # an example that no photo of the demo shows: tables are indoors
EXAMPLES = 4  # beside it


def demo(settings: DemoSettings) -> None:
    """Index the held-out photos with the newest demo run, then serve them."""
    check(settings)
    run = newest_run(Path(settings.runs))
    training = run.settings or {}
    data = DataSet.model_validate(training["data"])
    split = ShardedSplit(provide_shards(training["shards"], data), data.test_split or "test")
    retriever = Retriever.load(run.folder)
    update_index(ShardImages(retriever, split), retriever, run.folder / "index")
    index = Index.open(run.folder / "index", checkpoint=str(run.folder))
    run_server(
        index, settings, settings.examples or examples(split), split.manifest.photos(split.folder) / "segmentation"
    )


def newest_run(folder: Path) -> Run:
    """The demo run below a folder that finished last.  Raises DataError where there is none."""
    runs = [run for run in evaluations([folder]) if run.is_training and run.find_metrics().get("data") == DATA]
    if not runs:
        raise DataError(
            f"no finished run of the demo below runs={folder}; make one first, in about 10 minutes: {TRAIN}"
        )
    return max(runs, key=lambda run: run.metrics_file.stat().st_mtime)


def examples(split: ShardedSplit) -> Sequence[str]:
    """The shortest captions of different photos, and a sentence that no photo shows."""
    by_photo = dict(zip(split.owners.tolist(), split.caption_texts, strict=True))
    return [*(text.replace(" ,", ",") for text in sorted(by_photo.values(), key=len)[:EXAMPLES]), ABSENT]
