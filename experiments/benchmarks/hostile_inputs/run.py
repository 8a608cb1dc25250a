"""Runs every hostile input, keeps a row of each, and writes the table of outcomes into the README.

    python -m experiments.benchmarks.hostile_inputs.run              goes on where rows.csv ends
    python -m experiments.benchmarks.hostile_inputs.run --tables     only the table
    python -m experiments.benchmarks.hostile_inputs.run --cases "evaluate-checkpoint and 01"    pytest's -k

A row that is no success and no refusal is a fault of this suite; `make nightly ARGS="-k <id>"` makes it again. To run a
case anew, remove its row.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

from ..common import ROOT, write_page

HERE = Path(__file__).resolve().parent
ROWS = HERE / "rows.csv"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="run nothing")
    parser.add_argument("--cases", default="", help="pytest's -k")
    options = parser.parse_args()
    code = 0
    if not options.tables:
        words = ["-m", "nightly", "-q", "--tb=line", "-p", "no:cacheprovider", f"--hostile-rows={ROWS}"]
        words += ["-o", "tmp_path_retention_policy=failed"]
        code = int(pytest.main([str(ROOT / "tests" / "fuzz"), *words, "-k", options.cases]))
    write_page(HERE)
    return code


if __name__ == "__main__":
    sys.exit(main())
