"""Stages of a training step: the objective, the optimizer, and one whole step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from threeshnet.objectives.triplet import TripletLoss
from threeshnet.training.module import RetrievalModule
from threeshnet.training.schedules import Optimization, parameter_groups

from ..naive_twin.naive import triplet_loss
from .made_up import SETTINGS, Models, batch, models, unit, without_dropout
from .stage import Case, Stage, World, copies, products

PAIRS, DIM = ("128 pairs", "512 pairs", "2048 pairs", "4096 pairs"), 1024
CLIP = 2.0  # norm of the gradients
HARDEST = 99.0  # an epoch in which, by every setting, the hardest negatives count alone


def objective(world: World, name: str, *, rows: int | None = None) -> Case:
    """Embeddings to the triplet loss of the hardest negatives, and back; `rows` images are compared at a time."""
    setting = world.settings.get(name)
    pairs, dim = (setting.batch, setting.dim) if setting else (world.count(int(name.split()[0]), 6), DIM)
    sides = [unit(pairs, dim, seed).requires_grad_() for seed in (0, 1)]
    loss, owners = TripletLoss(rows=rows), torch.arange(pairs)

    def back(value: Tensor) -> tuple[Tensor, ...]:
        return value.detach(), *torch.autograd.grad(value, sides)

    def ours() -> tuple[Tensor, ...]:
        return back(loss(*sides, owners, HARDEST)["loss"])

    return Case(pairs, ours, lambda: back(triplet_loss(sides[0], sides[1])), products(ours), "products")


def optimizer(world: World, name: str) -> Case:
    """Gradients are clipped and weights updated; the twin goes tensor by tensor, the floor copies three times."""
    model, _, settings = models(world.settings[name])
    twin, works = copy.deepcopy(model), []
    for side, options in ((model, {}), (twin, {"foreach": False})):
        draw = torch.Generator().manual_seed(3)
        for parameter in side.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        update = instantiate(settings.optimizer)(groups(side, settings), **options)

        def work(side: nn.Module = side, options: Any = options, update: Any = update) -> list[Tensor]:
            torch.nn.utils.clip_grad_norm_(side.parameters(), CLIP, **options)
            update.step()
            return list(side.parameters())

        works.append(work)
    weights = list(model.parameters())  # they, and the optimizer's two moments
    return Case(1, works[0], works[1], copies([weights, weights, weights]), "copy")


def groups(model: nn.Module, settings: Any) -> list[dict[str, Any]]:
    """The parameters of our model with the rates of its training."""
    rates = settings.optimization
    return parameter_groups(model, learning_rate=rates.learning_rate, pretrained_factor=rates.pretrained_factor)


class Step:
    """One model with its optimizer: forward, loss, backward, clip, update, as in training."""

    def __init__(self, model: nn.Module, loss: Callable[[], Tensor], update: Any) -> None:
        self.model, self.loss, self.update = model.train(), loss, update

    def __call__(self) -> None:
        self.update.zero_grad()
        self.loss().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.update.step()


def steps(found: Models, pairs: Any) -> tuple[Step, Step]:
    """A step of each model on these pairs."""
    model, twin, settings = found
    make, rates = instantiate(settings.optimizer), settings.optimization
    optimization = Optimization(make, instantiate(settings.schedule), rates.learning_rate, rates.pretrained_factor)
    module = RetrievalModule(model=model, objective=instantiate(settings.objective), optimization=optimization)
    if model.text_encoder.pretrained:
        twin.texts.pretrained_part = twin.texts.bert
    ours = Step(module, lambda: module.loss(pairs, HARDEST)["loss"], make(groups(module, settings)))
    return ours, Step(twin, lambda: triplet_loss(*twin(pairs)), make(groups(twin, settings)))


def step(world: World, name: str) -> Case:
    """A batch to updated weights."""
    setting = world.settings[name]
    ours, naive = steps(models(setting), batch(setting))
    ours.loss = world.in_precision(ours.loss)

    def same() -> tuple[Any, Any]:
        with without_dropout(ours.model, naive.model), torch.no_grad():
            losses = ours.loss(), naive.loss()
        ours()  # so that the optimizers' moments are there before the first turn
        naive()
        return losses

    floor = products(lambda: ours.loss().backward())  # without an update, which the twin would lack
    return Case(setting.batch, ours, naive, floor, "products", same=same, lower=True)


STAGES: dict[str, Stage] = {
    "objective": Stage(objective, (*SETTINGS, *PAIRS)),
    "optimizer": Stage(optimizer, SETTINGS),
    "step": Stage(step, SETTINGS),
}
