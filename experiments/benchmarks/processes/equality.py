"""Is a step in several processes that of one?  python -m experiments.benchmarks.processes.equality --out <folder>

Real processes over gloo on CPUs, tiny sizes. Every number compares N processes with one that has the whole batch;
`result.json` is written to the folder, and the tables into its README.md where there is one.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from threeshnet.batches.collate import collate_images
from threeshnet.batches.order import EveryItemOnce
from threeshnet.files import write_json
from threeshnet.installation import current_commit
from threeshnet.metrics.recalls import recall
from threeshnet.metrics.similarity import EmbeddingSimilarity
from threeshnet.objectives.infonce import InfoNCELoss
from threeshnet.objectives.triplet import TripletLoss
from threeshnet.training.encoding import Collector
from threeshnet.training.module import RetrievalModule

from ..common import write_page
from .naive import WAYS, gathering
from .world import (
    BATCH,
    CAPTIONS,
    Photos,
    batches,
    build,
    furthest,
    gradients,
    in_turn,
    module_of,
    to,
    together,
    train,
    words,
)

CHUNK = 3  # pairs encoded at a time
OBJECTIVES = {
    "triplet, sum": partial(TripletLoss, warm_up_epochs=1),
    "triplet, hardest": partial(TripletLoss, warm_up_epochs=0),
    "InfoNCE": InfoNCELoss,
}
EVEN, UNEVEN = f"{BATCH} pairs", f"{CAPTIONS % BATCH} pairs, uneven"
PLACES = {EVEN: 3, UNEVEN: CAPTIONS // BATCH}  # of the batches in their epoch
# Batches, and how they are trained on. Chunks take a pass for each level of BatchNorm: fewer batches, and without VSpM.
TRAININGS: dict[str, tuple[int, dict[str, Any]]] = {
    "hybrid": (20, {"kind": "hybrid"}),
    "region, float32": (20, {"precision": "32-true"}),
    "region, BatchNorm by shares": (20, {"sync_batchnorm": False, "batch": 2 * BATCH}),  # no share of one pair
    "region, two batches a step": (10, {"fusion": "semantic", "accumulate": 2}),
    f"region, two batches a step, chunks of {CHUNK}": (10, {"fusion": "semantic", "accumulate": 2, "chunk": CHUNK}),
}
QUICK = {"hybrid": 6, f"region, two batches a step, chunks of {CHUNK}": 6, "region, two batches a step": 6}
WITHOUT_VSPM = {"fusion": "semantic"}  # whose attention over 4096 places is most of the work of a tiny model
NAIVE_OBJECTIVES = ("triplet, hardest", "InfoNCE")


# ---- what each process does


def everything(rank: int, processes: int, *, quick: bool) -> dict[str, Any]:
    shares = list(in_turn(batches(rank, processes), CAPTIONS // BATCH + 1))
    owners = {kind: shares[place].owners for kind, place in PLACES.items()}
    return {
        "owners": owners,
        "steps": steps(shares, processes, quick=quick),
        "otherwise": otherwise(shares, processes, quick=quick),
        "trainings": trainings(rank, processes, quick=quick),
    }


def steps(shares: Sequence[Any], processes: int, *, quick: bool) -> dict[tuple[Any, ...], Any]:
    """Every objective, masked and not, on an even and on an uneven batch, in both precisions, whole and in chunks.

    The quick way has VSpM with the first objective alone.
    """
    found = {}
    dtypes = (torch.float64,) if quick else (torch.float64, torch.float32)
    for name, masked, kind, dtype, chunk in product(OBJECTIVES, (False, True), PLACES, dtypes, (None, CHUNK)):
        if chunk is None or (dtype == torch.float64 and masked and kind == UNEVEN):
            model = build(**WITHOUT_VSPM if quick and name != next(iter(OBJECTIVES)) else {}).to(dtype)
            module = module_of(model, OBJECTIVES[name](mask_same_image=masked).to(dtype), chunk=chunk)
            found[name, masked, kind, str(dtype), chunk] = one_step(module, to(shares[PLACES[kind]], dtype), processes)
    return found


def otherwise(shares: Sequence[Any], processes: int, *, quick: bool) -> dict[tuple[str, str], Any]:
    """The even batch again, gathered otherwise, with statistics that are not shared, with padding that is not equal."""
    found = {}
    batch, model = to(shares[PLACES[EVEN]], torch.float64), build(**WITHOUT_VSPM if quick else {}).double()
    for name in NAIVE_OBJECTIVES:
        make = partial(module_of, model, OBJECTIVES[name](mask_same_image=True).double())
        found[name, "ours"] = one_step(make(), batch, processes)
        for way, gather in WAYS.items() if processes > 1 else ():
            with gathering(gather):
                found[name, way] = one_step(make(), batch, processes)
        found[name, "BatchNorm by shares"] = one_step(make(sync_batchnorm=False), batch, processes)
        shared = make()
        shared.share_statistics()
        shared.synchronized, shared.sync_batchnorm = False, False  # its layers share, and nothing is widened
        found[name, "padded by shares"] = one_step(shared, batch, processes)
    return found


class Step(nn.Module):
    """What DDP wraps: the loss of a share."""

    def __init__(self, module: RetrievalModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Any) -> Tensor:
        return self.module.loss(batch, 0)["loss"]


def one_step(module: RetrievalModule, batch: Any, processes: int) -> dict[str, Any]:
    """Loss, gradients and running statistics after one step, averaged by DDP."""
    module.prepare()
    step = Step(module)
    wrapped = DistributedDataParallel(step) if processes > 1 else step  # gone, it would average nothing: keep the name
    loss = wrapped(batch)
    loss.backward()
    return {"loss": loss.item(), "gradients": gradients(step), "buffers": dict(module.model.named_buffers())}


def trainings(rank: int, processes: int, *, quick: bool) -> dict[str, Any]:
    """Some batches through Lightning: losses, parameters, buffers; and the recalls of the trained model."""
    found = {}
    for name, (count, options) in TRAININGS.items():
        if quick and name not in QUICK:
            continue
        of_model, of_module = (
            {key: options[key] for key in keys if key in options}
            for keys in (("kind", "fusion"), ("chunk", "sync_batchnorm"))
        )
        module = module_of(build(**of_model), TripletLoss(mask_same_image=True), **of_module)
        ways = {key: options[key] for key in ("precision", "accumulate", "batch") if key in options}
        losses = train(module, rank, processes, steps=QUICK[name] if quick else count, **ways)
        parameters = {name: weight.detach() for name, weight in module.model.named_parameters()}
        buffers = dict(module.model.named_buffers())
        found[name] = {"losses": losses, "parameters": parameters, "buffers": buffers}
        found[name] |= {"recalls": recalls(module, rank, processes)}
    return found


@torch.no_grad()
def recalls(module: RetrievalModule, rank: int, processes: int) -> dict[str, Any]:
    """Of the photos trained on, each encoded in one process; caption 0 in every one, and counted once."""
    photos, tokenizer, model = Photos(), words(), module.model.double().eval()
    images, captions = Collector(), Collector()
    for numbers in EveryItemOnce(photos.images, batch_size=3, rank=rank, world_size=processes):
        batch = to(collate_images(photos.read(numbers)), torch.float64)
        images.add(model.image_encoder(batch), torch.tensor(numbers))
    for numbers in [[0], *EveryItemOnce(CAPTIONS, batch_size=4, rank=rank, world_size=processes)]:
        texts = tokenizer([photos.caption_texts[number] for number in numbers])
        captions.add(model.text_encoder(texts), torch.tensor(numbers))
    sides = EmbeddingSimilarity(images.gather(photos.images), captions.gather(CAPTIONS))
    return recall(sides, photos.owners)  # pyright: ignore[reportReturnType]


# ---- what comes of it


def compare(one: dict[str, Any], several: list[dict[str, Any]]) -> dict[str, Any]:
    """Differences of N processes from one, the worst of all processes."""
    worst: dict[str, Any] = {"steps": [], "otherwise": [], "trainings": []}
    for key, alone in one["steps"].items():
        name, masked, kind, dtype, chunk = key
        reference = one["steps"][name, masked, kind, dtype, None]  # chunks are compared with the plain step
        row = {"objective": name, "masked": masked, "batch": kind}
        row |= {"dtype": dtype.removeprefix("torch."), "chunk": chunk}
        worst["steps"].append(row | difference(reference, [each["steps"][key] for each in several]))
        assert alone["loss"] > 0
    for name, way in several[0]["otherwise"]:
        row = difference(one["otherwise"][name, "ours"], [each["otherwise"][name, way] for each in several])
        worst["otherwise"].append({"objective": name, "way": way} | row)
    for name, alone in one["trainings"].items():
        reference = one["trainings"][name.replace(f", chunks of {CHUNK}", "")]
        others = [each["trainings"][name] for each in several]
        worst["trainings"].append(
            {
                "training": name,
                "loss": max(away(reference["losses"], other["losses"]) for other in others),
                "parameters": max(furthest(reference["parameters"], other["parameters"]) for other in others),
                "buffers": max(furthest(reference["buffers"], other["buffers"]) for other in others),
                "same_recalls": all(other["recalls"] == reference["recalls"] for other in others),
                "rsum": [others[0]["recalls"]["rsum"], reference["recalls"]["rsum"]],
                "steps": len(alone["losses"]),
            }
        )
    return worst


def difference(alone: dict[str, Any], several: list[dict[str, Any]]) -> dict[str, float]:
    """Relative differences of the loss, of gradients and running statistics; the gradient's length and direction."""
    lengths = [whole(each["gradients"]) for each in (alone, several[0])]
    cosine = torch.nn.functional.cosine_similarity(*[flat(each["gradients"]) for each in (alone, several[0])], dim=0)
    return {
        "loss": max(away([alone["loss"]], [each["loss"]]) for each in several),
        "gradient": max(furthest(alone["gradients"], each["gradients"]) for each in several),
        "buffers": max(furthest(alone["buffers"], each["buffers"]) for each in several),
        "length": lengths[1] / lengths[0],
        "cosine": float(cosine),
    }


def away(one: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(one, other, strict=True))


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.double().flatten() for tensor in tensors.values()])


def whole(tensors: dict[str, Tensor]) -> float:
    return float(flat(tensors).norm())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="always with 1 among them")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="fewer cases, as the tests run it")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    found: dict[str, Any] = {"commit": current_commit(), "torch": torch.__version__}
    work = partial(everything, quick=options.quick)
    with tempfile.TemporaryDirectory() as folder:
        (one,) = together(1, work, Path(folder))
        found["owners"] = {kind: value.tolist() for kind, value in one["owners"].items()}
        for processes in options.processes:
            several = [one] if processes == 1 else together(processes, work, Path(folder))
            found[f"N={processes}"] = compare(one, several)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "result.json", found)
    write_page(options.out)


if __name__ == "__main__":
    main()
