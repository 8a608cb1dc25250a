"""Which parameters learn at which rate."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(module: nn.Module, *, learning_rate: float, pretrained_factor: float) -> list[dict[str, Any]]:
    """Two groups: new weights at `learning_rate`, pre-trained ones (a text encoder's `pretrained`) at a share of it.

    The authors train BERT at a tenth of the rate (3SHNet, section 4.2). Weight decay is the same for all, as there.
    """
    trained = [part.pretrained for part in module.modules() if isinstance(getattr(part, "pretrained", None), nn.Module)]
    slow = {id(parameter) for part in trained for parameter in part.parameters()}
    new = [parameter for parameter in module.parameters() if parameter.requires_grad and id(parameter) not in slow]
    old = [parameter for part in trained for parameter in part.parameters() if parameter.requires_grad]
    groups = [{"params": new, "lr": learning_rate, "name": "new"}]
    if old:
        groups.append({"params": old, "lr": learning_rate * pretrained_factor, "name": "pretrained"})
    return groups
