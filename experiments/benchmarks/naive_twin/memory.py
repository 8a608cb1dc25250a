"""Peak memory of a training step, ours and the naive twin's: python -m experiments.benchmarks.naive_twin.memory

Each model takes its steps in a process of its own, on the batch of `stages.made_up`. That the two agree, and how long
their steps take, is a stage: make bench STAGE=step.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threeshnet.installation import current_commit

from ..common import in_own_process, peak_gb

NAMES = ("ours", "naive")
STEPS = 3


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", default="flickr8k", help="demo, flickr8k or coco")
    parser.add_argument("--small", action="store_true", help="sizes of a test")
    parser.add_argument("--only", choices=NAMES, help="one of the two, in this process")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("memory.json"))
    options = parser.parse_args(arguments)
    words = [f"--setting={options.setting}", *(["--small"] if options.small else [])]
    if options.only:
        found: Any = peak_of(options)
    else:
        found = {name: in_own_process(__spec__.name, f"--only={name}", *words) for name in NAMES}
        found = {"setting": options.setting, "peak_memory_gb": found, "commit": current_commit()}
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(found) + "\n")


def peak_of(options: argparse.Namespace) -> float:
    """Of this process after some steps of one model, GiB."""
    from ..stages.learning import steps  # the parent holds no torch: Linux hands its peak on
    from ..stages.made_up import SETTINGS, batch, models

    setting = SETTINGS[options.setting]
    setting = setting.small if options.small else setting
    step = steps(models(setting), batch(setting))[NAMES.index(options.only)]
    for _ in range(STEPS):
        step()
    return round(peak_gb(), 2)


if __name__ == "__main__":
    main()
