"""The hardest confusions and the nearest captions against plain loops; the weights that an inspection shows."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from threeshnet.evaluation.inspection import _by_size, _set_sizes
from threeshnet.metrics.confusions import hardest_confusions, nearest_captions
from threeshnet.pooling.generalized import GeneralizedPooling
from threeshnet.records import TokenSet
from threeshnet.runs.run import Run
from threeshnet.runs.tracking import mode_of
from threeshnet.runs.wandb_log import WandbLog, open_run


def plainly(matrix: np.ndarray, owners: np.ndarray) -> dict[str, list[float]]:
    """The gaps of all queries that are answered wrongly, greatest first."""
    best = [max(matrix[g, q] for g in range(len(matrix)) if g != owners[q]) for q in range(len(owners))]
    t2i = [best[q] - matrix[owners[q], q] for q in range(len(owners))]
    i2t = [matrix[g, owners != g].max() - matrix[g, owners == g].max() for g in range(len(matrix))]
    wrong = {"i2t": i2t, "t2i": t2i}
    return {side: sorted((gap for gap in gaps if gap >= 0), reverse=True) for side, gaps in wrong.items()}


@given(st.integers(2, 6), st.lists(st.integers(0, 5), max_size=9), *[st.integers(1, 40)] * 2, st.integers(1, 30))
def test_confusions_are_those_of_the_plain_loop(
    images: int, more: list[int], cells: int, seed: int, count: int
) -> None:
    draws = np.random.default_rng(seed)
    owners = draws.permutation(np.concatenate([np.arange(images), np.asarray(more, int) % images]))
    matrix = draws.integers(-3, 4, (images, len(owners))).astype(np.float64)  # with ties
    found = hardest_confusions(matrix, owners, count=count, block_cells=cells)
    for direction, gaps in plainly(matrix, owners).items():
        assert [one.gap for one in found[direction]] == gaps[:count]
    for one in found["t2i"]:
        assert owners[one.caption] == one.image != one.wrong
        assert matrix[one.wrong, one.caption] - matrix[one.image, one.caption] == one.gap
    for one in found["i2t"]:
        assert owners[one.caption] == one.image != owners[one.wrong]
        assert matrix[one.image, one.wrong] - matrix[one.image, one.caption] == one.gap
    assert hardest_confusions(matrix.astype(np.int64), owners, count=count, block_cells=cells) == found


def test_the_nearest_captions_are_in_order() -> None:
    matrix = torch.rand(3, 7, generator=torch.Generator().manual_seed(0))
    found = nearest_captions(matrix, [2, 0], count=4)
    for image, row in zip((2, 0), found, strict=True):
        assert [place for place, _ in row] == matrix[image].argsort(descending=True)[:4].tolist()


def test_the_weights_of_the_set_sizes_that_occur() -> None:
    pooling = GeneralizedPooling()
    masks = torch.arange(9) < torch.tensor([2, 3, 3, 9]).unsqueeze(1)
    with _set_sizes({"pooling": pooling}) as seen:
        pooling(TokenSet(torch.rand(4, 9, 5), masks))
    pooling(TokenSet(torch.rand(1, 4, 5), torch.ones(1, 4, dtype=torch.bool)))  # no longer looked at
    assert seen == {"pooling": [2, 3, 3, 9]}
    with torch.no_grad():
        found = _by_size(pooling, seen["pooling"])
    assert {size: len(row) for size, row in found.items()} == {"2": 2, "3": 3, "9": 9}
    assert all(sum(row) == pytest.approx(1, abs=1e-3) for row in found.values())


# ---- the W&B logger


def test_online_without_an_account_is_offline_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    entries = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(entries))
    assert mode_of("online") == "offline"
    assert "api.wandb.ai" in caplog.text
    login = " login me password secret\n"
    for text, mode in (("machine elsewhere.org" + login, "offline"), ("this is no netrc", "offline")):
        entries.write_text(text)
        assert mode_of("online") == mode
    entries.write_text("machine api.wandb.ai" + login)
    assert mode_of("online") == "online"
    settings = (("BASE_URL", "https://wandb.elsewhere.org"), ("API_KEY", "secret"), ("MODE", "offline"))
    for (name, value), mode in zip(settings, ("offline", "online", "offline"), strict=True):
        monkeypatch.setenv(f"WANDB_{name}", value)
        assert mode_of("online") == mode
    assert "secret" not in caplog.text
    assert (mode_of("off"), mode_of("offline")) == ("off", "offline")


def test_the_id_is_kept_for_a_resumed_run_alone(tmp_path: Path) -> None:
    ids = [Run(tmp_path).wandb_id(project="p", resumed=resumed) for resumed in (False, True, False, True)]
    assert ids[0] == ids[1] != ids[2] == ids[3]


def test_a_service_that_fails_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []

    def refuse(**settings: object) -> None:
        tried.append(settings["mode"])
        raise RuntimeError("the service is down")

    monkeypatch.setattr("threeshnet.runs.wandb_log.wandb.init", refuse)
    facts = {"project": "p", "name": "n", "job_type": "train"}
    assert open_run(tmp_path, mode="online", id="i", group=None, tags=[], config={}, **facts) is None
    assert tried == ["online", "offline"]
    assert "the service is down" in caplog.text

    def broken(*_: object, **__: object) -> None:
        raise OSError("no space left")

    log = WandbLog(SimpleNamespace(project="p", id="i", log=broken, finish=broken), tmp_path)
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        log.log_metrics({"train/loss": 1.0}, 3)
        log.log_metrics({"train/loss": 1.0}, 4)
        log.close(0)
    assert len(caplog.records) == 1  # said once
    assert "no space left" in caplog.text
