"""Folders of tiny random models, as `save_pretrained` leaves them: one function a family of `transformers`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    ConditionalDetrConfig,
    ConditionalDetrForObjectDetection,
    ConvNextConfig,
    ConvNextForImageClassification,
    DetrConfig,
    DetrForObjectDetection,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
    SiglipConfig,
    SiglipModel,
    SwinConfig,
    SwinForImageClassification,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.conditional_detr.image_processing_pil_conditional_detr import (
    ConditionalDetrImageProcessorPil,
)
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

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
}


def saved(model: PreTrainedModel, processor: Any, folder: Path) -> Path:
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


def rtdetr(folder: Path) -> Path:
    torch.manual_seed(0)
    backbone = RTDetrResNetConfig(**STAGES, out_features=["stage2", "stage3", "stage4"])
    config = RTDetrConfig(
        **DETR_LAYERS,
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[12, 16, 20],
        decoder_in_channels=[16, 16, 16],
        num_queries=20,
        num_denoising=0,
        decoder_n_points=2,
    )
    return saved(RTDetrForObjectDetection(config), RTDetrImageProcessorPil(size={"height": 96, "width": 96}), folder)


def detr(folder: Path) -> Path:
    torch.manual_seed(0)
    config = DetrConfig(**DETR_LAYERS, backbone_config=ResNetConfig(**STAGES, out_features=["stage4"]), num_queries=20)
    processor = DetrImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 110})
    return saved(DetrForObjectDetection(config), processor, folder)


def conditional_detr(folder: Path) -> Path:
    torch.manual_seed(0)
    config = ConditionalDetrConfig(
        **DETR_LAYERS, backbone_config=ResNetConfig(**STAGES, out_features=["stage4"]), num_queries=20
    )
    processor = ConditionalDetrImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 110})
    return saved(ConditionalDetrForObjectDetection(config), processor, folder)


def resnet(folder: Path) -> Path:
    torch.manual_seed(0)
    model = ResNetForImageClassification(ResNetConfig(**STAGES, num_labels=CLASSES))
    return saved(model, ConvNextImageProcessorPil(size={"shortest_edge": 224}, crop_pct=0.875), folder)


def convnext(folder: Path) -> Path:
    torch.manual_seed(0)
    config = ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], num_labels=CLASSES)
    processor = ConvNextImageProcessorPil(size={"shortest_edge": 224}, crop_pct=0.875)
    return saved(ConvNextForImageClassification(config), processor, folder)


def swin(folder: Path) -> Path:
    torch.manual_seed(0)
    config = SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], num_labels=CLASSES)
    return saved(SwinForImageClassification(config), ViTImageProcessorPil(), folder)


def dinov2(folder: Path) -> Path:
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**LAYERS, image_size=42, patch_size=14))
    processor = BitImageProcessorPil(size={"shortest_edge": 112}, crop_size={"height": 98, "width": 98})
    return saved(model, processor, folder)


def dinov3(folder: Path) -> Path:
    torch.manual_seed(0)
    config = DINOv3ViTConfig(**LAYERS, intermediate_size=32, patch_size=16, num_register_tokens=2)
    processor = ViTImageProcessorPil(size={"height": 112, "width": 112}, image_mean=[0.4, 0.5, 0.6])
    return saved(DINOv3ViTModel(config), processor, folder)


def clip(folder: Path) -> Path:
    torch.manual_seed(0)
    text = {**LAYERS, "vocab_size": 20, "intermediate_size": 32}
    vision = {**LAYERS, "intermediate_size": 32, "image_size": 112, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    size = {"height": 112, "width": 112}
    return saved(model, CLIPImageProcessorPil(size={"shortest_edge": 112}, crop_size=size), folder)


def siglip(folder: Path) -> Path:
    torch.manual_seed(0)
    text = {**LAYERS, "vocab_size": 20, "intermediate_size": 32}
    vision = {**LAYERS, "intermediate_size": 32, "image_size": 112, "patch_size": 16}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    return saved(model, SiglipImageProcessorPil(size={"height": 112, "width": 112}), folder)


DETECTORS: dict[str, Callable[[Path], Path]] = {"rtdetr": rtdetr, "detr": detr, "conditional_detr": conditional_detr}
GRIDS: dict[str, Callable[[Path], Path]] = {
    "resnet": resnet,
    "convnext": convnext,
    "swin": swin,
    "dinov2": dinov2,
    "dinov3": dinov3,
    "clip": clip,
    "siglip": siglip,
}
