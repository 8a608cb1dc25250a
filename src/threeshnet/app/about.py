"""What the page says about the model and the index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threeshnet.app.answers import About, ClassCount
from threeshnet.errors import CheckpointError
from threeshnet.features.segmentation import AnnotatedSegmentation
from threeshnet.index.index import Index
from threeshnet.runs.run import Run

FACTS = ("experiment", "data", "train_images", "features", "guidance", "parts", "text", "objective", "recipe", "seed")
SCORES = ("described", "i2t", "t2i", "rsum", "commit", "warning")
EXAMPLES = 4


def about(index: Index, examples: Sequence[str] = (), masks: Path | None = None) -> About:
    """Loads the model, so that it is there when the first search comes."""
    retriever = index.retriever
    metrics, refuses = _metrics(Path(retriever.name)), _refuses_photos(retriever)
    trained = (metrics.get("trained") or [retriever.card])[0]
    facts = {name: trained[name] for name in FACTS if trained.get(name) not in (None, "", [])}
    return About(
        name=str(facts.get("experiment") or Path(retriever.name).stem),
        photos=len(index),
        calibrated=index.manifest.calibration is not None,
        photo_refused=refuses,
        explanation_refused="" if masks else refuses,
        classes=[ClassCount(name=name, photos=count) for name, count in index.classes],
        examples=list(examples) or [f"a {name}" for name, _ in index.classes[:EXAMPLES]],
        facts=facts,
        scores={name: metrics[name] for name in SCORES if name in metrics},
    )


def _refuses_photos(retriever: Any) -> str:
    """Why a photo that is not in the index cannot be encoded; empty where it can."""
    try:
        makers = retriever.makers
    except CheckpointError as error:
        return str(error).splitlines()[0]
    if any(isinstance(maker.source, AnnotatedSegmentation) for maker in makers):
        return "the model was trained with annotated segmentation, which another photo does not have"
    return ""


def _metrics(checkpoint: Path) -> dict[str, Any]:
    """metrics.json of the run that a checkpoint lies in; empty without one."""
    return Run(checkpoint if checkpoint.is_dir() else checkpoint.parent.parent).find_metrics()
