"""Folders of models in their published sizes with random weights: they compute for as long as the trained ones.

Sizes are those of the configurations on the hub that conf/extractor and conf/segmentation name; what is not said here
is the default of `transformers`, which is the published size of that model.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

hf: Any = transformers  # the types of its configurations know the fields of their own class alone
CLASSES = 133  # of COCO panoptic
RESNET50: dict[str, Any] = {"out_features": ["stage4"]}
SWIN: dict[str, Any] = {"depths": [2, 2, 18, 2], "drop_path_rate": 0.0}
SWIN_BASE = SWIN | {"embed_dim": 128, "num_heads": [4, 8, 16, 32]}
SWIN_LARGE = SWIN | {"embed_dim": 192, "num_heads": [6, 12, 24, 48]}
STAGES: dict[str, Any] = {"out_features": [f"stage{number}" for number in range(1, 5)]}
STAGES |= {"window_size": 12, "image_size": 384}
EDGES: dict[str, Any] = {"shortest_edge": 800, "longest_edge": 1333}
MERGES = "#version: 0.2\nt h\n"


def processor(kind: str, **settings: Any) -> dict[str, Any]:
    """The content of preprocessor_config.json."""
    common = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "resample": 3, "do_normalize": True}
    normal = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    return common | normal | {"image_processor_type": kind} | settings


def cropped(side: int = 224) -> dict[str, Any]:
    square = {"height": side, "width": side}
    return {"size": {"shortest_edge": side}, "do_center_crop": True, "crop_size": square}


def rtdetr() -> tuple[Any, dict[str, Any]]:
    settings = processor("RTDetrImageProcessor", size={"height": 640, "width": 640}, do_normalize=False, resample=2)
    return hf.RTDetrForObjectDetection(hf.RTDetrConfig(num_labels=80)), settings


def detr() -> tuple[Any, dict[str, Any]]:
    config = hf.DetrConfig(backbone_config=hf.ResNetConfig(**RESNET50), num_labels=91)
    return hf.DetrForObjectDetection(config), processor("DetrImageProcessor", size=EDGES, resample=2)


def conditional_detr() -> tuple[Any, dict[str, Any]]:
    config = hf.ConditionalDetrConfig(backbone_config=hf.ResNetConfig(**RESNET50), num_labels=91)
    settings = processor("ConditionalDetrImageProcessor", size=EDGES, resample=2)
    return hf.ConditionalDetrForObjectDetection(config), settings


def resnet() -> tuple[Any, dict[str, Any]]:
    return hf.ResNetModel(hf.ResNetConfig()), processor("ConvNextImageProcessor", size={"shortest_edge": 224})


def convnext() -> tuple[Any, dict[str, Any]]:
    config = hf.ConvNextConfig(depths=[3, 3, 27, 3], hidden_sizes=[128, 256, 512, 1024])
    return hf.ConvNextModel(config), processor("ConvNextImageProcessor", size={"shortest_edge": 224})


def swin() -> tuple[Any, dict[str, Any]]:
    return hf.SwinModel(hf.SwinConfig(**SWIN_BASE)), processor("ViTImageProcessor", size={"height": 224, "width": 224})


def dinov2() -> tuple[Any, dict[str, Any]]:
    return hf.Dinov2Model(hf.Dinov2Config(image_size=518, patch_size=14)), processor("BitImageProcessor", **cropped())


def dinov3() -> tuple[Any, dict[str, Any]]:
    sizes: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
    config = hf.DINOv3ViTConfig(**sizes, num_attention_heads=12, num_register_tokens=4)
    return hf.DINOv3ViTModel(config), processor("DINOv3ViTImageProcessor", size={"height": 224, "width": 224})


def clip() -> tuple[Any, dict[str, Any]]:
    return hf.CLIPVisionModel(hf.CLIPVisionConfig()), processor("CLIPImageProcessor", **cropped())


def siglip() -> tuple[Any, dict[str, Any]]:
    settings = processor("SiglipImageProcessor", size={"height": 224, "width": 224})
    return hf.SiglipVisionModel(hf.SiglipVisionConfig()), settings


def mask2former() -> tuple[Any, dict[str, Any]]:
    backbone = hf.SwinConfig(**SWIN_BASE, **STAGES)
    model = hf.Mask2FormerForUniversalSegmentation(hf.Mask2FormerConfig(backbone_config=backbone, num_labels=CLASSES))
    return model, processor("Mask2FormerImageProcessor", size=EDGES, size_divisor=32, ignore_index=255, resample=2)


def maskformer() -> tuple[Any, dict[str, Any]]:
    backbone = hf.SwinConfig(**SWIN_BASE, **STAGES)
    model = hf.MaskFormerForInstanceSegmentation(hf.MaskFormerConfig(backbone_config=backbone, num_labels=CLASSES))
    return model, processor("MaskFormerImageProcessor", size=EDGES, size_divisor=32, ignore_index=255, resample=2)


def oneformer() -> tuple[Any, dict[str, Any]]:
    backbone = hf.SwinConfig(**SWIN_LARGE, **STAGES)
    config = hf.OneFormerConfig(backbone_config=backbone, num_labels=CLASSES)
    settings = processor("OneFormerImageProcessor", size=EDGES, ignore_index=255, resample=2)
    return hf.OneFormerForUniversalSegmentation(config), settings


def eomt() -> tuple[Any, dict[str, Any]]:
    size = {"shortest_edge": 640, "longest_edge": 640}
    settings = processor("EomtImageProcessor", size=size, do_pad=True, do_split_image=False, resample=2)
    return hf.EomtForUniversalSegmentation(hf.EomtConfig(num_labels=CLASSES)), settings


EXTRACTORS: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    made.__name__: made
    for made in (rtdetr, detr, conditional_detr, resnet, convnext, swin, dinov2, dinov3, clip, siglip)
}
SEGMENTATIONS: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    made.__name__: made for made in (mask2former, maskformer, oneformer, eomt)
}


def save(name: str, folder: Path) -> Path:
    """The model `name` in a folder, with what its extractor reads; made once."""
    if (folder / "preprocessor_config.json").is_file():
        return folder
    torch.manual_seed(0)
    model, settings = (EXTRACTORS | SEGMENTATIONS)[name]()
    model.save_pretrained(folder)
    if name == "oneformer":  # its task comes in words: letters are a vocabulary that tokenizes them
        letters = "abcdefghijklmnopqrstuvwxyz"
        entries = [*letters, *(f"{letter}</w>" for letter in letters), "th", "<|startoftext|>", "<|endoftext|>"]
        (folder / "vocab.json").write_text(json.dumps({entry: number for number, entry in enumerate(entries)}))
        (folder / "merges.txt").write_text(MERGES)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=1))
    return folder
