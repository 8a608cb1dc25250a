"""EoMT, a plain vision transformer with queries (Kerssies et al., Your ViT is Secretly an Image Segmentation Model).

CVPR 2025. Its position codes are those of one square, so photos come padded to it.
"""

from __future__ import annotations

from types import MappingProxyType

from torch import Tensor
from torch.nn import functional

from threeshnet.features.panoptic import PanopticSegmentation


class EomtSegmentation(PanopticSegmentation):
    """EoMT as `PanopticSegmentation`: photos are padded below and right; the padding is cut off before the merge."""

    families = ("eomt", "eomt_dinov3")
    # split: into overlapping squares, which is for semantic segmentation
    unpadded = MappingProxyType({"do_pad": False, "do_split_image": False})

    def padded(self, pixels: Tensor) -> Tensor:
        """The pixels, black below and right up to the processor's square."""
        size = self.processor.size
        height, width = size.shortest_edge, size.longest_edge or size.shortest_edge  # as the library reads it
        below, right = max(height - pixels.shape[1], 0), max(width - pixels.shape[2], 0)
        return functional.pad(pixels, (0, right, 0, below))
