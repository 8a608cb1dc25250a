"""Detectors published with a ResNet from timm, read without timm.

DETR and Conditional DETR were uploaded with a backbone of the library timm and its names of weights. The network is
the ResNet of transformers (stride in the 3x3 convolution, as in torchvision), so that renaming is all there is to do.
"""

from __future__ import annotations

import copy
from typing import Any

from transformers import ResNetConfig

from threeshnet.errors import DataError

RESNETS: dict[str, dict[str, Any]] = {  # He et al., 2016, table 1
    "resnet18": {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]},
    "resnet34": {"layer_type": "basic", "depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 256, 512]},
    "resnet50": {"layer_type": "bottleneck", "depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048]},
    "resnet101": {"layer_type": "bottleneck", "depths": [3, 4, 23, 3], "hidden_sizes": [256, 512, 1024, 2048]},
}
LAST_STAGE: dict[str, Any] = {"out_features": ["stage4"]}
STAGE = r"encoder.stages.{stage}.layers.\1."
IN_STAGE = r"(encoder\.stages\.\d+\.layers\.\d+)"
TIMM_RESNET = {  # what is replaced in the names of weights, in this order
    r"backbone(.*)\.model\.conv1\.": r"backbone\1.model.embedder.embedder.convolution.",
    r"backbone(.*)\.model\.bn1\.": r"backbone\1.model.embedder.embedder.normalization.",
    **{rf"layer{stage + 1}\.(\d+)\.": STAGE.format(stage=stage) for stage in range(4)},
    **{rf"{IN_STAGE}\.conv{number + 1}\.": rf"\1.layer.{number}.convolution." for number in range(3)},
    **{rf"{IN_STAGE}\.bn{number + 1}\.": rf"\1.layer.{number}.normalization." for number in range(3)},
    rf"{IN_STAGE}\.downsample\.0\.": r"\1.shortcut.convolution.",
    rf"{IN_STAGE}\.downsample\.1\.": r"\1.shortcut.normalization.",
}


def without_timm(config: Any) -> Any:
    """The configuration of a detector with transformers' ResNet for timm's; the same one when it has no timm in it.

    Raises DataError for a backbone of timm that is not a plain ResNet.
    """
    backbone = getattr(config, "backbone_config", None)
    if getattr(backbone, "model_type", None) != "timm_backbone":
        return config
    found, stride = getattr(backbone, "backbone", None), getattr(backbone, "output_stride", None)
    if found not in RESNETS or stride not in (None, 32):
        raise DataError(
            f"backbone {found!r} of timm (output stride {stride or 32}); without timm there are {', '.join(RESNETS)} "
            "at stride 32: take another model or a revision without timm, such as extractor.revision=no_timm"
        )
    changed = copy.deepcopy(config)
    changed.backbone_config = ResNetConfig(**RESNETS[found], **LAST_STAGE)
    return changed
