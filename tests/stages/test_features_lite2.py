"""EfficientNet-Lite2, and grids of two networks side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from threeshnet.errors import ConfigError
from threeshnet.features.extractor import Extractor
from threeshnet.features.lite0 import Lite0
from threeshnet.features.lite2 import Lite2
from threeshnet.features.mobile import InvertedResidual
from threeshnet.features.photos import PhotoBatches
from threeshnet.features.predict import Extraction
from threeshnet.features.recipes import built
from threeshnet.features.side_by_side import SideBySide
from threeshnet.features.sources import as_extractor
from threeshnet.features.tiny import Tiny
from threeshnet.records import AnnotatedSet

from .pictures import picture


def halving_blocks(extractor: Lite0) -> list[int]:
    blocks = [layer for layer in extractor.network.layers if isinstance(layer, InvertedResidual)]
    return [number for number, block in enumerate(blocks) if any(step.stride == 2 for step in block.steps)]


def grid_of(extractor: Extractor, folder: Path, count: int = 3) -> np.ndarray:
    photos = PhotoBatches([picture(folder, number) for number in range(count)], [extractor], [range(count)])
    with torch.inference_mode():
        return np.stack(list(Extraction([extractor]).extracted(photos[0]).arrays.grid))


def test_the_blocks_with_stride_2_are_those_of_the_published_networks() -> None:
    """Tan and Le, table 1, with depths of 1 and 1.2: each stage but the first and the last is that much deeper."""
    pytest.importorskip(Lite2.package)
    assert halving_blocks(Lite0(fields=["grid"])) == [1, 3, 5, 11]
    assert halving_blocks(Lite2(fields=["grid"])) == [1, 4, 7, 15]


def test_lite2_gives_what_lite0_gives_from_other_weights(tmp_path: Path) -> None:
    pytest.importorskip(Lite2.package)
    one, other = Lite0(), Lite2()
    assert (one.able, one.grid_size, one.options) == (other.able, other.grid_size, other.options)
    assert one.identity()["weights"] != other.identity()["weights"]
    assert one.class_names != other.class_names  # other groups of the same 1,000 classes
    assert grid_of(other, tmp_path).shape == (3, 49, 1280)


def test_both_networks_see_the_same_in_colours() -> None:
    """Wrong strides or paddings would leave noise: of coarse patches of colour, their logits are alike."""
    pytest.importorskip(Lite2.package)
    rng = np.random.default_rng(0)
    likely = []
    for extractor in (Lite0(fields=["grid"]), Lite2(fields=["grid"])):
        images = torch.from_numpy(np.repeat(np.repeat(rng.integers(0, 256, (1, 7, 7, 3), np.uint8), 32, 1), 32, 2))
        with torch.inference_mode():
            likely.append(extractor.network.classifier(extractor.cells(images)).mean(dim=1))
        rng = np.random.default_rng(0)
    correlation = float(torch.corrcoef(torch.cat(likely))[0, 1])
    assert correlation > 0.5


def tinies() -> tuple[Tiny, Tiny]:
    return Tiny(fields=["grid"], width=8), Tiny(fields=["grid"], width=12, seed=1)


def test_cells_side_by_side_are_those_of_each(tmp_path: Path) -> None:
    both, each = SideBySide(first=tinies()[0], second=tinies()[1]), tinies()
    found = grid_of(both, tmp_path)
    assert found.shape == (3, 49, 20)
    assert np.array_equal(found, np.concatenate([grid_of(one, tmp_path) for one in each], axis=-1))
    assert both.identity()["weights"] == "random, seed 0+random, seed 1"
    assert both.grid_size == each[0].grid_size


def test_they_are_built_again_from_a_checkpoints_recipe() -> None:
    first, second = tinies()
    again = built(SideBySide(first=first, second=second).recipe)
    assert again.identity() == SideBySide(first=first, second=second).identity()


def test_grids_of_other_sizes_are_refused() -> None:
    first, second = tinies()
    second.grid_size = (9, 9)
    with pytest.raises(ConfigError, match=r"tiny has a grid of \(7, 7\) cells, and tiny of \(9, 9\)"):
        SideBySide(first=first, second=second)


def test_the_yaml_names_both() -> None:
    pytest.importorskip(Lite2.package)
    made = as_extractor("grid", "lite0_lite2", AnnotatedSet("", (), ()))
    assert made is not None
    assert (made.name, made.fields, made.small) == ("lite0+lite2", ("grid",), True)
