"""How much of VSpM's map is where: python experiments/robustness/places.py <checkpoints> --shards <folder> --split dev

VSpM attends over 4,096 place vectors, which a convolution makes of the number of each cell's class (0 to 133) and of
eight sinusoidal channels of its position (-1 to 1). The variance of the two parts over cells and photos, before
BatchNorm, says how much of a place vector is its position. Rows of places.csv: fresh weights, and those of the models.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import threeshnet
from threeshnet.files import write_rows
from threeshnet.fusion.spatial import PLACE_WIDTH, POSITION_WIDTH, PlaceEncoder, SpatialFusion
from threeshnet.shards.reader import ShardedSplit
from threeshnet.training.checkpoint import checkpoint_hash, read_checkpoint

HERE = Path(__file__).resolve().parent
FILE = "places.csv"
COLUMNS = ("data", "weights", "seed", "percent_by_position", "least", "most", "class_deviation", "position_deviation")
COLUMNS += ("photos", "checkpoint")


@torch.inference_mode()
def parts_of_variance(places: PlaceEncoder, seg_map: torch.Tensor) -> dict[str, float]:
    """Of maps [B, 64, 64]: percent of the variance of the 128 channels that is by position, and both deviations."""
    weight = places.conv.weight
    slope = weight[:, :-POSITION_WIDTH].reshape(PLACE_WIDTH, -1).T
    of_class = (places.neighbours(seg_map) @ slope).double().var(dim=(0, 1))
    of_position = F.conv2d(places.positions, weight[:, -POSITION_WIDTH:], padding=1).double().var(dim=(0, 2, 3))
    percent = 100 * of_position / (of_class + of_position)
    found = {"percent_by_position": percent.median(), "least": percent.min(), "most": percent.max()}
    found |= {"class_deviation": of_class.sqrt().median(), "position_deviation": of_position.sqrt().median()}
    return {name: float(value) for name, value in found.items()}


def rows_of(checkpoint: Path, seg_map: torch.Tensor, data: str) -> list[dict[str, Any]]:
    """Of a trained model, and of fresh weights."""
    model: Any = threeshnet.load_model(checkpoint)
    (trained,) = (module for module in model.modules() if isinstance(module, SpatialFusion))
    seed = int(read_checkpoint(checkpoint)["threeshnet"]["run"]["seed"])
    torch.manual_seed(seed)
    fresh = PlaceEncoder(classes=trained.places.classes)
    known = {"data": data, "seed": seed, "photos": len(seg_map)}
    return [
        known | {"weights": "fresh"} | parts_of_variance(fresh, seg_map),
        known
        | {"weights": "trained", "checkpoint": checkpoint_hash(checkpoint)}
        | parts_of_variance(trained.places, seg_map),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--shards", required=True, type=Path, help="of the data set that the models were trained on")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--out", type=Path, default=HERE / FILE)
    asked = parser.parse_args()
    split = ShardedSplit(asked.shards, asked.split)
    numbers = list(range(min(asked.photos, split.images)))
    seg_map = torch.from_numpy(np.asarray(split.read(numbers, ["seg"]).seg_map))
    rows = [row for file in asked.checkpoints for row in rows_of(file, seg_map, split.manifest.dataset)]
    rows = [{key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()} for row in rows]
    write_rows(asked.out, COLUMNS, sorted(rows, key=lambda row: (row["weights"], row["seed"])))
    print(asked.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
