"""A half-finished study as a sweep leaves it, made in a second: two activations by three seeds, one job failed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

NOW = 1_800_000_000.0
EPOCHS, STEPS = 8, 62
STATES = {
    ("sigmoid", 0): "finished",
    ("sigmoid", 1): "finished",
    ("sigmoid", 2): "running",
    ("softmax", 0): "finished",
    ("softmax", 1): "failed",
    ("softmax", 2): "silent",
}
COMPLAINT = "the loss is nan at step 130 (epoch 2); captions of the batch: <b>[3, 4]</b>"


def make_study(folder: Path) -> Path:
    """Run directories in `folder`, and one that has not begun."""
    for (activation, seed), state in STATES.items():
        make_run(folder / f"activation={activation},seed={seed}", activation, seed, state)
    write(folder / "activation=softmax,seed=3" / "job.json", job("softmax", 3))
    return folder


def make_run(run: Path, activation: str, seed: int, state: str) -> None:
    epochs = EPOCHS if state == "finished" else {"running": 5, "failed": 2, "silent": 3}[state]
    curve = [rsum(activation, seed, epoch) for epoch in range(epochs)]
    write(run / "job.json", job(activation, seed))
    write(run / "progress.json", progress(state, epochs, curve))
    (run / "log").mkdir(parents=True)
    rows = ["epoch,step,train/loss,dev/rsum"]
    for epoch in range(epochs):
        loss = 40 * math.exp(-epoch / 3) + seed
        rows += [f"{epoch},{epoch * STEPS + 10},{loss + 1:.3f},", f"{epoch},{epoch * STEPS + 50},{loss - 1:.3f},"]
        rows.append(f"{epoch},{(epoch + 1) * STEPS - 1},,{curve[epoch]:.3f}")
    (run / "log" / "metrics.csv").write_text("\n".join(rows) + "\n")
    if state == "failed":
        (run / "output.log").write_text("Traceback\n" + COMPLAINT + "\n")
    if state == "finished":
        sides = {side: {f"R@{k}": k + 10.0 + seed for k in (1, 5, 10)} for side in ("i2t", "t2i")}
        known = {"checkpoint": f"c0ffee{seed}", "minutes": 1.5, "epochs": EPOCHS}
        known |= {"described": "full", "selection": "best"}
        write(run / "metrics.json", {"rsum": curve[-1], **sides, **known})
        make_pictures(run)


def rsum(activation: str, seed: int, epoch: int) -> float:
    height = {"sigmoid": 240, "softmax": 225}[activation]
    return height * (1 - math.exp(-(epoch + 1) / 2.5)) + 6 * math.sin(3 * seed + epoch)


def progress(state: str, epochs: int, curve: list[float]) -> dict[str, Any]:
    return {
        "state": "running" if state == "silent" else state,
        "epoch": epochs,
        "epochs": EPOCHS,
        "step": epochs * STEPS,
        "steps": EPOCHS * STEPS,
        "dev_rsum": curve[-1],
        "best_dev_rsum": max(curve),
        "started": NOW - 7_200,
        "updated": NOW - (4_000 if state == "silent" else 3),
        "seconds_left": None if state != "running" else 95.0,
    }


def job(activation: str, seed: int) -> dict[str, Any]:
    same = {"study": "activation", "experiment": "region_demo", "data": "demo", "fingerprint": "9f" * 20}
    return same | {"commit": "0123456789abcdef+", "seed": seed, "factors": {"activation": activation, "seed": seed}}


def make_pictures(run: Path) -> None:
    retrievals = []
    for number in (0, 7):
        picture = Image.fromarray(np.full((300, 700, 3), 235, np.uint8))
        ImageDraw.Draw(picture).ellipse((60 + 20 * number, 40, 300, 260), fill=(200, 80, 60))
        file = run / "highlights" / f"test-{number:05d}.png"
        file.parent.mkdir(exist_ok=True)
        picture.save(file)
        captions = [{"caption": "a <red> ball left of a cup", "similarity": 0.41, "right": True}]
        captions.append({"caption": "a cup & nothing else", "similarity": 0.37, "right": False})
        shown = {"image": f"photo {number}", "number": number, "picture": f"highlights/{file.name}", "i2t_rank": 1}
        retrievals.append(shown | {"own": [{"caption": "a <red> ball", "t2i_rank": 2}], "top": captions})
    row = {"image": "photo 7", "caption": "two cups", "wrong_image": "photo 0", "wrong_caption": "a ball", "gap": 0.2}
    weights = {"5": [0.4, 0.2, 0.2, 0.1, 0.1], "2": [0.7, 0.3]}
    histogram = {"counts": [1, 4, 9, 3], "edges": [0.0, 0.25, 0.5, 0.75, 1.0]}
    inspected = {"retrievals": retrievals, "confusions": {"i2t": [row], "t2i": []}}
    write(run / "inspection.json", inspected | {"pooling": {"text": weights}, "semantic": {"regions": histogram}})


def write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
