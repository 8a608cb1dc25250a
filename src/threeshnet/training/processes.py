"""The end of a run in several processes."""

from __future__ import annotations

import torch.distributed as dist


def leave_together() -> None:
    """Waits for all processes, then closes what connects them.

    A process that exits while gloo's threads still run may be aborted after all its work is done.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
