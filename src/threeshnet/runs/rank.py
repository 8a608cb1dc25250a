"""The rank of this process, known before Lightning is loaded (loading it takes ten seconds)."""

from __future__ import annotations

import os

from lightning_utilities.core.rank_zero import rank_zero_only

# In Lightning's order (lightning_fabric.utilities.rank_zero): SLURM may set its own without starting several processes.
VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


def process_rank() -> int:
    """The rank that Lightning gives this process, or will give when it is loaded."""
    set_by_lightning = getattr(rank_zero_only, "rank", None)
    if set_by_lightning is not None:
        return set_by_lightning
    return next((int(os.environ[name]) for name in VARIABLES if name in os.environ), 0)
