"""The benchmarks of this folder, one after another: python -m experiments.benchmarks.streaming.bench.

Without `--folder` samples lie in a temporary folder and are removed afterwards; with one they are kept, and what was
measured is not measured again.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from ..common import module_command

STREAMING = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2_000, help="of 147,456 bytes each, in every format")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for the samples, of eight times their size")
    parser.add_argument("--out", type=Path, help="folder of the rows and tables; without it, this folder")
    parser.add_argument("--memory", type=int, default=20_000, help="images of the largest set whose memory is measured")
    given = parser.parse_args()
    out = given.out or STREAMING
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="threeshnet-bench-") as temporary:
        folder = given.folder or Path(temporary)
        sizes = ["--images", str(given.images), "--repeats", str(given.repeats)]
        call("compare", *sizes, "--folder", str(folder / "formats"), "--out", str(out))
        call("memory", "--most", str(given.memory), "--folder", str(folder / "memory"), "--out", str(out))
        call("order", "--out", str(out))


def call(script: str, *arguments: str) -> None:
    subprocess.run(module_command(f"experiments.benchmarks.streaming.{script}", *arguments), check=True)


if __name__ == "__main__":
    main()
