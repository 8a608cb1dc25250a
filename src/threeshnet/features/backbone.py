"""Grid cells from the last feature map of a backbone: ResNet, ConvNeXt, Swin, DINOv2, DINOv3 and more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING
from transformers.models.clip.modeling_clip import CLIPVisionModel
from transformers.models.siglip.modeling_siglip import SiglipVisionModel

from threeshnet.errors import ConfigError
from threeshnet.features.cells import Cells, as_cells, checked_cells
from threeshnet.features.extractor import Extractor, half
from threeshnet.features.huggingface import HubExtractor, architecture, loaded
from threeshnet.records import ImageArrays, Photo


class SquareGrid(HubExtractor):
    """Base of the extractors of a grid from an input of one size.

    A photo is squashed to that size and not cropped to its middle, as the processors of classifiers do: segmentation,
    boxes and captions are of the whole photo. `side`: pixels, null for the processor's; `cells`: a side of the grid,
    native for the map's own. More cells than the map has are refused, since they would be the same ones repeated.
    """

    able = ("grid",)
    network_class: Any

    def __init__(
        self,
        *,
        name: str | Path,
        revision: str | None = None,
        cells: Cells = 7,
        side: int | None = None,
        fields: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name=name, revision=revision, fields=fields)
        self.cells: Cells = checked_cells(cells)
        self.input_size = (side, side) if side else input_size(self.processor)
        self.network = self.build()
        self.grid_size = self._grid_size(side)
        self.options |= {"cells": cells, "input": f"{self.input_size[0]}x{self.input_size[1]}"}

    def build(self) -> Any:
        """The network, loaded from `self.folder`."""
        return loaded(self.network_class, self.folder)

    def feature_map(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W] to the map [B, D, h, w] that becomes the grid."""
        raise NotImplementedError

    def _grid_size(self, side: int | None) -> tuple[int, int]:
        with torch.inference_mode():  # a look at one empty photo: strides and patches have many names in the configs
            height, width = self.feature_map(torch.zeros(1, 3, *self.input_size)).shape[-2:]
        if self.cells == "native":
            return height, width
        if self.cells > min(height, width):
            raise ConfigError(
                f"cells={self.cells}: the map of {self.folder.name} has {height}x{width} cells at "
                f"side={side or max(self.input_size)}; choose fewer, or a larger side"
            )
        return self.cells, self.cells

    def load(self, photo: Photo, image: Image.Image | None) -> dict[str, Tensor]:
        assert image is not None
        height, width = self.input_size
        squashed = np.array(image.resize((width, height), Image.Resampling(self.processor.resample)))
        return {"pixels": torch.from_numpy(squashed).permute(2, 0, 1)}

    def collate(self, loaded: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        return Extractor.collate(self, loaded)

    def forward(self, inputs: Mapping[str, Any]) -> ImageArrays:
        feature_map = self.feature_map(self.normalized(inputs["pixels"]))
        return ImageArrays(grid=half(as_cells(feature_map, self.cells)))

    def as_map(self, tokens: Tensor, pixels: Tensor) -> Tensor:
        """Row-major patch tokens [B, h*w, D] of pixels [B, 3, H, W] to a map [B, D, h, w]."""
        patch = self.network.config.patch_size
        height, width = pixels.shape[-2] // patch, pixels.shape[-1] // patch
        return tokens.transpose(1, 2).unflatten(2, (height, width))


class BackboneGrid(SquareGrid):
    """The last feature map of anything that is an AutoBackbone in transformers."""

    name = "backbone"

    def build(self) -> Any:
        config: Any = architecture(self.folder)
        if type(config) not in MODEL_FOR_BACKBONE_MAPPING:
            raise ConfigError(
                f"{self.folder}: a {config.model_type} is no backbone in transformers; for CLIP and SigLIP there are "
                "extractor=clip and extractor=siglip"
            )
        last = config.stage_names[-1]
        config.out_features = [last]
        # Swin and ConvNeXt as backbones have a norm a stage, which published weights lack; for the last stage it is
        # the model's final norm, and would else be an untrained one.
        renamed = {r"^((?!embeddings)\w+\.)?layernorm\.": f"hidden_states_norms.{last}."}
        stage_norms = config.model_type in ("swin", "swinv2", "convnext", "convnextv2")
        # not AutoBackbone.from_pretrained: that asks the hub about the folder's path
        kind = MODEL_FOR_BACKBONE_MAPPING[type(config)]
        return loaded(kind, self.folder, config=config, renamed=renamed if stage_norms else None)

    def feature_map(self, pixels: Tensor) -> Tensor:
        return self.network(pixels).feature_maps[-1]


def input_size(processor: Any) -> tuple[int, int]:
    """Height and width in pixels that a model of fixed input gets from its processor; ConfigError when it has none."""
    size, crop = dict(processor.size or {}), dict(getattr(processor, "crop_size", None) or {})
    for size_options in (crop if getattr(processor, "do_center_crop", False) else {}, size):
        if size_options.get("height") and size_options.get("width"):
            return size_options["height"], size_options["width"]
        if size_options.get("shortest_edge") and not size_options.get("longest_edge"):
            return size_options["shortest_edge"], size_options["shortest_edge"]
    raise ConfigError(f"size={size} of the image processor is not one size; say it: extractor.side=224")


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
