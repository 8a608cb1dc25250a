"""Folders with tiny random segmenters, one function a family, as `save_pretrained` leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

from .tiny_models import Made

EDGES = {"shortest_edge": 64, "longest_edge": 128}  # pixels
QUERIES = 6
LAYER = {"layers": 1, "ffn_dim": 16, "attention_heads": 2}
DECODER: dict[str, Any] = {
    "num_queries": QUERIES,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 16,
    "dim_feedforward": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "th", "<|startoftext|>", "<|endoftext|>"]


def swin() -> transformers.SwinConfig:
    sizes: dict[str, Any] = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
    return transformers.SwinConfig(**sizes, image_size=64, out_features=["stage1", "stage2", "stage3", "stage4"])


def mask2former(**labels: Any) -> Made:
    sizes = {"feature_size": 32, "mask_feature_size": 32}
    config = transformers.Mask2FormerConfig(backbone_config=swin(), **sizes, **DECODER, **labels)
    processor = transformers.Mask2FormerImageProcessorPil(size=EDGES, size_divisor=32)
    return transformers.Mask2FormerForUniversalSegmentation(config), processor


def maskformer(**labels: Any) -> Made:
    layers: Any = {f"{half}_{what}": number for half in ("encoder", "decoder") for what, number in LAYER.items()}
    decoder = transformers.DetrConfig(d_model=16, num_queries=QUERIES, use_timm_backbone=False, **layers)
    sizes = {"fpn_feature_size": 32, "mask_feature_size": 32}
    config = transformers.MaskFormerConfig(backbone_config=swin(), decoder_config=decoder, **sizes, **labels)
    processor = transformers.MaskFormerImageProcessorPil(size=EDGES, size_divisor=32)
    return transformers.MaskFormerForInstanceSegmentation(config), processor


def oneformer(**labels: Any) -> Made:
    sizes = {"width": 32, "context_length": 8, "num_layers": 1, "vocab_size": len(WORDS), "n_ctx": 2}
    text = {f"text_encoder_{key}": size for key, size in sizes.items()} | {"task_seq_len": 8}
    config = transformers.OneFormerConfig(backbone_config=swin(), conv_dim=32, mask_dim=32, **text, **DECODER, **labels)
    return transformers.OneFormerForUniversalSegmentation(config), transformers.OneFormerImageProcessorPil(size=EDGES)


def eomt(**labels: Any) -> Made:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 8}
    sizes |= {"num_blocks": 1, "num_queries": QUERIES, "num_register_tokens": 1, "num_upscale_blocks": 1}
    processor = transformers.EomtImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 64}, do_pad=True)
    return transformers.EomtForUniversalSegmentation(transformers.EomtConfig(**sizes, **labels)), processor


FAMILIES = {family.__name__: family for family in (mask2former, maskformer, oneformer, eomt)}


def made(family: str, folder: Path, names: tuple[str, ...]) -> Path:
    """The folder of a tiny segmenter with these classes."""
    torch.manual_seed(0)
    numbers = {name: number for number, name in enumerate(names)}
    for part in FAMILIES[family](id2label=dict(enumerate(names)), label2id=numbers):
        part.save_pretrained(folder)
    if family == "oneformer":
        # As on the hub: the class table of the processor lies in a data set of its own, which nothing offline has.
        file = folder / "preprocessor_config.json"
        elsewhere = {"repo_path": "nobody/nothing", "class_info_file": "coco_panoptic.json"}
        file.write_text(json.dumps(json.loads(file.read_text()) | elsewhere))
        # A tokenizer of CLIP's kind that knows letters and `th`.
        (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(WORDS)}))
        (folder / "merges.txt").write_text("#version: 0.2\nt h\n")
    return folder
