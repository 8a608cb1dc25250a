"""What every test can count on: no hub, no account, no screen, and the root of the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Before transformers, wandb and matplotlib are imported: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked loader workers warn otherwise

# Timing on a shared machine says nothing about the code; the same examples each time: a red run can be repeated.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout: `conf/`, `src/`, `Makefile`."""
    return Path(__file__).resolve().parents[1]
