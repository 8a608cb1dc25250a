"""Robustness tests: inputs are changed on purpose, and the score shows whether the model uses them.

The score of a model that uses its guidance falls with a wrong or noisy segmentation. One that uses positions falls with
a shuffled map, and one that reads more than a bag of words falls with swapped words. Each perturbation is a pure
function of its input and a generator.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from threeshnet.errors import ConfigError, DataError, one_of
from threeshnet.records import VOID, ImageBatch, TokenSet

SEGMENTATION = ("seg_semantic", "seg_map", "seg_categories")
SHARE = 0.5  # of the tokens, cells or classes that are changed
Perturb = Callable[[ImageBatch, torch.Generator], ImageBatch]


def drop_regions(images: ImageBatch, generator: torch.Generator, *, share: float = SHARE) -> ImageBatch:
    """Drops each region and grid cell with probability `share`, and keeps at least one of each.

    >>> regions = TokenSet(torch.ones(1, 4, 2), torch.ones(1, 4, dtype=torch.bool))
    >>> batch = ImageBatch(regions, None, None, None, None)
    >>> drop_regions(batch, torch.Generator(), share=1.0).regions.lengths
    tensor([1])
    """
    regions, region_boxes = _dropped(images.regions, images.region_boxes, generator, share)
    grid, grid_boxes = _dropped(images.grid, images.grid_boxes, generator, share)
    return images._replace(regions=regions, grid=grid, region_boxes=region_boxes, grid_boxes=grid_boxes)


def swap_segmentation(images: ImageBatch, generator: torch.Generator) -> ImageBatch:
    """Gives each image the segmentation of another image of the batch, each used once.

    Raises DataError for a batch of one image.
    """
    count = next(len(field.mask if isinstance(field, TokenSet) else field) for field in images if field is not None)
    if count < 2:
        raise DataError(
            "perturb='swap_segmentation' needs two images in every batch, and one batch has a single image; "
            "take another batch_size"
        )
    # A random cycle through all images: the next one is never the image itself.
    order = torch.randperm(count, generator=generator)
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    return _changed(images, **dict.fromkeys(SEGMENTATION, lambda field: field[other.to(field.device)]))


def noisy_segmentation(images: ImageBatch, generator: torch.Generator, *, share: float = SHARE) -> ImageBatch:
    """Adds noise to every field of the segmentation; `share` is its strength.

    A `share` of the map's cells takes a random class. The scene becomes a mixture with random class probabilities, with
    weight `share`. Each category is replaced, with probability `share`, by that of a random image of the batch.
    """
    classes = _classes(images)
    return _changed(
        images,
        seg_map=lambda cells: _noisy_map(cells, classes, generator, share),
        seg_semantic=lambda scene: _noisy_scene(scene, generator, share),
        seg_categories=lambda categories: _mixed(categories, generator, share),
    )


def shuffle_map(images: ImageBatch, generator: torch.Generator) -> ImageBatch:
    """Permutes the cells of each image's map: the same classes and areas at other positions."""
    if images.seg_map is None:
        return images
    flat = images.seg_map.flatten(1)
    order = torch.rand(flat.shape, generator=generator).argsort(dim=1).to(flat.device)
    return images._replace(seg_map=flat.gather(1, order).view_as(images.seg_map))


def blank_segmentation(images: ImageBatch, _: torch.Generator) -> ImageBatch:
    """Removes all information from the segmentation: uniform probabilities, a map of void, no category."""
    return _changed(
        images,
        seg_semantic=lambda scene: torch.full_like(scene, 1 / scene.shape[1]),
        seg_map=lambda cells: torch.full_like(cells, VOID),
        seg_categories=torch.zeros_like,
    )


IMAGE_PERTURBATIONS: dict[str, Perturb] = {
    "drop_regions": drop_regions,
    "swap_segmentation": swap_segmentation,
    "noisy_segmentation": noisy_segmentation,
    "shuffle_map": shuffle_map,
    "blank_segmentation": blank_segmentation,
}


def swap_words(caption: str, generator: np.random.Generator) -> str:
    """Swaps two different words; a caption with one distinct word stays as it is.

    >>> swap_words("dog bites", np.random.default_rng(0))
    'bites dog'
    """
    words = caption.split()
    if len(set(words)) < 2:
        return caption
    while True:
        one, other = generator.choice(len(words), size=2, replace=False)
        if words[one] != words[other]:
            words[one], words[other] = words[other], words[one]
            return " ".join(words)


def shuffle_words(caption: str, generator: np.random.Generator) -> str:
    """Puts all words in random order, which leaves a bag of words.

    >>> sorted(shuffle_words("a dog bites a man", np.random.default_rng(0)).split())
    ['a', 'a', 'bites', 'dog', 'man']
    """
    words = caption.split()
    return " ".join(words[number] for number in generator.permutation(len(words)))


CAPTION_PERTURBATIONS: dict[str, Callable[[str, np.random.Generator], str]] = {
    "swap_words": swap_words,
    "shuffle_words": shuffle_words,
}


def check_perturbation(name: str) -> None:
    """Raises ConfigError for a name that is no perturbation of images or captions."""
    names = (*IMAGE_PERTURBATIONS, *CAPTION_PERTURBATIONS)
    if name not in names:
        raise ConfigError(one_of("perturb", name, names))


class Perturbed(nn.Module):
    """An image encoder that gets perturbed images; the draws follow from `seed` and the order of the batches."""

    def __init__(self, *, encoder: nn.Module, perturb: Perturb, seed: int = 0) -> None:
        super().__init__()
        self.encoder, self.perturb = encoder, perturb
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, images: ImageBatch) -> Tensor:
        return self.encoder(self.perturb(images, self.generator))


def _dropped(
    tokens: TokenSet | None, boxes: Tensor | None, generator: torch.Generator, share: float
) -> tuple[TokenSet | None, Tensor | None]:
    """The kept tokens in their order, padded with zeros as by collation, and their boxes."""
    if tokens is None:
        return None, None
    mask = tokens.mask.cpu()
    drawn = torch.rand(mask.shape, generator=generator).masked_fill(~mask, -1.0)
    kept = (drawn >= share) | ((drawn == drawn.amax(dim=1, keepdim=True)) & mask)
    order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)
    kept = kept.gather(1, order)[:, : max(int(kept.sum(dim=1).max()), 1)]
    order = order[:, : kept.shape[1]].to(tokens.values.device)
    kept = kept.to(tokens.values.device)
    taken = [
        None if rows is None else rows.gather(1, order.unsqueeze(2).expand(-1, -1, rows.shape[2])) * kept.unsqueeze(2)
        for rows in (tokens.values, boxes)
    ]
    assert taken[0] is not None
    return TokenSet(taken[0], kept), taken[1]


def _noisy_map(cells: Tensor, classes: int, generator: torch.Generator, share: float) -> Tensor:
    chosen = torch.rand(cells.shape, generator=generator) < share
    drawn = torch.randint(classes, cells.shape, generator=generator)
    return torch.where(chosen.to(cells.device), drawn.to(cells.device, cells.dtype), cells)


def _noisy_scene(scene: Tensor, generator: torch.Generator, share: float) -> Tensor:
    """Normalised exponential draws are uniform over all class mixtures."""
    drawn = -torch.log(torch.rand(scene.shape, generator=generator).clamp(min=1e-7))
    mixture = (drawn / drawn.sum(dim=1, keepdim=True)).to(scene.device, scene.dtype)
    return (1 - share) * scene + share * mixture


def _mixed(categories: Tensor, generator: torch.Generator, share: float) -> Tensor:
    chosen = torch.rand(categories.shape, generator=generator) < share
    donors = torch.randint(len(categories), categories.shape, generator=generator)
    return torch.where(chosen.to(categories.device), categories.gather(0, donors.to(categories.device)), categories)


def _changed(images: ImageBatch, **changes: Callable[[Tensor], Tensor]) -> ImageBatch:
    """Each named field changed by its function where the batch has it."""
    there = {name: getattr(images, name) for name in changes}
    return images._replace(**{name: changes[name](field) for name, field in there.items() if field is not None})


def _classes(images: ImageBatch) -> int:
    """C, from the fields that have it; from a map alone, the largest class that occurs plus one."""
    for field in (images.seg_semantic, images.seg_categories):
        if field is not None:
            return field.shape[1]
    if images.seg_map is None:
        return 1
    real = images.seg_map[images.seg_map != VOID]
    return int(real.max()) + 1 if len(real) else 1
