"""Folders of tiny random models, as `save_pretrained` leaves them: one function a family of `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from threeshnet.features.backbone import BackboneGrid, ClipTokens, SiglipTokens
from threeshnet.features.detector import SigmoidDetector, SoftmaxDetector

CLASSES = 5
STAGES: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 2, 1]}
LAYERS: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
DETR_LAYERS: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "num_labels": CLASSES,
    "num_queries": 20,
}
DETR_SIZE = {"shortest_edge": 64, "longest_edge": 110}
SQUARE = {"height": 112, "width": 112}
CROP: dict[str, Any] = {"size": {"shortest_edge": 224}, "crop_pct": 0.875}
TEXT = {**LAYERS, "vocab_size": 20, "intermediate_size": 32}
VISION = {**LAYERS, "intermediate_size": 32, "image_size": 112, "patch_size": 16}
KINDS: dict[str, Any] = {"detr": SoftmaxDetector, "clip": ClipTokens, "siglip": SiglipTokens}
KINDS |= dict.fromkeys(("rtdetr", "conditional_detr"), SigmoidDetector)
Made = tuple[transformers.PreTrainedModel, Any]  # with its processor


def saved(model: transformers.PreTrainedModel, processor: Any, folder: Path) -> Path:
    """The folder with the model and the processor; weights are spread, so that other inputs give other outputs."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 or "embed" in name:
                weight.normal_(std=1.4 * weight[0].numel() ** -0.5 if weight.dim() > 2 else 0.5)
            elif "norm" in name and name.endswith("weight"):
                weight.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def rtdetr() -> Made:
    backbone = transformers.RTDetrResNetConfig(**STAGES, out_features=["stage2", "stage3", "stage4"])
    config = transformers.RTDetrConfig(
        **DETR_LAYERS,
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[12, 16, 20],
        decoder_in_channels=[16, 16, 16],
        num_denoising=0,
        decoder_n_points=2,
    )
    return transformers.RTDetrForObjectDetection(config), transformers.RTDetrImageProcessorPil(
        size={"height": 96, "width": 96}
    )


def detr() -> Made:
    config = transformers.DetrConfig(
        **DETR_LAYERS, backbone_config=transformers.ResNetConfig(**STAGES, out_features=["stage4"])
    )
    return transformers.DetrForObjectDetection(config), transformers.DetrImageProcessorPil(size=DETR_SIZE)


def conditional_detr() -> Made:
    config = transformers.ConditionalDetrConfig(
        **DETR_LAYERS, backbone_config=transformers.ResNetConfig(**STAGES, out_features=["stage4"])
    )
    return transformers.ConditionalDetrForObjectDetection(config), transformers.ConditionalDetrImageProcessorPil(
        size=DETR_SIZE
    )


def resnet() -> Made:
    return transformers.ResNetForImageClassification(
        transformers.ResNetConfig(**STAGES, num_labels=CLASSES)
    ), transformers.ConvNextImageProcessorPil(**CROP)


def convnext() -> Made:
    config = transformers.ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], num_labels=CLASSES)
    return transformers.ConvNextForImageClassification(config), transformers.ConvNextImageProcessorPil(**CROP)


def swin() -> Made:
    config = transformers.SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], num_labels=CLASSES)
    return transformers.SwinForImageClassification(config), transformers.ViTImageProcessorPil()


def dinov2() -> Made:
    processor = transformers.BitImageProcessorPil(size={"shortest_edge": 112}, crop_size={"height": 98, "width": 98})
    return transformers.Dinov2Model(transformers.Dinov2Config(**LAYERS, image_size=42, patch_size=14)), processor


def dinov3() -> Made:
    config = transformers.DINOv3ViTConfig(**LAYERS, intermediate_size=32, patch_size=16, num_register_tokens=2)
    return transformers.DINOv3ViTModel(config), transformers.ViTImageProcessorPil(
        size=SQUARE, image_mean=[0.4, 0.5, 0.6]
    )


def clip() -> Made:
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8))
    return model, transformers.CLIPImageProcessorPil(size={"shortest_edge": 112}, crop_size=SQUARE)


def siglip() -> Made:
    return transformers.SiglipModel(
        transformers.SiglipConfig(text_config=TEXT, vision_config=VISION)
    ), transformers.SiglipImageProcessorPil(size=SQUARE)


DETECTORS = {family.__name__: family for family in (rtdetr, detr, conditional_detr)}
GRIDS = {family.__name__: family for family in (resnet, convnext, swin, dinov2, dinov3, clip, siglip)}


def made(family: str, folder: Path) -> Path:
    """The folder of a tiny model of this family."""
    torch.manual_seed(0)
    return saved(*(DETECTORS | GRIDS)[family](), folder)


def build(family: str, folder: Path, **options: Any) -> Any:
    """The extractor of a family, from the folder of a model."""
    return KINDS.get(family, BackboneGrid)(name=folder, **options)
