"""What a step costs in several processes: seconds and bytes.

    python -m experiments.benchmarks.processes.scaling --out experiments/benchmarks/processes

Steps of the region model (36 x 2048, 133 classes, made-up numbers) as training takes them: forward, loss, backward,
DDP, gradient norm, AdamW; in one process with two threads, and in two with one thread each, by torchrun over gloo. Rows
are kept in scaling.json as they are measured; those that are there are not measured again (--again measures them).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from hydra.utils import instantiate
from torch.nn.parallel import DistributedDataParallel

from threeshnet.files import write_json
from threeshnet.installation import current_commit
from threeshnet.nn.collectives import leave_together
from threeshnet.objectives.triplet import TripletLoss
from threeshnet.records import Batch, ImageBatch, TokenSet
from threeshnet.training.module import RetrievalModule
from threeshnet.training.schedules import Optimization

from ..common import composed, surroundings, text_overrides, write_page
from .equality import Step
from .traffic import Counter, collectives_of, loopback, sent

REGIONS, WIDTH, CLASSES, WORDS = 36, 2048, 133, (8, 20)
CASES = [  # processes, threads of each, BatchNorm over all
    (1, 2, True),
    (2, 1, True),
    (2, 1, False),
]


def build(dim: int, text: str, *, sync: bool = True) -> RetrievalModule:
    """The region model of the COCO experiment."""
    words = ["experiment=region_coco", f"dim={dim}", *text_overrides(text)]
    cfg = composed(*words, region_width=WIDTH, classes=CLASSES)
    torch.manual_seed(0)
    return RetrievalModule(
        model=instantiate(cfg.model).train(),
        objective=TripletLoss(warm_up_epochs=0),
        optimization=Optimization(
            partial(torch.optim.AdamW, weight_decay=1e-4),
            instantiate(cfg.schedule),
            cfg.optimization.learning_rate,
            cfg.optimization.pretrained_factor,
        ),
        sync_batchnorm=sync,
    )


def made_up(pairs: int, seed: int) -> Batch:
    """Pairs with the shapes of COCO's."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(WORDS[0], WORDS[1] + 1, (pairs, 1), generator=draw)
    words = torch.arange(WORDS[1]) < lengths
    images = ImageBatch(
        regions=TokenSet(torch.rand(pairs, REGIONS, WIDTH, generator=draw), torch.ones(pairs, REGIONS).bool()),
        grid=None,
        seg_semantic=torch.rand(pairs, CLASSES, 7, 7, generator=draw).softmax(dim=1),
        seg_map=torch.randint(CLASSES, (pairs, 64, 64), generator=draw).to(torch.uint8),
        seg_categories=(torch.rand(pairs, CLASSES, generator=draw) > 0.95).float(),
    )
    captions = TokenSet(torch.randint(1000, 30_000, words.shape, generator=draw) * words, words)
    return Batch(images, captions, torch.arange(pairs) + seed * pairs, torch.arange(pairs))


def measured_before(options: argparse.Namespace, name: str, settings: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """The file `name` of a measurement in `options.out`, and what it holds of these settings, or a beginning."""
    options.out.mkdir(parents=True, exist_ok=True)
    file, given = options.out / name, {key: getattr(options, key) for key in settings}
    measured = json.loads(file.read_text(encoding="utf-8")) if file.is_file() and not options.again else {}
    if measured.get("settings") != given:
        measured = {"settings": given, "commit": current_commit(), "torch": torch.__version__, "rows": []}
    return file, measured


# ---- what each process does


def work(options: argparse.Namespace) -> None:
    """Steps of one process among `WORLD_SIZE`; rank 0 writes what it saw."""
    torch.set_num_threads(options.threads)
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if processes > 1:
        dist.init_process_group("gloo")
    module = build(options.dim, options.text, sync=options.sync)
    module.prepare()
    step = Step(module)
    wrapped, counter = DistributedDataParallel(step) if processes > 1 else step, Counter()
    if isinstance(wrapped, DistributedDataParallel):
        counter.see_gradients(wrapped)
    optimizer = module.configure_optimizers()["optimizer"]
    batch = made_up(options.batch // processes, rank)
    seconds = []
    with counter.counting():
        for number in range(options.warm_up + options.steps):
            if number == options.warm_up:
                counter.bytes, over = dict.fromkeys(counter.bytes, 0), loopback()
            wait()
            started = time.perf_counter()
            optimizer.zero_grad()
            wrapped(batch).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 2.0)
            optimizer.step()
            seconds.append(time.perf_counter() - started)
        wait()
    now = loopback()
    expected = collectives_of(module, processes=processes, batch=options.batch, dim=options.dim)
    if rank == 0:
        found = {
            "seconds": seconds[options.warm_up :],
            "handed_over": {kind: count / options.steps for kind, count in counter.bytes.items()},
            "expected": {kind: sum(e.own for e in expected if e.kind == kind) for kind in counter.bytes},
            "to_send": processes * sum(sent(each, processes) for each in expected),
            "loopback": None if now is None or over is None else (now - over) / options.steps,
        }
        assert found["handed_over"] == found["expected"], found
        options.worker.write_text(json.dumps(found), encoding="utf-8")
    leave_together()


def wait() -> None:
    """Until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


def measure(options: argparse.Namespace, case: tuple[int, int, bool]) -> dict[str, Any]:
    """One row, by torchrun."""
    processes, threads, sync = case
    result = options.out / "scaling.partial.json"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    words = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in SETTINGS]
    words += [f"--worker={result}", f"--threads={threads}", f"--out={options.out}", *([] if sync else ["--shares"])]
    environment = surroundings() | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run([*launch, "-m", __spec__.name, *words], check=True, env=environment)
    found = json.loads(result.read_text(encoding="utf-8"))
    result.unlink()
    return {"processes": processes, "threads": threads, "sync": sync, **found}


# ---- what comes of it


SETTINGS = ("batch", "dim", "text", "warm_up", "steps")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=64, help="pairs in a step, all processes together")
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--text", default="minilm", help="tiny, small, minilm, or bert_base (random weights)")
    parser.add_argument("--warm-up", type=int, default=2, help="steps that are not counted")
    parser.add_argument("--steps", type=int, default=7, help="steps that are")
    parser.add_argument("--again", action="store_true", help="measure rows that are there already")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)  # this and what follows: for a process
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--shares", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.sync = not options.shares
    if options.worker:
        work(options)
        return
    file, found = measured_before(options, "scaling.json", SETTINGS)
    there = {(row["processes"], row["threads"], row["sync"]) for row in found["rows"]}
    for case in CASES:
        if case not in there:
            found["rows"].append(measure(options, case))
            write_json(file, found)
    write_page(options.out)


if __name__ == "__main__":
    main()
