"""What the benchmarks share: rows that grow, models without trained weights, memory, and processes of their own.

Every benchmark is a module and runs from the repository's folder: python -m experiments.benchmarks.<page>.<program>
Heavy imports stand in functions: Linux lets a process begin with the peak memory of the one that started it.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from threeshnet.installation import CONF

ROOT = Path(__file__).resolve().parents[2]
PEAK_UNIT = 1 if sys.platform == "darwin" else 1024  # macOS counts the peak of a process in bytes, Linux in KiB
BERT_BASE = ("hidden_size=768", "num_hidden_layers=12", "num_attention_heads=12", "intermediate_size=3072")


# ---- models


def composed(
    *overrides: str, command: str = "train", region_width: int | None = None, classes: int | None = None
) -> Any:
    """The settings of a command, with the sizes that a manifest would give."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = compose(command, list(overrides))
    if region_width is not None:
        settings.sizes.region_width = region_width
    if classes is not None:
        settings.sizes.classes = classes
    return settings


def text_overrides(name: str) -> list[str]:
    """A text encoder by name; `bert_base` has the paper's sizes and random weights, so nothing is downloaded."""
    if name != "bert_base":
        return [f"text={name}"]
    return ["text=small", *(f"text.encoder.bert.{size}" for size in BERT_BASE)]


def flops(work: Callable[[], Any]) -> float:
    """Floating point operations of the matrix products in `work`, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        work()
    return counter.get_total_flops()


# ---- machine


def processor() -> str:
    """The class of processor, without its name."""
    import torch

    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def peak_gb(who: int = resource.RUSAGE_SELF) -> float:
    """Peak memory of this process so far, or of its children, GiB."""
    return resource.getrusage(who).ru_maxrss * PEAK_UNIT / 2**30


# ---- rows


def add_row(file: Path, columns: Sequence[str], row: Mapping[str, Any]) -> None:
    """Appends a row; a measurement that was cut goes on from its rows."""
    new = not file.is_file()
    with file.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        if new:
            writer.writeheader()
        writer.writerow(row)


def show_and_write(result: Mapping[str, Any], out: str | None) -> None:
    """Prints a measurement as JSON, and writes it to the file `out` where one is given."""
    from rich.console import Console

    Console().print_json(json.dumps(result))
    if out:
        Path(out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def write_page(folder: Path) -> None:
    """README.md of a benchmark's rows, where its template lies beside them; `make report` does the same."""
    from threeshnet.reports import pages

    template = folder / (pages.README + pages.TEMPLATE)
    if template.is_file():
        pages.write_page(template, pages.Rows(folder))


# ---- processes


def module_command(module: str, *arguments: str) -> list[str]:
    """The command of a benchmark, for a process of its own."""
    return [sys.executable, "-m", module, *arguments]


def surroundings() -> dict[str, str]:
    """The environment in which benchmarks find each other and the configuration, whatever the folder."""
    paths = [str(ROOT), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "THREESHNET_CONF": str(CONF)}


def in_own_process(module: str, *arguments: str) -> Any:
    """Runs a benchmark in a process of its own; returns the JSON in the last line that it prints."""
    command = module_command(module, *arguments)
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=surroundings())
    if ended.returncode:
        raise SystemExit(f"{module} {' '.join(arguments)}: exit code {ended.returncode}")
    return json.loads(ended.stdout.splitlines()[-1])


def fork(folder: Path, work: Callable[[], Any]) -> int:
    """Starts `work` in a fork of this process, in `folder` and a process group of its own; returns its id.

    Its output is appended to log.txt. The libraries are imported once, and a kill reaches all that it starts.
    """
    folder.mkdir(exist_ok=True)
    if process := os.fork():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(process, process)  # here too: a kill may come before the child has done so
        return process
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        work()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)  # nothing of the parent may be closed twice


def finish(process: int) -> int:
    """Waits for a process; its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def has_ended(process: int) -> bool:
    """Whether a process has ended; `finish` still gives its exit code."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def family(process: int) -> Iterator[int]:
    """A process and all its descendants, on Linux."""
    yield process
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from family(int(child))


def proportional_bytes(*kinds: str) -> int:
    """Memory of this process and its descendants, shared pages counted once. `kinds` name lines of smaps_rollup."""
    total = 0
    for process in family(os.getpid()):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith(kinds))
    return total
