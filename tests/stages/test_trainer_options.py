"""The options of `trainer.*`: what is refused, what half precision and compiling may touch, and all together."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from threeshnet.cli.door import compose_training
from threeshnet.errors import ConfigError
from threeshnet.nn.masking import unit
from threeshnet.nn.mlp import MLP
from threeshnet.objectives.triplet import TripletLoss
from threeshnet.records import Batch, ImageBatch, TokenSet
from threeshnet.training.module import RetrievalModule
from threeshnet.training.schedules import Optimization
from threeshnet.training.trainer_options import OURS, lightning_options, module_options

from ..forks import Forks

ROOT = Path(__file__).parents[2]
PROGRAM = "experiments.benchmarks.processes.options"


def asked(*overrides: str) -> dict[str, Any]:
    return compose_training(["experiment=region_demo", "trainer.accelerator=cpu", *overrides])[0].trainer


# ---- what may be asked


def test_lightning_gets_its_own_settings_alone() -> None:
    settings = lightning_options(asked("trainer.precision=bf16", "trainer.accumulate_grad_batches=2"))
    assert not set(OURS) & set(settings)
    assert (settings["precision"], settings["accumulate_grad_batches"]) == ("bf16-mixed", 2)
    assert lightning_options(asked())["precision"] == "32-true"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.precision=bf16-true", "weights kept in halves forget steps"),
        ("trainer.precision=8", "trainer.precision='8' does not exist; there are: auto, 32-true, bf16-mixed"),
        ("trainer.precision=16-mixed", "needs a GPU; on CPUs take bf16-mixed"),
        ("trainer.strategy=fsdp", "trainer.strategy='fsdp' does not exist; there are: auto, ddp"),
        ("trainer.strategy={_target_:lightning.DeepSpeed}", "nothing is gained by sharding them"),
        ("trainer.accumulate_grad_batches=0", "accumulate_grad_batches=0 must be at least 1"),
    ],
)
def test_what_is_not_tested_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as found:
        lightning_options(asked(override))
    assert said in str(found.value)
    assert "1 problem" in str(found.value)


def test_problems_are_said_at_once_and_a_ddp_strategy_with_options_of_its_own_passes() -> None:
    with pytest.raises(ConfigError, match="2 problems"):
        lightning_options(asked("trainer.strategy=fsdp", "trainer.precision=16-true"))
    strategy = "trainer.strategy={_target_:pytorch_lightning.strategies.DDPStrategy,process_group_backend:gloo}"
    assert lightning_options(asked(strategy))["strategy"]["process_group_backend"] == "gloo"


@pytest.mark.parametrize(("value", "backend"), [("false", None), ("null", None), ("true", "inductor"), ("eager",) * 2])
def test_compile_names_a_backend(value: str, backend: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", sys.executable)  # any program that is there
    assert module_options(asked(f"trainer.compile={value}"))["compile"] == backend


def test_compile_refuses_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"trainer.compile='indctor' does not exist; there are: true, .*inductor"):
        module_options(asked("trainer.compile=indctor"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler on CPUs: install g\+\+"):
        module_options(asked("trainer.compile=true"))


# ---- what they do


class Images(nn.ModuleDict):
    mlp: MLP

    def forward(self, images: ImageBatch) -> Tensor:
        assert images.regions is not None
        return unit(self.mlp(images.regions.values).mean(dim=1))


class Words(nn.Sequential):
    def forward(self, captions: TokenSet) -> Tensor:
        return unit(super().forward(captions.values).mean(dim=1))


class Witness(nn.Module):
    """An objective that keeps what it was given."""

    def forward(self, images: Tensor, captions: Tensor, owners: Tensor, epoch: int) -> dict[str, Tensor]:
        self.images, self.captions, self.similarity = images, captions, images @ captions.T
        return {"loss": self.similarity.sum()}


def module(objective: nn.Module, **options: Any) -> RetrievalModule:
    torch.manual_seed(0)
    sides = {"image_encoder": Images({"mlp": MLP(width=6, hidden=5, out=4)})}
    sides["text_encoder"] = Words(nn.Embedding(9, 4), nn.Linear(4, 4))
    made = RetrievalModule(
        model=nn.ModuleDict(sides),  # pyright: ignore[reportArgumentType]
        objective=objective,
        optimization=Optimization(torch.optim.SGD, torch.optim.lr_scheduler.StepLR, 0.1, 1.0),
        **options,
    )
    made.prepare()
    return made


def batch(pairs: int = 5) -> Batch:
    draw = torch.Generator().manual_seed(0)
    regions = TokenSet(torch.randn(pairs, 3, 6, generator=draw), torch.ones(pairs, 3).bool())
    words = TokenSet(torch.randint(0, 9, (pairs, 4), generator=draw), torch.ones(pairs, 4).bool())
    return Batch(ImageBatch(regions, None, None, None, None), words, torch.arange(pairs), torch.arange(pairs))


def test_the_loss_stays_in_float32_under_half_precision() -> None:
    """Embeddings have length 1, and similarities are not rounded to 3 digits: margins are told apart by less."""
    witness = Witness()
    mixed = module(witness)
    with torch.autocast("cpu", torch.bfloat16):
        assert mixed.model.image_encoder.mlp(torch.randn(2, 1, 6)).dtype == torch.bfloat16  # it does something
        mixed.loss(batch(), 0)["loss"].backward()
    assert witness.similarity.dtype == witness.images.dtype == torch.float32
    torch.testing.assert_close(witness.images.norm(dim=1), torch.ones(5), atol=1e-6, rtol=0)
    assert torch.equal(witness.similarity, witness.images @ witness.captions.T)
    assert all(weight.grad is not None and weight.grad.dtype == torch.float32 for weight in mixed.parameters())


def test_compiled_steps_leave_names_and_scores_as_they_are() -> None:
    plain = module(TripletLoss())
    compiled = module(TripletLoss(), compile="eager")
    assert list(compiled.state_dict()) == list(plain.state_dict())
    losses = []
    for each in (plain, compiled):
        numbers = each.loss(batch(), 0)
        numbers["loss"].backward()
        losses.append(numbers["loss"].item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for mine, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    assert type(compiled.model.image_encoder) is Images  # what is scored, saved and exported
    images = batch().images
    assert torch.equal(compiled.model.image_encoder(images), plain.model.image_encoder(images))
    copy.deepcopy(compiled.model)


def test_chunks_are_not_compiled() -> None:
    with pytest.raises(ConfigError, match=r"optimization.chunk=2 leaves the encoders halfway, trainer.compile=eager"):
        module(TripletLoss(), chunk=2, compile="eager")


# ---- together, in real processes


@pytest.fixture(scope="module")
def found(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("options")
    ended = forks.run(PROGRAM, ["--quick", "--backend=eager", f"--out={out}"], folder=out, seconds=900)
    assert ended.code == 0, ended.err[-5000:]
    return json.loads((out / "options.json").read_text())


def test_options_together_train_as_one_process_does(found: dict[str, Any]) -> None:
    """float32 to rounding; bf16 to its three digits, and what a tiny model makes of them."""
    ways = ("chunks of 5, ", "compiled, ", "")
    asked = {"32-true, chunks of 5, 2 batches a step", *(f"bf16-mixed, {way}2 batches a step" for way in ways)}
    assert {row["case"].removesuffix(", BatchNorm by shares") for row in found["N=2"]} == asked
    for row in [*found["N=1"], *found["N=2"]]:
        exact = row["precision"] == "32-true"
        assert row["batches"] == 3  # 16, 16 and 15 of 47 captions: the second step is of the last batch alone
        assert row["same_names"], row  # of the weights, and all of them in float32
        if row["sync"]:
            assert row["to_one"] < (1e-4 if exact else 2e-2), row
        assert row["to_plain"] < (1e-4 if exact else 0.2), row  # at width 12, and after three updates


def test_shares_of_batchnorm_are_another_step(found: dict[str, Any]) -> None:
    assert all(row["to_one"] > 1e-3 for row in found["N=2"] if not row["sync"])
