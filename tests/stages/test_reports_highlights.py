"""Pictures of what the guidance looked at: every combination of what a model may have or lack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from threeshnet.evaluation.panels import class_label
from threeshnet.evaluation.pictures import Attention, Highlight, attention_of_tokens, caption_lines, draw, panel_rows
from threeshnet.records import MAP_SIDE, VOID

CELLS, REGIONS = (2, 3), 4
LONG = "a very long caption that goes on about prices like $5 and $6 " * 8


def attention(kind: str, semantic: bool = True, spatial: bool = True) -> Attention:
    generator = np.random.default_rng(0)
    count = REGIONS if kind == "regions" else CELLS[0] * CELLS[1]
    return Attention(
        title=kind,
        boxes=np.sort(generator.random((REGIONS, 2, 2)), axis=1).reshape(REGIONS, 4) if kind == "regions" else None,
        grid_size=CELLS if kind == "cells" else None,
        semantic=np.full(count, 0.5) if semantic else None,  # all alike: the scale has no width of its own
        spatial=np.full((MAP_SIDE, MAP_SIDE), MAP_SIDE**-2.0) if spatial else None,
    )


def highlight(*branches: Attention, height: int = 30, seg: bool = True) -> Highlight:
    seg_map = np.arange(MAP_SIDE * MAP_SIDE).reshape(MAP_SIDE, MAP_SIDE) % 12
    seg_map[0] = VOID
    names = [f"class {number} of several long words" for number in range(12)]
    captions = [("a dog", 1), (LONG, 1234)]
    photo = np.full((height, 40, 3), 128, np.uint8)
    return Highlight("photo-1", photo, seg_map.astype(np.uint8) if seg else None, names, branches, captions, 5000)


REGION, CELL = attention("regions"), attention("cells")


@pytest.mark.parametrize(
    ("branches", "seg", "columns"),
    [
        ((), True, [2]),
        ((REGION,), True, [4]),
        ((REGION,), False, [3]),
        ((attention("cells", spatial=False),), True, [3]),
        ((REGION, CELL), True, [3, 3]),
        ((REGION, CELL), False, [3, 2]),
        ((attention("regions", False, False), attention("cells", False, False)), False, [1]),
    ],
)
def test_every_kind_of_model_is_drawn(
    branches: tuple[Attention, ...], seg: bool, columns: list[int], tmp_path: Path
) -> None:
    drawn = highlight(*branches, seg=seg)
    assert [len(row) for row in panel_rows(drawn)] == columns
    draw(drawn, tmp_path / "new" / "one.png")
    with Image.open(tmp_path / "new" / "one.png") as opened:
        assert opened.width > 900
        assert np.asarray(opened.convert("L")).min() < 100
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["one.png"]


def test_captions_are_broken_and_not_cut() -> None:
    lines = caption_lines(highlight(), letters=40)
    assert max(len(text) for rank, text in lines[1:]) <= 40
    assert " ".join(text for _, text in lines[2:]) == LONG.strip()
    assert [rank for rank, _ in lines if rank] == ["rank", "1", "1,234"]


def test_class_names_fit() -> None:
    assert class_label("wall-other-merged") == "wall"
    assert class_label("supercalifragilistic") == "supercalifragili…"
    assert class_label("sports ball") == "sports ball"


def test_the_map_is_the_mean_over_tokens_by_their_weights() -> None:
    per_token = np.stack([np.eye(4096)[0], np.eye(4096)[5]])
    found = attention_of_tokens(per_token, np.array([3.0, 1.0]))
    assert found[0, 0] == pytest.approx(0.75)
    assert found[0, 5] == pytest.approx(0.25)
    assert attention_of_tokens(per_token, None)[0, 5] == pytest.approx(0.5)
