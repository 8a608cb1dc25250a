"""From rendered photos to a score, and from the saved checkpoint to the same score."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import threeshnet
from threeshnet.batches.collate import collate_images
from threeshnet.installation import CONF
from threeshnet.metrics import recall
from threeshnet.shards import provide
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.csv_log import rows_of

SAME = ("i2t", "t2i", "rsum", "by_tag", "images", "captions", "data", "split", "protocol")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, demo_shards: Path, command, small: list[str]) -> Path:
    out = tmp_path_factory.mktemp("demo") / "run"
    settings = [*small, f"shards={demo_shards}", "trainer.max_epochs=1", "highlights=2", f"out={out}"]
    settings += ["batches.limit_train_images=16", "trainer.log_every_n_steps=1"]
    ended = command("train", "experiment=hybrid_demo", *settings)
    assert ended.code == 0, ended.err
    return out


@pytest.fixture(scope="module")
def trained(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def evaluate(command, out: Path, *overrides: str) -> dict:
    ended = command("evaluate", "workers=0", "accelerator=cpu", f"out={out}", *overrides)
    assert ended.code == 0, ended.err
    return json.loads((out / "metrics.json").read_text())


def test_the_run_is_whole(run: Path, trained: dict) -> None:
    assert (trained["selection"], trained["images"], trained["captions"]) == ("best", 12, 60)
    assert set(trained["by_tag"]) >= {"what", "where"}
    assert {file.name for file in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert len(list((run / "highlights").glob("*.png"))) == 2
    logged = [row for row in rows_of(run / "log" / "metrics.csv") if "train/loss" in row]
    assert logged
    batch = trained["batch_size"]  # all negatives in the first epoch: equal embeddings cost a margin each
    for row in logged:
        share = float(row["train/loss"]) / (2 * 0.2 * batch * (batch - 1))
        assert float(row["train/loss_over_collapsed"]) == pytest.approx(share, rel=1e-5)


def test_shards_that_need_no_raw_data_are_made_before_the_training(
    tmp_path: Path, command, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same process, with the data set's own extractor; a second run finds them."""
    own = {"name": "little", "reader": {"train": 20, "dev": 4, "test": 4}}
    own["extractor"] = {"_target_": "threeshnet.features.tiny.Tiny"}
    little = OmegaConf.merge(OmegaConf.load(CONF / "data" / "demo.yaml"), own)
    (tmp_path / "conf" / "data").mkdir(parents=True)
    OmegaConf.save(little, tmp_path / "conf" / "data" / "little.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(provide, "_by_command", lambda words: pytest.fail(f"another process: {words}"))
    for out, stages in (("one", "123"), ("two", "23")):
        words = ["experiment=region_demo", "data=little", *small, "trainer.max_steps=1", "highlights=0", f"out={out}"]
        ended = command("train", *words)
        assert ended.code == 0, ended.err
        assert re.findall(r"(\d) of 3: ", ended.out) == list(stages)
    assert (tmp_path / "data" / "shards" / "little" / "manifest.json").is_file()


@pytest.mark.parametrize("batch_size", [256, 5])
def test_the_saved_checkpoint_scores_what_the_run_did(
    run: Path, trained: dict, demo_shards: Path, command, tmp_path: Path, batch_size: int
) -> None:
    """`best` after one epoch is the last: the very numbers of metrics.json, whatever the batches."""
    checkpoint = f"checkpoint={run / 'checkpoints' / 'best.ckpt'}"
    found = evaluate(command, tmp_path, checkpoint, f"shards={demo_shards}", f"batch_size={batch_size}")
    assert {name: found[name] for name in SAME} == {name: trained[name] for name in SAME}


def test_the_python_interface_gives_the_same_score(run: Path, trained: dict, demo_shards: Path) -> None:
    model, split = threeshnet.load_model(run / "checkpoints" / "best.ckpt"), ShardedSplit(demo_shards, "test")
    images = model.encode_images(collate_images(split.read(range(split.images))))
    captions = model.encode_texts(split.caption_texts)
    found = recall(images @ captions.T, torch.from_numpy(split.owners))
    assert found["rsum"] == pytest.approx(trained["rsum"])
    assert found["t2i"] == pytest.approx(trained["t2i"])


def test_an_ensemble_ranks_by_the_mean_of_its_models(run: Path, demo_shards: Path, command, tmp_path: Path) -> None:
    files = [run / "checkpoints" / "best.ckpt", tmp_path / "other.ckpt"]
    content = torch.load(files[0], weights_only=True)
    draw = torch.Generator().manual_seed(0)
    for name, weights in content["state_dict"].items():
        if name.endswith("weight"):
            content["state_dict"][name] = weights + 0.5 * weights.std() * torch.randn(weights.shape, generator=draw)
    torch.save(content, files[1])
    asked = f"checkpoint=['{files[0]}','{files[1]}']"
    found = evaluate(command, tmp_path, asked, "protocol=ensemble", f"shards={demo_shards}")
    split, mean = ShardedSplit(demo_shards, "test"), 0.0
    for file in files:
        model = threeshnet.load_model(file)
        images = model.encode_images(collate_images(split.read(range(split.images))))
        mean = mean + images @ model.encode_texts(split.caption_texts).T / 2
    assert found["rsum"] == pytest.approx(recall(mean, torch.from_numpy(split.owners))["rsum"])
    assert (found["protocol"], len(set(found["checkpoint"]))) == ("ensemble", 2)
