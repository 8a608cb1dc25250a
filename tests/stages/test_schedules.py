"""What changes within a run: the rate, and the mean of the weights."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import threeshnet
from threeshnet.errors import ConfigError
from threeshnet.training.averaging import AveragedWeights
from threeshnet.training.schedules import cosine, scheduled, steps_of_run

from .compared_runs import assert_equal, at_step, checkpoint

STEPS = 3  # an epoch of the captions of 10 images of `synthetic_shards` in batches of 16


OPTIMIZER = torch.optim.SGD([nn.Parameter(torch.zeros(1))])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (partial(AveragedWeights, decay=1.0), "averaging.decay=1.0"),
        (partial(cosine, OPTIMIZER, steps=9, warm_up_share=2), "warm_up_share=2"),
        (partial(cosine, OPTIMIZER, steps=math.inf), "trainer.max_epochs"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


# ---- the rate


@pytest.mark.parametrize(("steps", "warm_up"), [(10, 3), (7, 0), (20, 20)])
def test_the_rate_rises_in_a_line_and_falls_along_a_cosine(steps: int, warm_up: int) -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1], "lr": 2.0}, {"params": weights[1:], "lr": 0.2}])
    made = scheduled(partial(cosine, warm_up_share=warm_up / steps), optimizer, lambda: steps)
    assert made["interval"] == "step"
    rates = []
    for _ in range(steps + 1):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        made["scheduler"].step()
    for step, (new, old) in enumerate(rates):
        done = (step - warm_up) / max(steps - warm_up, 1)
        share = step / warm_up if step < warm_up else (1 + math.cos(math.pi * done)) / 2
        assert (new, old) == pytest.approx((2.0 * share, 0.2 * share), abs=1e-9)


def test_other_schedules_go_by_the_epoch_and_do_not_count_steps() -> None:
    by_epoch = partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[1])
    assert scheduled(by_epoch, OPTIMIZER, lambda: pytest.fail("asked"))["interval"] == "epoch"


@given(
    batches=st.integers(1, 9),
    epochs=st.integers(1, 4),
    accumulate=st.integers(1, 3),
    limit=st.sampled_from([None, 1, 2, 1.0, 0.5]),
    most=st.sampled_from([-1, 1, 5]),
)
def test_the_steps_of_a_run_are_those_that_are_taken(
    batches: int, epochs: int, accumulate: int, limit: float | None, most: int
) -> None:
    trainer = SimpleNamespace(
        max_epochs=epochs, max_steps=most, accumulate_grad_batches=accumulate, limit_train_batches=limit
    )
    taken = 0
    share = batches if limit is None else min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    for _ in range(epochs):
        for batch in range(1, share + 1):
            whole = batch % accumulate == 0 or batch == share
            taken += whole and (most == -1 or taken < most)
    assert steps_of_run(trainer, batches) == taken
    if share:
        trainer.max_epochs = -1  # Lightning's word for no end
        assert steps_of_run(trainer, batches) == (math.inf if most == -1 else most)


# ---- whole runs


OPTIONS = ["averaging=ema", "schedule=cosine", "objective=infonce", "warm_up_epochs=0.5"]
QUICK = ["fusion=[]", "parts=[local]", "batches.limit_train_images=10"]


@pytest.fixture(scope="module")
def train(command, synthetic_shards: Path, small: list[str]):
    def call(out: Path, *overrides: str) -> dict[str, Any]:
        settings = ["trainer.max_epochs=2", "highlights=0", "trainer.log_every_n_steps=1", *OPTIONS, *QUICK]
        where = [f"shards={synthetic_shards}", f"out={out}"]
        ended = command("train", "experiment=region_coco", *small, *settings, *where, *overrides)
        assert ended.code == 0, ended.err
        return json.loads((out / "metrics.json").read_text())

    return call


@pytest.fixture(scope="module")
def undisturbed(train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    train(out)
    return out


KEPT = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "global_step")


@pytest.mark.parametrize(("where", "step"), [("training", STEPS + 1), ("validation", STEPS)])
def test_a_run_with_these_options_is_resumed_exactly(
    train, undisturbed: Path, tmp_path: Path, where: str, step: int
) -> None:
    """Stopped where the rate, the share and the mean are on their way, and where the mean is in the weights' place."""

    def fail() -> None:
        raise ArithmeticError

    with at_step(step, fail, where), pytest.raises(ArithmeticError):
        train(tmp_path)
    assert train(tmp_path, "resume=true")["resumed_at_step"] == step
    for name in ("best", "last"):
        one, other = checkpoint(undisturbed, name), checkpoint(tmp_path, name)
        for key in KEPT:
            assert_equal(one[key], other[key], f"{name}: {key}")


def test_what_is_saved_and_scored_is_the_mean_of_every_step(
    train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand, from the weights and buffers after each step; in chunks, where BatchNorm is replaced after set-up."""
    after: list[dict[str, Tensor]] = []
    original = AveragedWeights.on_train_batch_end

    def watching(self: AveragedWeights, trainer: Any, module: Any, *rest: Any) -> None:
        after.append({name: value.detach().clone() for name, value in module.state_dict().items()})
        original(self, trainer, module, *rest)

    monkeypatch.setattr(AveragedWeights, "on_train_batch_end", watching)
    train(tmp_path / "run", "optimization.chunk=9", "averaging.decay=0.5", "trainer.max_epochs=1")
    mean = after[0]
    for step, weights in enumerate(after[1:], start=1):
        decay = min(0.5, (step + 1) / (step + 10))
        for name, value in weights.items():
            mean[name] = decay * mean[name] + (1 - decay) * value if value.is_floating_point() else value
    saved = checkpoint(tmp_path / "run", "best")["state_dict"]
    assert len(after) == STEPS
    assert saved.keys() == mean.keys()
    assert any("running_var" in name for name in saved)
    for name, value in mean.items():
        torch.testing.assert_close(saved[name], value, atol=1e-6, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    assert not torch.equal(saved["model.text_encoder.linear.weight"], after[-1]["model.text_encoder.linear.weight"])
    model = threeshnet.load_model(tmp_path / "run" / "checkpoints" / "best.ckpt")
    torch.testing.assert_close(model.text_encoder.linear.weight.detach(), saved["model.text_encoder.linear.weight"])
