"""`make typecheck` as a test: it takes one core, and the other tests go on beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_pyright_finds_nothing(root: Path) -> None:
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
