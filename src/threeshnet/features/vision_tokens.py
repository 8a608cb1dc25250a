"""Grid cells from the vision towers of CLIP and SigLIP, which are no backbones in transformers."""

from __future__ import annotations

from torch import Tensor
from transformers import CLIPVisionModel, SiglipVisionModel

from threeshnet.features.backbone import SquareGrid


class ClipTokens(SquareGrid):
    """The patch tokens of CLIP (Radford et al., 2021), after the final norm and without the class token."""

    name = "clip tokens"
    network_class = CLIPVisionModel

    def feature_map(self, pixels: Tensor) -> Tensor:
        made = self.network(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
        # transformers gives the tower's norm to the class token alone
        return self.as_map(self.network.post_layernorm(made), pixels)


class SiglipTokens(SquareGrid):
    """The patch tokens of SigLIP (Zhai et al., 2023), after the final norm; there is no class token."""

    name = "siglip tokens"
    network_class = SiglipVisionModel

    def feature_map(self, pixels: Tensor) -> Tensor:
        made = self.network(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
        return self.as_map(made, pixels)
