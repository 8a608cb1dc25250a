"""Which parameters learn at which rate."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(module: nn.Module, *, learning_rate: float, pretrained_factor: float) -> list[dict[str, Any]]:
    """Two groups: new weights at `learning_rate`, a text encoder's `pretrained_part` at a share of it.

    The authors train BERT at a tenth of the rate (3SHNet, section 4.2). Weight decay is the same for all, as there.
    """
    trained = [getattr(part, "pretrained_part", None) for part in module.modules()]
    slow = {id(parameter) for part in trained if part is not None for parameter in part.parameters()}
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    new = [parameter for parameter in learning if id(parameter) not in slow]
    old = [parameter for parameter in learning if id(parameter) in slow]
    groups = [{"params": new, "lr": learning_rate, "name": "new"}]
    if old:
        groups.append({"params": old, "lr": learning_rate * pretrained_factor, "name": "pretrained"})
    return groups
