"""Two evaluations of the same items: a case by hand, what is refused, and the command over real evaluations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from threeshnet.errors import DataError
from threeshnet.evaluation.compare import REMARK, content_of, differences, read_evaluation, read_pair, recalls_of
from threeshnet.files import write_json
from threeshnet.metrics.comparisons import compare
from threeshnet.metrics.protocols import Scored, recall_by
from threeshnet.metrics.rank_files import RankedItems, read_ranks, write_ranks
from threeshnet.metrics.ranks import Ranks

RANKS = "ranks.npz"

FACTS = {"data": "demo", "fingerprint": "f00d", "split": "test", "protocol": "full"}
OWNER = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 5, 6, 7, 8, 9])
# Of ten images the first model finds all but the last at once, the second the last alone; captions likewise.
GOOD = Ranks(torch.tensor([1] * 9 + [20]), torch.tensor([1] * 12 + [20]))
BAD = Ranks(torch.tensor([20] * 9 + [1]), torch.tensor([20] * 12 + [1]))


def left(folder: Path, ranks: Ranks, owner: torch.Tensor = OWNER, **facts: Any) -> Path:
    """A folder as an evaluation leaves it."""
    said = FACTS | {"seed": 0} | facts
    ids = said.pop("ids", [f"photo-{row}" for row in range(len(ranks.i2t))])
    scored = Scored(said["data"], said["split"], len(ranks.i2t), owner)
    write_json(folder / "metrics.json", dict(recall_by(said["protocol"], ranks, scored)) | said)
    write_ranks(folder / RANKS, RankedItems(ranks, owner, ids))
    return folder


def test_a_case_by_hand(tmp_path: Path) -> None:
    pair = read_pair(left(tmp_path / "good", GOOD), left(tmp_path / "bad", BAD, seed=1, perturb="drop_regions"))
    recalls = recalls_of(*pair)
    assert list(recalls) == ["i2t R@1", "i2t R@5", "i2t R@10", "t2i R@1", "t2i R@5", "t2i R@10", "rsum"]
    i2t, t2i = ([recalls[name][key] for key in ("one", "other", "difference")] for name in ("i2t R@1", "t2i R@5"))
    assert i2t == pytest.approx((90.0, 10.0, 80.0))
    assert t2i == pytest.approx((1200 / 13, 100 / 13, 1100 / 13))
    assert recalls["rsum"]["difference"] == pytest.approx(3 * (80 + 1100 / 13))
    # Of 1,024 ways to exchange the models, 22 part ten images as 9 to 1 or clearer.
    assert recalls["i2t R@1"]["p"] == pytest.approx(22 / 1024, abs=0.01)
    assert recalls["i2t R@1"]["verdict"] == "difference"
    content = content_of(*pair, recalls)
    assert json.loads(json.dumps(content)) == content
    assert (content["images"], content["captions"], content["unit"]) == (10, 13, "image")
    assert content["other"] == {"folder": str(tmp_path / "bad"), "seed": 1, "perturb": "drop_regions"}


def test_folds_are_compared_within(tmp_path: Path) -> None:
    """The second fold has three captions more than the others, and each fold counts as much as another."""
    folders = [left(tmp_path / name, ranks, protocol="five_fold_1k") for name, ranks in (("a", GOOD), ("b", BAD))]
    recalls = recalls_of(*read_pair(*folders))
    assert recalls["t2i R@1"]["one"] == pytest.approx(100 * (4 + 1 / 2) / 5)
    for row in recalls.values():
        assert row["difference"] == pytest.approx(row["one"] - row["other"])


RANK = st.integers(1, 15)


@given(st.lists(st.tuples(RANK, st.lists(RANK, min_size=1, max_size=4)), min_size=1, max_size=12))
def test_a_model_does_not_differ_from_itself(images: list[tuple[int, list[int]]]) -> None:
    owner = torch.tensor([row for row, (_, captions) in enumerate(images) for _ in captions])
    i2t, t2i = [best for best, _ in images], [rank for _, captions in images for rank in captions]
    itself = Ranks(torch.tensor(i2t), torch.tensor(t2i))
    for found in compare(itself, itself, owner, draws=50).values():
        assert (found.value, tuple(found.interval), found.p) == (0.0, (0.0, 0.0), 1.0)
        assert found.verdict == "no difference shown"


def test_other_items_are_refused_with_every_reason(tmp_path: Path) -> None:
    one = left(tmp_path / "one", GOOD)
    facts = {"fingerprint": "beef", "split": "dev", "protocol": "ensemble", "data": "dusk"}
    ids = [f"photo-{row}" for row in (0, 2, 1, *range(3, 10))]
    owner = torch.tensor([0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9])
    other = left(tmp_path / "other", GOOD, owner, **facts, ids=ids)
    with pytest.raises(DataError) as refused:
        read_pair(one, other)
    assert [line.removeprefix("  - ") for line in str(refused.value).splitlines()[1:-1]] == [
        "data: demo and dusk",
        "fingerprint: f00d and beef",
        "split: test and dev",
        "protocol: full and ensemble",
        "image ids: number 1 is 'photo-1' and 'photo-2'",
        "images of the captions: number 3 is 2 and 1",
    ]


def test_counts_missing_files_and_foreign_ranks_are_refused(tmp_path: Path) -> None:
    early, folder = left(tmp_path / "early", GOOD), left(tmp_path / "one", GOOD)
    one = read_evaluation(folder)
    other = read_evaluation(left(tmp_path / "other", Ranks(GOOD.i2t[:-1], GOOD.t2i[:-1]), OWNER[:-1]))
    assert list(differences(one, other)) == ["image ids: 10 and 9 of them", "images of the captions: 13 and 12 of them"]
    (early / RANKS).unlink()
    with pytest.raises(DataError) as refused:
        read_pair(early, tmp_path / "nowhere")
    said = str(refused.value)
    assert f"{early} has no ranks.npz" in said
    assert "make evaluate CKPT=<file> SHARDS=<folder> SPLIT=test PROTOCOL=full OUT=<new folder>" in said
    assert f"{tmp_path / 'nowhere'} has no metrics.json" in said
    write_ranks(folder / RANKS, RankedItems(BAD, OWNER, [f"photo-{row}" for row in range(10)]))
    with pytest.raises(DataError, match=r"i2t R@1 is 90\.0000 there and 10\.0000 by the ranks"):
        read_evaluation(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"rsum": 1}', "[" * 100_000])
def test_damaged_metrics_are_refused(tmp_path: Path, text: str) -> None:
    folder = left(tmp_path / "one", GOOD)
    (folder / "metrics.json").write_text(text)
    with pytest.raises(DataError, match=r"(?s)metrics\.json.* make evaluate"):
        read_evaluation(folder)


# --- the commands


def check_ranks(folder: Path) -> RankedItems:
    """The recalls of the ranks are those that stand beside them, to the last digit."""
    metrics, items = json.loads((folder / "metrics.json").read_text()), read_ranks(folder / RANKS)
    scored = Scored(metrics["data"], metrics["split"], metrics["images"], items.owner)
    assert {**recall_by(metrics["protocol"], items.ranks, scored)} == {
        name: metrics[name] for name in ("i2t", "t2i", "rsum")
    }
    assert (len(items.image_ids), len(items.owner)) == (metrics["images"], metrics["captions"])
    return items


def test_a_training_run_and_its_evaluation_leave_the_same_ranks(demo_run: Path, evaluated, tmp_path: Path) -> None:
    again = evaluated(tmp_path / "again")
    assert check_ranks(demo_run).image_ids == check_ranks(again).image_ids
    assert (demo_run / RANKS).read_bytes() == (again / RANKS).read_bytes()


def test_ranks_are_those_of_the_correction_and_of_the_folds(
    evaluated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 photos stand for COCO's 5,000: five folds of eight, where no rank can be more than eight."""
    plain = check_ranks(evaluated(tmp_path / "plain"))
    corrected = check_ranks(evaluated(tmp_path / "csls", "correction=csls", "bank=train"))
    assert not torch.equal(plain.ranks.t2i, corrected.ranks.t2i)
    monkeypatch.setattr("threeshnet.metrics.protocols.why_not_coco_5k", lambda _: [])
    items = check_ranks(evaluated(tmp_path / "folds", "split=train", "protocol=five_fold_1k"))
    assert len(items.image_ids) == 40
    assert 1 < items.ranks.t2i.max() <= 8


def test_the_command_compares(command, demo_run: Path, evaluated, tmp_path: Path) -> None:
    other = evaluated(tmp_path / "shuffled", "perturb=shuffle_words")
    ended = command("compare", f"one={demo_run}", f"other={other}", f"out={tmp_path / 'out'}")
    assert ended.code == 0, ended.err
    said = " ".join(ended.out.split())
    for part in ("demo · split test · protocol full", "12 images, 60 captions", "rsum", "perturbed: shuffle_words"):
        assert part in said
    assert REMARK.split()[-5:] == said[: said.index(f" {tmp_path / 'out'}")].split()[-5:]
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    for name, side in (("one", demo_run), ("other", other)):
        metrics = json.loads((side / "metrics.json").read_text())
        assert content["recalls"]["rsum"][name] == metrics["rsum"]
        assert content[name]["checkpoint"] == metrics["checkpoint"]
    assert content["recalls"]["i2t R@1"]["verdict"] in ("difference", "no difference shown")


def test_the_command_fits_a_narrow_terminal_and_refuses_with_the_way_out(
    command, demo_run: Path, tmp_path: Path
) -> None:
    ended = command("compare", f"one={demo_run}", f"other={demo_run}")
    assert ended.code == 0, ended.err
    (rsum,) = [line for line in ended.out.splitlines() if line.split()[:1] == ["rsum"]]
    assert rsum.split()[3:] == ["+0.0", "+0.0", "to", "+0.0", "1.0000", "no", "difference", "shown"]
    ended = command("compare", f"one={demo_run}", f"other={left(tmp_path / 'a', GOOD)}", f"out={tmp_path / 'x'}")
    assert (ended.code, ended.out) == (1, "")
    assert "f00d" in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "x").exists()
