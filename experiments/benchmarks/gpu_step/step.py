"""How fast is a training step of the paper's region model?  python -m experiments.benchmarks.gpu_step.step

`make train EXP=region_coco` on synthetic shards in COCO's layout, bert-base with random weights, on whatever device is
there: float32 and bf16, with torch.compile and without. Each row is a training of its own and is kept in step.csv when
it is done; rows that are there are not measured again. README.md gets the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate

from threeshnet.batches.datamodule import BatchOptions, RetrievalDataModule, Splits
from threeshnet.files import read_rows, write_rows
from threeshnet.installation import current_commit
from threeshnet.shards.manifest import open_shards

from ..common import composed, flops, module_command, surroundings, text_overrides, write_page

HERE = Path(__file__).parent
CASES = [(precision, compiled) for precision in ("32-true", "bf16-mixed") for compiled in (False, True)]
# Dense TFLOP/s of data sheets: NVIDIA A100 (2021), H100 SXM (2023), L4 (2023), RTX 4090 (Ada whitepaper, 2022). float32
# is that of the ordinary cores: torch's default does not round products to TF32.
PEAKS = {
    "A100": {"32-true": 19.5, "bf16-mixed": 312.0},
    "H100": {"32-true": 67.0, "bf16-mixed": 989.0},
    "L4": {"32-true": 30.3, "bf16-mixed": 121.0},
    "4090": {"32-true": 82.6, "bf16-mixed": 165.2},
}
COLUMNS = ("device", "precision", "compile", "batch", "dim", "text", "seconds_a_step", "pairs_a_second", "waiting")
COLUMNS += ("gpu_memory_gb", "main_memory_gb", "gflop_a_pair", "tflops", "product_tflops", "peak_tflops", "mfu")
COLUMNS += ("minutes", "torch", "commit")
KEY = ("device", "precision", "compile", "batch", "dim", "text")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "step.csv"
    rows = read_rows(file)
    for precision, compiled in CASES:
        key = {"device": device(), "precision": precision, "compile": str(compiled).lower()}
        key |= {name: str(getattr(options, name)) for name in ("batch", "dim", "text")}
        if compiled and options.no_compile:
            continue
        if not options.again and any(all(row[name] == key[name] for name in KEY) for row in rows):
            continue
        rows = [row for row in rows if any(row[name] != key[name] for name in KEY)]
        rows.append(key | measured(options, precision, compiled))
        write_rows(file, COLUMNS, rows)
    write_page(options.out)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--shards", type=Path, default=Path("data/gpu_step"), help="made when they are not there")
    parser.add_argument("--images", type=int, default=5000, help="of the shards: 0.2 MB each at full width")
    parser.add_argument("--width", type=int, default=2048, help="of a region")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--text", default="bert_base", help="bert_base (random weights), small or tiny")
    parser.add_argument("--epochs", type=int, default=2, help="the last one counts")
    parser.add_argument("--workers", type=int, default=4, help="that read the shards")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--again", action="store_true", help="measure rows that are there already")
    return parser.parse_args(arguments)


def measured(options: argparse.Namespace, precision: str, compiled: bool) -> dict[str, Any]:
    """A training by the command, and what it says of itself."""
    shards, overrides = made(options), settings(options)
    of_pair = flops_of_pair(shards, overrides)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        how = [f"trainer.precision={precision}", f"trainer.compile={str(compiled).lower()}", f"out={run}"]
        how += [f"trainer.max_epochs={options.epochs}", "highlights=0", "trainer.enable_progress_bar=false"]
        command("train", *overrides, f"shards={shards}", *how)
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        last = [row for row in read_rows(run / "log" / "metrics.csv") if row.get("time/step_seconds")][-1]
    seconds, pairs = float(last["time/step_seconds"]), options.batch
    speed, product = of_pair * pairs / seconds / 1e12, product_tflops(precision)
    peak = next((peaks[precision] for name, peaks in PEAKS.items() if name in device()), None)
    return {
        "seconds_a_step": f"{seconds:.4f}",
        "pairs_a_second": f"{pairs / seconds:.1f}",
        "waiting": f"{float(last['time/share_waiting_for_data']):.3f}",
        "gpu_memory_gb": metrics.get("peak_gpu_memory_gb", ""),
        "main_memory_gb": metrics["peak_memory_gb"],
        "gflop_a_pair": f"{of_pair / 1e9:.3f}",
        "tflops": f"{speed:.4f}",
        "product_tflops": f"{product:.3f}",
        "peak_tflops": "" if peak is None else peak,
        "mfu": f"{speed / (product if peak is None else peak):.3f}" if torch.cuda.is_available() else "",
        "minutes": f"{(time.perf_counter() - started) / 60:.1f}",
        "torch": torch.__version__,
        "commit": current_commit(),
    }


def settings(options: argparse.Namespace) -> list[str]:
    """The region experiment of COCO at the sizes asked for."""
    sizes = [f"dim={options.dim}", f"batches.batch_size={options.batch}", f"batches.workers={options.workers}"]
    return ["experiment=region_coco", *text_overrides(options.text), *sizes]


def made(options: argparse.Namespace) -> Path:
    """The synthetic shards, made once."""
    folder = options.shards / f"{options.images}x{options.width}"
    if not (folder / "synthetic" / "manifest.json").is_file():
        sizes = [f"images={options.images}", f"data.extractor.region_width={options.width}", "fields=[region,seg]"]
        command("data", "data=synthetic", *sizes, f"out={folder}", "progress=false")
    return folder / "synthetic"


def command(name: str, *overrides: str) -> None:
    subprocess.run(module_command("threeshnet", name, *overrides), check=True, env=surroundings())


def flops_of_pair(shards: Path, overrides: Sequence[str], pairs: int = 8) -> float:
    """Of a pair in a step, forwards and backwards, as torch counts matrix products, on captions as they are."""
    cfg = composed(*overrides)
    data = RetrievalDataModule(
        open_shards(shards, "synthetic"),
        tokenizer=instantiate(cfg.text.tokenizer),
        fields=["region", "seg"],
        splits=Splits(test=None),
        batches=BatchOptions(batch_size=pairs),
    )
    layout = data.manifest.layout
    cfg.sizes.region_width, cfg.sizes.classes = layout.region_width, layout.classes
    model, batch = instantiate(cfg.model).train(), next(iter(data.train_dataloader())).to("cpu")  # widens float16
    step = lambda: (model.image_encoder(batch.images).sum() + model.text_encoder(batch.captions).sum()).backward()  # noqa: E731
    return flops(step) / pairs


def product_tflops(precision: str) -> float:
    """What a matrix product reaches on this device in that precision, the best of some."""
    gpu = torch.cuda.is_available()
    side, where = (8192, "cuda") if gpu else (1024, "cpu")
    matrix = torch.randn(side, side, device=where, dtype=torch.bfloat16 if precision == "bf16-mixed" else torch.float32)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        matrix @ matrix
        if gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best / 1e12


def device() -> str:
    """The name of the device that trains."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {os.cpu_count()} cores, {platform.machine()}"


if __name__ == "__main__":
    main()
