"""The rank of this process, known before Lightning is loaded, which takes ten seconds."""

from __future__ import annotations

import os

from lightning_utilities.core.rank_zero import rank_zero_only

# In Lightning's order (lightning_fabric.utilities.rank_zero): Slurm may set its own without starting several processes.
VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


def rank() -> int:
    """Of this process among those of the run: as Lightning counts it, or will when it is loaded."""
    told = getattr(rank_zero_only, "rank", None)
    return told if told is not None else next((int(os.environ[name]) for name in VARIABLES if name in os.environ), 0)
