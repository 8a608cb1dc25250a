"""Floors: chance by enumeration, the ridge by its normal equations, and the proxy setting."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from threeshnet.metrics.recalls import recall
from threeshnet.runs.facts import machine
from threeshnet.runs.identity import data_fingerprint
from threeshnet.shards.manifest import Manifest

from ..scripts import loaded

ROOT = Path(__file__).parents[2]
BASELINES = ROOT / "experiments/baselines"


@pytest.fixture(scope="module")
def baselines() -> ModuleType:
    return loaded(BASELINES / "run.py")


@pytest.mark.parametrize("owners", [[0, 1, 2], [0, 0, 1, 2], [0, 0, 0, 1, 1, 2]])
def test_chance_is_the_mean_over_all_orders(baselines: ModuleType, owners: list[int]) -> None:
    """Of one image's row in every order of the captions; other rows are as likely."""
    images, captions = max(owners) + 1, len(owners)
    hits = []
    for order in permutations(range(captions)):
        similarity = torch.tensor([[float(place) for place in order]] * images)
        hits.append(recall(similarity, torch.tensor(owners))["i2t"]["R@1"])
    found = baselines.chance(images, np.array(owners))
    assert found["i2t_R@1"] == pytest.approx(sum(hits) / len(hits))
    assert found["t2i_R@1"] == pytest.approx(100 / images)
    assert found["t2i_R@10"] == 100.0


def test_the_ridge_solves_its_equations(baselines: ModuleType) -> None:
    draw = torch.Generator().manual_seed(0)
    inputs, targets = (torch.randn(20, width, generator=draw).double() for width in (4, 3))
    stacked = torch.cat([inputs, 3.0 * torch.eye(4).double()]), torch.cat([targets, torch.zeros(4, 3).double()])
    torch.testing.assert_close(baselines.ridge(inputs, targets, 9.0), torch.linalg.lstsq(*stacked).solution)


def test_rare_words_weigh_more_and_unknown_ones_nothing(baselines: ModuleType) -> None:
    words = baselines.Words(["a dog runs"] * 10 + ["a cat runs"] * 5 + ["a rare bird"])
    assert sorted(words.number) == ["a", "cat", "dog", "runs"]
    vector = dict(zip(words.number, words(["A cat, a dog runs; a rare thing"])[0].tolist(), strict=True))
    assert vector["cat"] > vector["dog"] > vector["runs"] > vector["a"] == 0  # which is in every caption


def test_measured_again_rows_are_replaced(baselines: ModuleType, synthetic_shards: Path, tmp_path: Path) -> None:
    for _ in range(2):
        rows = baselines.measure(synthetic_shards, "train", "dev", "testall")
        written = baselines.write(rows, tmp_path / "results.csv")
    assert {row["machine"] for row in rows} == {machine()}
    assert {row["fingerprint"] for row in rows} == {data_fingerprint(Manifest.load(synthetic_shards))}
    assert [row["selection"] for row in rows] == ["", "", "", "", "rsum on dev"]  # at random nothing is chosen
    assert len(written) == len(rows) == 5


def test_a_row_that_was_not_run_says_its_own_reason(baselines: ModuleType, tmp_path: Path) -> None:
    """Rows written before there was a column for it have none."""
    file, old = tmp_path / "results.csv", baselines.COLUMNS[: baselines.COLUMNS.index("machine")]
    file.write_text(",".join(old) + "\n" + "demo,test" + "," * (len(old) - 2) + "\n")
    empty = dict.fromkeys(baselines.COLUMNS, "") | {"data": "demo", "split": "test"}
    empty |= {"baseline": "zero-shot a", "reason": "no memory"}
    rows = baselines.write([empty], file)
    assert [row["reason"] for row in rows] == ["", "no memory"]


def test_the_proxy_setting_opens_no_held_out_photo() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", ["experiment=grid_flickr8k", "setting=flickr8k_proxy"])
    assert (list(cfg.data.train_splits), cfg.data.test_split, cfg.data.dev_split) == (["train"], "dev", None)
    assert (list(cfg.milestones), cfg.trainer.max_epochs, cfg.batches.limit_train_images) == ([2], 3, 2000)
    assert (cfg.selection, cfg.dim, cfg.batches.batch_size) == ("last", 256, 128)


def test_the_yardsticks_setting_trains_on_all_photos_and_chooses_nothing() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", ["experiment=grid_flickr8k", "setting=flickr8k_yardstick"])
    assert (list(cfg.data.train_splits), cfg.data.test_split, cfg.data.dev_split) == (["train", "dev"], "test", None)
    assert (list(cfg.milestones), cfg.trainer.max_epochs, cfg.batches.limit_train_images) == ([4], 6, None)
    assert (cfg.selection, cfg.dim, cfg.batches.batch_size) == ("last", 256, 128)
    assert (cfg.optimization.learning_rate, cfg.optimization.pretrained_factor) == (5e-4, 0.1)
