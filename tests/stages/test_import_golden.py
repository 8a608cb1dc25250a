"""The golden set from the import to recalls, and what half precision does to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import threeshnet
from threeshnet.metrics import recall
from threeshnet.records import ImageBatch, TokenSet
from threeshnet.shards.reader import ShardedSplit
from threeshnet.shards.verify import verify

GOLDEN = Path(__file__).parents[1] / "golden"


def test_the_authors_checkpoint_from_import_to_recalls(command, tmp_path: Path) -> None:
    made = command("import", f"raw={GOLDEN / 'precomp'}", f"out={tmp_path}", "progress=false")
    assert made.code == 0, made.err
    manifest = verify(tmp_path / "precomp")
    assert manifest.layout.dtypes == {"region": "float32", "seg": "float32"}
    assert manifest.class_table == "unknown-133"
    where = [f"shards={tmp_path / 'precomp'}", f"out={tmp_path / 'scores'}", "split=testall", "workers=0"]
    authors = [f"checkpoint={GOLDEN / 'official_checkpoint.pth'}", f"text_config={GOLDEN / 'bert'}", "accelerator=cpu"]
    scored = command("evaluate", *authors, *where)
    assert scored.code == 0, scored.err
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    stated = json.loads((GOLDEN / "precomp" / "expected_metrics.json").read_text())
    for direction in ("i2t", "t2i"):
        assert [metrics[direction][name] for name in stated["order"]] == stated["precomp"][direction]
    scored = command("evaluate", *authors, *where, "official_activation=softmax")  # another model of the same weights
    assert scored.code == 0, scored.err
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text())["t2i"] != metrics["t2i"]
    refused = command("evaluate", *authors, *where, "protocol=transfer")
    assert (refused.code, "say it: trained_on=" in refused.err.replace("\n", " ")) == (1, True)
    scored = command("evaluate", *authors, *where, "protocol=transfer", "trained_on=coco")
    assert scored.code == 0, scored.err
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert (metrics["trained_on"], metrics["trained"][0]["data"]) == ("coco", "coco")
    assert metrics["trained"][0]["official_activation"] == "sigmoid"


def test_what_half_precision_does_to_the_golden_ranks(imported) -> None:
    """The price of dtype=float16 on this set, whose similarities lie 1e-5 apart: it is there, and it is small."""
    ranks, similarities = {}, {}
    model = threeshnet.load_official_checkpoint(GOLDEN / "official_checkpoint.pth", GOLDEN / "bert")
    for dtype in ("float32", "float16"):
        _, folder = imported(GOLDEN / "precomp", dtype=dtype, overwrite="true")
        split = ShardedSplit(folder, "testall")
        arrays = split.read(range(25))
        assert str(arrays.regions[0].dtype) == dtype
        regions = torch.from_numpy(np.stack(arrays.regions)).float()
        segmentation = (arrays.seg_semantic, arrays.seg_map, arrays.seg_categories)
        fields = [torch.from_numpy(np.asarray(part, np.float32)) for part in segmentation]
        batch = ImageBatch(TokenSet(regions, torch.ones(regions.shape[:2], dtype=torch.bool)), None, *fields)
        similarities[dtype] = model.encode_images(batch) @ model.encode_texts(split.caption_texts).T
        ranks[dtype] = (-similarities[dtype]).argsort(dim=0).argsort(dim=0)
    moved = (similarities["float32"] - similarities["float16"]).abs().max().item()
    changed = (ranks["float32"] != ranks["float16"]).float().mean().item()
    owner = torch.arange(25).repeat_interleave(5)
    sums = {dtype: recall(values, owner)["rsum"] for dtype, values in similarities.items()}
    # Measured: 1.3e-5, 0.06% of the ranks, no recall.
    assert 0 < moved < 1e-4
    assert 0 < changed < 0.005
    assert sums["float16"] == pytest.approx(sums["float32"])
