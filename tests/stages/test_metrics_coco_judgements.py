"""ECCV Caption and CxC: with tables made here, and against the package itself where it is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from threeshnet.errors import ConfigError, DataError
from threeshnet.evaluation.extended import coco_judgements
from threeshnet.metrics import recall
from threeshnet.metrics.coco_judgements import judged, load_judgements
from threeshnet.metrics.similarity import EmbeddingSimilarity

IMAGES = [17, 5, 42]  # COCO's numbers, in the order of the split
CAPTIONS = [100, 103, 101, 207, 201, 300, 309]  # two, two and three, as listed
OWNERS = [0, 0, 1, 1, 2, 2, 2]
IDS = [str(number) for number in IMAGES]
ECCV = ({17: [100, 103, 201]}, {201: [5, 17]})
CXC = ({17: [100, 103], 5: [101, 207, 300], 42: [201]}, {number: [IMAGES[o]] for number, o in zip(CAPTIONS, OWNERS)})  # noqa: B905


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "eccv_caption" / "data"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise ImportError('only the tables are read')\n")
    np.save(folder / "coco_test_ids.npy", np.array(CAPTIONS))
    write(folder / "original_caption_to_image.json", CXC[1])
    for name, (i2t, t2i) in {"eccv": ECCV, "cxc": CXC}.items():
        write(folder / f"{name}_image_to_caption.json", i2t)
        write(folder / f"{name}_caption_to_image.json", t2i)
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def write(file: Path, table: dict[int, list[int]]) -> None:
    file.write_text(json.dumps(table))


@pytest.mark.usefixtures("package")
def test_scores_of_a_small_table() -> None:
    similarity = torch.tensor(
        [
            [0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.4],
            [0.1, 0.2, 0.3, 0.4, 0.9, 0.6, 0.5],
            [0.5, 0.6, 0.7, 0.8, 0.8, 0.2, 0.1],
        ]
    )
    found = judged(similarity, torch.tensor(OWNERS), IDS, load_judgements())
    # Image 17's list: 100, 101, 201, 309, 300, 207, 103. Of its three right ones 1st and 3rd are within three.
    assert found["eccv"]["i2t"] == pytest.approx(
        {"map_at_r": 100 * (1 + 2 / 3) / 3, "r_precision": 200 / 3, "R@1": 100.0}
    )
    # Caption 201's list: images 5, 42, 17.
    assert found["eccv"]["t2i"] == pytest.approx({"map_at_r": 50.0, "r_precision": 50.0, "R@1": 100.0})
    # 17: 1st. 5's list 201, 300, 309, 207: 300 is 2nd. 42's list 207, 201 tie: ties count against us, 201 is 2nd.
    assert found["cxc"]["i2t"] == pytest.approx({"R@1": 100 / 3, "R@5": 100.0, "R@10": 100.0})


@pytest.mark.usefixtures("package")
def test_right_answers_that_are_nowhere_are_never_found() -> None:
    tables = load_judgements()
    more = tables._replace(i2t={**tables.i2t, "eccv": {17: [100, 103, 201, 999]}})
    similarity = torch.full((3, 7), 0.1)
    similarity[0, [0, 1, 4]] = torch.tensor([0.9, 0.8, 0.7])
    found = judged(similarity, torch.tensor(OWNERS), IDS, more)
    assert found["eccv"]["i2t"] == pytest.approx({"map_at_r": 75.0, "r_precision": 75.0, "R@1": 100.0})


@pytest.mark.usefixtures("package")
def test_captions_after_the_listed_ones_are_left_out() -> None:
    tables, vectors = load_judgements(), torch.nn.functional.normalize(torch.randn(10, 4), dim=1)
    owner = torch.tensor(OWNERS)
    plain = judged(EmbeddingSimilarity(vectors[:3], vectors[3:]), owner, IDS, tables)
    # A sixth caption that stands first for its image, after those that are listed.
    more = torch.cat([vectors[3:], 9 * vectors[:3]])
    assert judged(EmbeddingSimilarity(vectors[:3], more), torch.cat([owner, torch.arange(3)]), IDS, tables) == plain


@pytest.mark.usefixtures("package")
def test_other_images_are_refused_with_the_reason() -> None:
    tables, owner = load_judgements(), torch.tensor(OWNERS)
    with pytest.raises(DataError, match=r"(?s)1 images are not in the tables.*'x'.*1 images of the tables are not"):
        judged(torch.rand(3, 7), owner, ["17", "5", "x"], tables)
    with pytest.raises(DataError, match="too few captions, the first of them '5'"):
        judged(torch.rand(3, 6), torch.tensor([0, 0, 1, 2, 2, 2]), IDS, tables)


@pytest.mark.usefixtures("package")
def test_an_evaluation_goes_on_without_judgements_and_says_why() -> None:
    whole = SimpleNamespace(owners=np.array(OWNERS), image_ids=IDS)
    assert set(coco_judgements(torch.rand(3, 7), cast("Any", whole))) == {"eccv", "cxc"}
    for other, said in (
        (SimpleNamespace(owners=np.array(OWNERS), image_ids=["17", "5", "x"]), "1 images are not in the tables"),
        (SimpleNamespace(owners=np.array([0, 0, 1, 2, 2, 2]), image_ids=IDS), "too few captions"),
    ):
        found = coco_judgements(torch.rand(3, len(other.owners)), cast("Any", other))
        assert list(found) == ["not_run"]
        assert said in found["not_run"]


def test_a_missing_package_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'threeshnet\[judgements\]'"):
        load_judgements()


def test_missing_tables_are_named(package: Path) -> None:
    (package / "cxc_image_to_caption.json").unlink()
    with pytest.raises(ConfigError, match=r"cxc_image_to_caption\.json: missing"):
        load_judgements()


# --- the package itself


@pytest.mark.filterwarnings("ignore:failed to import `ujson`")
def test_the_package_agrees() -> None:
    """All but its `coco_1k`: 0.1.0 looks for the first of a list that it may have emptied."""
    import eccv_caption

    tables = load_judgements()
    numbers = [tables.owners[number] for number in tables.captions[::5].tolist()]  # five captions of each image
    draw, owner = torch.Generator().manual_seed(0), torch.arange(len(numbers)).repeat_interleave(5)
    images = torch.randn(len(numbers), 16, generator=draw)
    captions = images[owner] + 0.8 * torch.randn(len(owner), 16, generator=draw)
    source = EmbeddingSimilarity(images, captions)
    found = judged(source, owner, [str(number) for number in numbers], tables)
    matrix = source.block(slice(len(images)), slice(len(captions)))
    top = 150  # more than the right answers of any query
    known, numbered = tables.captions, np.array(numbers)
    i2t = {numbers[row]: known[best].tolist() for row, best in enumerate(matrix.topk(top, dim=1).indices.numpy())}
    t2i = {
        int(known[row]): numbered[best].tolist() for row, best in enumerate(matrix.T.topk(top, dim=1).indices.numpy())
    }
    names = ("coco_5k_recalls", "cxc_recalls", "eccv_r1", "eccv_map_at_r", "eccv_rprecision")
    with contextlib.redirect_stderr(io.StringIO()):  # it draws a progress bar
        theirs = eccv_caption.Metrics().compute_all_metrics(i2t, t2i, target_metrics=list(names), Ks=[1, 5, 10])
    ours = recall(source, owner)
    for side in ("i2t", "t2i"):
        for cutoff in (1, 5, 10):
            assert ours[side][f"R@{cutoff}"] == pytest.approx(100 * theirs[f"coco_5k_r{cutoff}"][side])
            assert found["cxc"][side][f"R@{cutoff}"] == pytest.approx(100 * theirs[f"cxc_r{cutoff}"][side])
        assert found["eccv"][side]["map_at_r"] == pytest.approx(100 * theirs["eccv_map_at_r"][side])
        assert found["eccv"][side]["r_precision"] == pytest.approx(100 * theirs["eccv_rprecision"][side])
    assert 5 < ours["t2i"]["R@1"] < 95
