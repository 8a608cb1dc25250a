"""Stages of the model: each encoder in training and in evaluation, GPO and VSpM alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from threeshnet.fusion.spatial import SpatialFusion
from threeshnet.pooling.generalized import GeneralizedPooling
from threeshnet.records import TokenSet

from ..naive_twin.naive import GPO, NaiveImages
from .made_up import SETTINGS, Setting, batch, models, without_dropout
from .stage import Case, Stage, World, copies, products

SCENE_AND_CATEGORY = 50  # tokens that are pooled beside the local and the fused ones
PLACES = {"query": "query", "places.conv": "conv", "places.norm": "norm", "out": "out"}  # ours: the twin's spatial_…
Encode = Callable[[], Tensor]


def images(world: World, name: str, *, training: bool) -> Case:
    """Features to embeddings, and back in training."""
    setting = world.settings[name]
    (model, naive, _), photos = models(setting), batch(setting).images
    ours = partial(model.image_encoder if training else model.encode_images, photos)
    sides = model.train(training).image_encoder, naive.images
    return encoding(world, setting, sides, (ours, partial(naive.encode_images, photos)), training=training)


def texts(world: World, name: str, *, training: bool) -> Case:
    """Wordpiece ids to embeddings, and back in training."""
    setting = world.settings[name]
    (model, naive, _), captions = models(setting), batch(setting).captions
    sides = model.text_encoder, naive.texts
    return encoding(world, setting, sides, tuple(partial(side, captions) for side in sides), training=training)


def gpo(world: World, name: str, *, training: bool = True) -> Case:
    """Pools the set of a batch, and back in training; the floor copies the set."""
    setting = world.settings[name]
    ours, naive = GeneralizedPooling(), GPO()
    naive.load_state_dict(ours.state_dict())
    mask = guided_tokens(setting).mask
    mask = torch.cat([mask, mask, torch.ones(len(mask), SCENE_AND_CATEGORY, dtype=torch.bool)], dim=1)
    values = torch.randn(*mask.shape, setting.dim, requires_grad=True)
    encode = partial(ours, TokenSet(values, mask)), partial(naive, values, mask)
    case = encoding(world, setting, (ours, naive), encode, training=training)
    return case._replace(floor=copies(values), floor_name="copy")


def vspm(world: World, name: str) -> Case:
    """Every token attends over the segmentation map, and back."""
    setting = world.settings[name]
    ours = SpatialFusion(classes=setting.classes, dim=setting.dim)
    naive = NaiveImages(width=1, dim=setting.dim, classes=setting.classes)
    for path, place in PLACES.items():
        naive.get_submodule(f"spatial_{place}").load_state_dict(ours.get_submodule(path).state_dict())
    photos: Any = batch(setting).images
    values, mask = guided_tokens(setting)
    encode = partial(ours, TokenSet(values, mask), photos), partial(naive.where, values, mask, photos.seg_map)
    return encoding(world, setting, (ours, naive), encode)


def guided_tokens(setting: Setting) -> TokenSet:
    """Projected tokens [B, N, D] of the setting's first branch."""
    photos: Any = batch(setting).images
    mask = (photos.regions or photos.grid).mask
    return TokenSet(torch.randn(*mask.shape, setting.dim, requires_grad=True), mask)


def encoding(world: World, setting: Setting, sides: Any, encode: Any, *, training: bool = True) -> Case:
    """A case of one part of both models; in training, it goes back from the same gradient each time."""
    ours, naive = (run(side.train(training), one, training) for side, one in zip(sides, encode, strict=True))
    ours = world.in_precision(ours)

    def same() -> tuple[Any, Any]:
        with without_dropout(*sides):
            return (ours(), gradient_norm(sides[0])), (naive(), gradient_norm(sides[1]))

    # In training, BatchNorm and the softmax over places are summed in another order, which gradients amplify.
    tolerance = 5e-3 if training else 1e-3
    return Case(setting.batch, ours, naive, products(ours), "products", tolerance, same, lower=True)


def run(side: nn.Module, encode: Encode, training: bool) -> Encode:
    def work() -> Tensor:
        side.zero_grad()
        with torch.set_grad_enabled(training):
            embeddings = encode()
        if training:
            towards = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(7))
            embeddings.backward(towards.to(embeddings.dtype))
        return embeddings.detach().float()

    return work


def gradient_norm(side: nn.Module) -> Tensor:
    gradients = [parameter.grad for parameter in side.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())


STAGES: dict[str, Stage] = {
    "image_training": Stage(partial(images, training=True), SETTINGS),
    "image_evaluation": Stage(partial(images, training=False), SETTINGS),
    "text_training": Stage(partial(texts, training=True), SETTINGS),
    "text_evaluation": Stage(partial(texts, training=False), SETTINGS),
    "gpo": Stage(gpo, SETTINGS),
    "vspm": Stage(vspm, SETTINGS),
}
