"""Do the trainer's options go together?  python -m experiments.benchmarks.processes.options --out <folder>

Precision, chunks, accumulation, shared statistics and torch.compile in all combinations, in one process and in two over
gloo, on CPUs, tiny sizes. `options.json` is written to the folder, and the table into its README.md where there is one.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import warnings
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from threeshnet.installation import current_commit
from threeshnet.objectives.triplet import TripletLoss

from ..common import write_page
from .world import BATCH, build, module_of, together, train

BATCHES, CHUNK, ROWS = 4, 5, 5  # batches of a training; pairs encoded, and images compared, at a time
PARTS = {"fusion": "semantic", "parts": "category,local,fused,scene"}
FEW_PARTS = {"fusion": "", "parts": "local"}  # compiled in seconds on a CPU; a level of BatchNorm is there


class Case(NamedTuple):
    """What a training is asked for."""

    precision: str = "32-true"
    chunk: int | None = None
    accumulate: int = 1
    sync: bool = True
    compile: str | None = None

    @property
    def plain(self) -> Case:
        """The same batches and parts without the options."""
        return Case(accumulate=self.accumulate)

    def __str__(self) -> str:
        said = {
            self.precision: True,
            f"chunks of {self.chunk}": self.chunk,
            "compiled": self.compile,
            f"{self.accumulate} batches a step": self.accumulate > 1,
            "BatchNorm by shares": not self.sync,
        }
        return ", ".join(word for word, holds in said.items() if holds)


def cases(backend: str, *, quick: bool) -> list[Case]:
    """All that go together; chunks share their statistics, and are not compiled."""
    ways = [(None, None), (CHUNK, None), (None, backend)]
    found = [
        Case(precision, chunk, accumulate, sync, compiled)
        for (chunk, compiled), precision, accumulate, sync in product(
            ways, ("32-true", "bf16-mixed"), (1, 2), (True, False)
        )
        if sync or not chunk
    ]
    if not quick:
        return found
    kept = {Case(chunk=CHUNK, accumulate=2), Case("bf16-mixed", CHUNK, accumulate=2)}
    kept |= {Case("bf16-mixed", accumulate=2, sync=False), Case("bf16-mixed", accumulate=2, compile=backend)}
    return [case for case in found if case in kept]


def everything(rank: int, processes: int, *, asked: Sequence[Case], few: bool) -> dict[str, Any]:
    """The losses of every case, the names of its weights and whether they are float32, as this process sees them."""
    found = {}
    for case, parts in dict.fromkeys(pair for each in asked for pair in needed(each, few=few)):
        module = module_of(
            build(**dict(parts)),
            TripletLoss(mask_same_image=True, warm_up_epochs=0, rows=ROWS if case.chunk else None),
            chunk=case.chunk,
            sync_batchnorm=case.sync,
            compile=case.compile,
        )
        how: dict[str, Any] = {"precision": case.precision, "accumulate": case.accumulate, "batch": 2 * BATCH}
        losses = train(module, rank, processes, steps=BATCHES, **how)
        names = {name: str(tensor.dtype) for name, tensor in module.state_dict().items()}
        found[case, parts] = {"losses": losses, "names": names}
    return found


def needed(case: Case, *, few: bool) -> list[tuple[Case, tuple[tuple[str, str], ...]]]:
    """A case and the plain one that it is compared with, and the parts of both."""
    parts = tuple((FEW_PARTS if few or case.compile else PARTS).items())
    return [(case, parts), (case.plain, parts)]


def compare(
    one: dict[str, Any], several: Sequence[dict[str, Any]], asked: Sequence[Case], *, few: bool
) -> list[dict[str, Any]]:
    """For each case: how far losses are from those of one process, and from those of the plain case in one process."""
    rows = []
    for case in asked:
        key, plain = needed(case, few=few)
        mine = [each[key] for each in several]
        rows.append(
            {
                **case._asdict(),
                "case": str(case),
                "to_one": max(away(one[key]["losses"], each["losses"]) for each in mine),
                "to_plain": max(away(one[plain]["losses"], each["losses"]) for each in mine),
                "same_names": all(each["names"] == one[plain]["names"] for each in mine),
                "batches": len(mine[0]["losses"]),
            }
        )
    return rows


def away(expected: Sequence[float], found: Sequence[float]) -> float:
    return max(abs(a - b) / abs(a) for a, b in zip(expected, found, strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="fewer cases of a smaller model, as the tests run it")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    asked = cases(options.backend, quick=options.quick)
    found: dict[str, Any] = {"commit": current_commit(), "torch": torch.__version__, "processes": options.processes}
    with tempfile.TemporaryDirectory() as folder:
        work = partial(everything, asked=asked, few=options.quick)
        (one,) = together(1, work, Path(folder))
        for processes in options.processes:
            several = [one] if processes == 1 else together(processes, work, Path(folder))
            found[f"N={processes}"] = compare(one, several, asked, few=options.quick)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "options.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write_page(options.out)


if __name__ == "__main__":
    main()
